//! What every command has to have, and what a page that lists them has to say. The tests of both command lines hold them
//! to it; manual pages are written from the same walk.

use clap::Command;

/// A screen: no command's help is longer, in lines of 80 columns.
pub const SCREEN: usize = 48;

/// The words of every command that is not hidden, the program's own name first.
#[must_use]
pub fn paths(root: &Command) -> Vec<Vec<String>> {
    fn walk(command: &Command, before: &[String], found: &mut Vec<Vec<String>>) {
        let path = [before, &[command.get_name().to_owned()]].concat();
        found.push(path.clone());
        for inner in command.get_subcommands() {
            if !inner.is_hide_set() && inner.get_name() != "help" {
                walk(inner, &path, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(root, &[], &mut found);
    found
}

/// The command of these words, as [`paths`] gives them.
#[must_use]
pub fn find<'a>(root: &'a Command, words: &[String]) -> &'a Command {
    let inner = words.iter().skip(1);
    inner.fold(root, |command, word| command.find_subcommand(word).unwrap_or(command))
}

/// What `--help` prints for it, on 80 columns.
#[must_use]
pub fn help(root: &Command, words: &[String]) -> String {
    let line = words.iter().map(String::as_str).chain(["--help"]);
    let asked = root.clone().term_width(80).try_get_matches_from(line);
    asked.map_or_else(|shown| shown.to_string(), |_| String::new())
}

/// What is wrong with the help of commands: longer than a screen, without an example, or with one that cannot be typed.
/// The command must not have been built yet, for then its width is fixed.
#[must_use]
pub fn problems(root: &Command) -> Vec<String> {
    let mut problems = Vec::new();
    for words in paths(root) {
        let name = words.join(" ");
        let help = help(root, &words);
        let lines = help.lines().count();
        if lines > SCREEN {
            problems.push(format!("{name}: its help has {lines} lines, of {SCREEN}"));
        }
        // A line for how it is used is never broken.
        let mut broken = help.lines().filter(|line| !line.starts_with("Usage:"));
        if let Some(line) = broken.find(|line| line.chars().count() > 80) {
            problems.push(format!("{name}: its help has a line of more than 80 columns: {line}"));
        }
        let examples = examples(root, &words);
        if examples.is_empty() {
            problems.push(format!("{name}: its help has no example"));
        }
        for example in examples {
            if !example.starts_with(&name) {
                problems.push(format!("{name}: `{example}` is an example of something else"));
            }
            if let Err(error) = root.clone().try_get_matches_from(split(&example)) {
                problems.push(format!("{name}: `{example}` cannot be typed: {error}"));
            }
        }
    }
    problems
}

/// The command lines of its examples.
fn examples(root: &Command, words: &[String]) -> Vec<String> {
    let after = find(root, words).get_after_help().map(ToString::to_string);
    let lines = after.unwrap_or_default();
    let program = format!("{} ", root.get_name());
    lines
        .lines()
        .skip_while(|line| !line.starts_with("Example"))
        .map(|line| line.trim_start_matches("Example:").trim().to_owned())
        .filter(|line| line.starts_with(&program))
        .collect()
}

/// The words of a line as a shell splits them; quotes keep spaces.
fn split(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for letter in line.chars() {
        match (quote, letter) {
            (Some(open), letter) if letter == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            (_, letter) => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

/// What a page that has a table row `` | `command` | what it is for | `` for each command lacks, and rows for none.
#[must_use]
pub fn differences(root: &Command, page: &str) -> Vec<String> {
    let row = |words: &Vec<String>| {
        let about = find(root, words).get_about().map(ToString::to_string);
        format!("| `{}` | {} |", words.join(" "), about.unwrap_or_default())
    };
    let wanted: Vec<String> = paths(root).iter().map(row).collect();
    let program = format!("| `{}", root.get_name());
    let written = page.lines().filter(|line| {
        let rest = line.strip_prefix(&program);
        rest.is_some_and(|rest| rest.starts_with([' ', '`']))
    });
    let written: Vec<&str> = written.collect();
    let missing = wanted.iter().filter(|row| !written.contains(&row.as_str()));
    let missing = missing.map(|row| format!("missing: {row}"));
    let unknown = written.iter().filter(|row| !wanted.iter().any(|wanted| wanted == *row));
    missing.chain(unknown.map(|row| format!("unknown: {row}"))).collect()
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    fn tool() -> Command {
        Command::new("tool")
            .about("Does things")
            .after_help("Example: tool do 'a b'")
            .subcommand(
                Command::new("do")
                    .about("Does it")
                    .arg(Arg::new("what").required(true))
                    .after_help("Example: tool do 'a b'"),
            )
            .subcommand(Command::new("old").hide(true))
    }

    #[test]
    fn a_sound_tool_has_no_problems() {
        assert_eq!(problems(&tool()), Vec::<String>::new());
    }

    #[test]
    fn what_is_wrong_is_found() {
        let spoilt = tool()
            .mut_subcommand("do", |inner| inner.after_help("Example: tool do a b c"))
            .subcommand(Command::new("bare"))
            .subcommand(
                Command::new("long")
                    .about("word ".repeat(700))
                    .after_help("Example: tool do x"),
            );
        let problems = problems(&spoilt);
        for part in [
            "cannot be typed",
            "bare: its help has no example",
            "long: its help has ",
            "something else",
        ] {
            assert!(
                problems.iter().any(|problem| problem.contains(part)),
                "{part}: {problems:#?}"
            );
        }
    }

    #[test]
    fn a_page_is_held_to_the_commands() {
        let page = "| `tool` | Does things |\n| `tool do` | Does it all |\n| `toolbox` | is another |\n";
        assert_eq!(
            differences(&tool(), page),
            [
                "missing: | `tool do` | Does it |",
                "unknown: | `tool do` | Does it all |"
            ]
        );
    }

    #[test]
    fn lines_are_split_as_a_shell_does() {
        assert_eq!(split(r#"a 'b c' d="e f" ''"#), ["a", "b c", "d=e f", ""]);
    }
}
