//! Log lines as systemd's journal wants them: it knows the time itself, and takes the level from a number at the line's
//! beginning.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Writes `<6>target: message fields`, a line of the journal for each line.
#[derive(Debug, Clone)]
pub struct Journal(Format<Full, ()>);

impl Default for Journal {
    fn default() -> Self {
        Self(Format::default().without_time().with_level(false).with_ansi(false))
    }
}

/// The journal's number for a level, as syslog has them.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut text = String::new();
        self.0.format_event(context, Writer::new(&mut text), event)?;
        let priority = priority(*event.metadata().level());
        text.trim_end()
            .lines()
            .try_for_each(|line| writeln!(writer, "<{priority}>{line}"))
    }
}

/// Whether standard error leads to the journal, by `JOURNAL_STREAM`.
#[must_use]
pub fn listens() -> bool {
    let stderr = std::fs::metadata("/proc/self/fd/2").map(|file| (file.dev(), file.ino()));
    stderr.is_ok_and(|stderr| names(std::env::var("JOURNAL_STREAM").ok().as_deref(), stderr))
}

/// Whether the variable names this file. It stays in the environment when standard error is led elsewhere.
fn names(variable: Option<&str>, (device, inode): (u64, u64)) -> bool {
    variable.is_some_and(|text| text == format!("{device}:{inode}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(text);
            Ok(text.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_have_a_priority_and_no_time() {
        let lines = Lines::default();
        let made = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::TRACE)
            .event_format(Journal::default())
            .with_writer(move || made.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!(target: "t", "two\nlines");
            tracing::warn!(target: "t", answer = 42, "odd");
            tracing::info!(target: "t", "fine");
            tracing::debug!(target: "t", "detail");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(
            text,
            "<3>t: two\n<3>lines\n<4>t: odd answer=42\n<6>t: fine\n<7>t: detail\n"
        );
    }

    #[test]
    fn the_journal_listens_only_when_it_names_the_very_file() {
        assert!(names(Some("8:42"), (8, 42)));
        for other in [None, Some(""), Some("8:43"), Some("42:8")] {
            assert!(!names(other, (8, 42)), "{other:?}");
        }
    }
}
