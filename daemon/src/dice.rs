//! Numbers that look random and are the same for the same seed on every machine (xorshift): jitter in life, worlds in
//! simulations. Nothing that has to be secret may come from here.

/// A sequence of numbers that its seed decides.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The sequence of a seed, any number.
    #[must_use]
    pub const fn seeded(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A whole number from 0 to one less than `sides`, which is not 0.
    pub const fn roll(&mut self, sides: u64) -> u64 {
        self.next() % sides
    }

    /// The same for sizes and places in lists.
    pub fn pick(&mut self, sides: usize) -> usize {
        usize::try_from(self.roll(sides as u64)).unwrap_or_default()
    }

    /// From 0 to 1.
    pub fn part(&mut self) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "any number will do")]
        let part = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_the_sequence() {
        let draw = |seed| {
            let mut dice = Dice::seeded(seed);
            [dice.roll(6), dice.roll(100), dice.roll(1000)]
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn numbers_stay_within_their_bounds() {
        let mut dice = Dice::seeded(0);
        for _ in 0..10_000 {
            assert!(dice.roll(6) < 6 && dice.pick(3) < 3 && (0.0..1.0).contains(&dice.part()));
        }
    }
}
