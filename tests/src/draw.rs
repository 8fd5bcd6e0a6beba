//! Numbers drawn by lot from a seed, so that every run and every side of a comparison gets the same ones.

/// A sequence of numbers that its seed decides (`SplitMix64`).
#[derive(Debug, Clone)]
pub struct Draw(u64);

impl Draw {
    /// The sequence of a seed.
    #[must_use]
    pub const fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// At least 0, below 1.
    pub fn part(&mut self) -> f64 {
        // 32 bits are exact in a float and fine enough for what is drawn here.
        f64::from(u32::try_from(self.next() >> 32).unwrap()) / 4_294_967_296.0
    }

    /// A whole number below `most`.
    pub fn below(&mut self, most: u32) -> u32 {
        let wide = (self.next() >> 32) * u64::from(most);
        u32::try_from(wide >> 32).unwrap()
    }
}

/// How often each of so many things is chosen.
#[derive(Debug, Clone)]
pub struct Spread(Vec<f64>);

impl Spread {
    /// Each as often as any other.
    #[must_use]
    pub fn even(count: u32) -> Self {
        Self::zipf(count, 0.0)
    }

    /// The first most often, the n-th in proportion to n to the power of `-exponent`.
    #[must_use]
    pub fn zipf(count: u32, exponent: f64) -> Self {
        let weights = (1..=count).map(|rank| f64::from(rank).powf(-exponent));
        let sums = weights.scan(0.0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        });
        Self(sums.collect())
    }

    /// Chooses one, counted from 0.
    ///
    /// # Panics
    /// When there is nothing to choose from.
    pub fn pick(&self, draw: &mut Draw) -> usize {
        let at = draw.part() * self.0.last().unwrap();
        self.0.partition_point(|sum| *sum <= at).min(self.0.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often each is chosen of 60,000.
    fn counts(spread: &Spread, seed: u64) -> Vec<u32> {
        let mut draw = Draw::seeded(seed);
        let mut counts = vec![0; spread.0.len()];
        for _ in 0..60_000 {
            counts[spread.pick(&mut draw)] += 1;
        }
        counts
    }

    #[test]
    fn an_even_spread_is_even() {
        for count in counts(&Spread::even(200), 7) {
            assert!((200..400).contains(&count), "{count}");
        }
    }

    #[test]
    fn a_zipf_spread_halves_from_the_first_to_the_second() {
        let counts = counts(&Spread::zipf(200, 1.0), 7);
        // 60,000 over the 200th harmonic number, 5.878.
        assert!((9_800..10_600).contains(&counts[0]), "{}", counts[0]);
        assert!((4_800..5_400).contains(&counts[1]), "{}", counts[1]);
        assert!(counts[199] > 0 && counts[199] < 120, "{}", counts[199]);
    }

    #[test]
    fn a_seed_decides_everything() {
        let spread = Spread::even(10);
        assert_eq!(counts(&spread, 1), counts(&spread, 1));
        assert_ne!(counts(&spread, 1), counts(&spread, 2));
        let mut draw = Draw::seeded(3);
        assert!((0..10_000).all(|_| draw.below(5) < 5));
        assert!((0..10_000).all(|_| (0.0..1.0).contains(&draw.part())));
    }
}
