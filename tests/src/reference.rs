//! References of configurations, as `config reference` prints them.

/// The same with its examples in use: lines that begin with `#` and no space are without it.
#[must_use]
pub fn with_examples(text: &str) -> String {
    let used = |line: &str| match line.strip_prefix('#') {
        Some(example) if !example.is_empty() && !example.starts_with(' ') => format!("{example}\n"),
        _ => format!("{line}\n"),
    };
    text.lines().map(used).collect()
}
