//! Completions for shells, and manual pages, made from the commands themselves.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{exit, reference};

/// `completions SHELL`
#[derive(Debug, clap::Args)]
pub struct Completions {
    /// Which shell
    shell: Shell,
}

impl Completions {
    /// Prints them.
    #[must_use]
    pub fn print<T: CommandFactory>(&self) -> ExitCode {
        let mut command = T::command();
        let name = command.get_name().to_owned();
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut command, name, &mut text);
        crate::say(&String::from_utf8_lossy(&text));
        ExitCode::SUCCESS
    }
}

/// `man [DIR]`
#[derive(Debug, clap::Args)]
pub struct Man {
    /// Where to write a page for each command; without it, the first page is printed
    dir: Option<PathBuf>,
}

impl Man {
    /// Prints or writes them.
    ///
    /// # Errors
    /// When the folder cannot be made or written.
    pub fn run<T: CommandFactory>(&self) -> anyhow::Result<ExitCode> {
        match &self.dir {
            Some(dir) => write::<T>(dir)?,
            None => {
                crate::say(&String::from_utf8_lossy(&page(whole::<T>())?));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn whole<T: CommandFactory>() -> clap::Command {
    let mut command = T::command();
    command.build();
    command
}

fn page(command: clap::Command) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    clap_mangen::Man::new(command).render(&mut text)?;
    text.extend_from_slice(b".SH EXIT STATUS\n");
    for (code, means) in exit::CODES {
        text.extend_from_slice(format!(".TP\n{code}\n{}\n", means.replace('`', "")).as_bytes());
    }
    Ok(text)
}

fn write<T: CommandFactory>(dir: &Path) -> anyhow::Result<()> {
    use anyhow::Context as _;
    std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let whole = whole::<T>();
    for words in reference::paths(&whole) {
        let name = words.join("-");
        let command = reference::find(&whole, &words).clone();
        let file = dir.join(format!("{name}.1"));
        std::fs::write(&file, page(command)?).with_context(|| file.display().to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    /// Does things.
    #[derive(Debug, Parser)]
    #[command(name = "tool")]
    enum Tool {
        /// Does it
        Do {
            /// What
            what: String,
        },
        /// Not for people
        #[command(hide = true)]
        Old,
    }

    #[test]
    fn each_command_has_a_page_but_hidden_ones() {
        let dir = tempfile::tempdir().unwrap();
        let man = Man {
            dir: Some(dir.path().join("man")),
        };
        man.run::<Tool>().unwrap();
        let mut names: Vec<_> = std::fs::read_dir(dir.path().join("man"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["tool-do.1", "tool.1"]);
        let text = std::fs::read_to_string(dir.path().join("man/tool-do.1")).unwrap();
        assert!(text.contains("Does it") && text.contains("EXIT STATUS"), "{text}");
    }
}
