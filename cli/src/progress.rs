//! How long work gets on: a bar on standard error while that is a terminal, and lines that stay either way.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a bar shows that something still happens.
const TICK: Duration = Duration::from_millis(200);

/// Work under way. It leaves nothing behind on the terminal.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Work of so many steps; one or none: it only shows that it goes on, and for how long. Without a word for it, nothing
    /// is shown.
    #[must_use]
    pub fn new(steps: usize, what: &str) -> Self {
        // It draws nothing where that is no terminal.
        let target = if what.is_empty() {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let bar = ProgressBar::with_draw_target(Some(steps as u64), target);
        bar.set_style(style(steps));
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(TICK);
        Self { bar }
    }

    /// One step is done.
    pub fn step(&self) {
        self.bar.inc(1);
    }

    /// So many steps are to be done and done.
    pub fn at(&self, done: usize, steps: usize) {
        if self.bar.length() != Some(steps as u64) {
            self.bar.set_style(style(steps));
            self.bar.set_length(steps as u64);
        }
        self.bar.set_position(done as u64);
    }

    /// A line for standard output, above the bar.
    pub fn say(&self, line: &str) {
        self.bar.suspend(|| crate::say(line));
    }

    /// A line for standard error, above the bar.
    pub fn complain(&self, line: &str) {
        self.bar.suspend(|| crate::complain(line));
    }
}

/// A bar where there are steps to count.
fn style(steps: usize) -> ProgressStyle {
    let template = if steps > 1 {
        "{spinner} {msg} {wide_bar} {pos}/{len} {elapsed}"
    } else {
        "{spinner} {msg} {elapsed}"
    };
    // The templates are sound; the default stands in for nothing.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_and_draws_nothing_without_a_terminal() {
        let progress = Progress::new(2, "asking");
        progress.step();
        assert_eq!((progress.bar.position(), progress.bar.length()), (1, Some(2)));
        progress.at(3, 4);
        assert_eq!((progress.bar.position(), progress.bar.length()), (3, Some(4)));
        assert_eq!(progress.bar.message(), "asking");
    }
}
