//! When the running control plane reads its configuration again: with SIGHUP, and when one of its files has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use control_plane::serve::live::{Cause, Live};
use notify::{RecursiveMode, Watcher as _};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// How long after a change of the file more is awaited: editors write in several steps.
const SETTLE: Duration = Duration::from_millis(300);

/// How often it is looked at which files the configuration has.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Starts both. They end with the process.
///
/// # Errors
/// When the process may not set a signal handler.
pub fn start(live: &Live) -> anyhow::Result<()> {
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    let signalled = live.clone();
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            signalled.reload(Cause::Signal).await;
        }
    });
    tokio::spawn(watch(live.clone()));
    Ok(())
}

/// Watches the files' directories, for editors and orchestrators put a fresh file in the old one's place.
async fn watch(live: Live) {
    let (tell, mut told) = mpsc::channel(1);
    let heard = move |_: notify::Result<notify::Event>| {
        // One that is not read yet says as much.
        let _ = tell.try_send(());
    };
    let mut watcher = match notify::recommended_watcher(heard) {
        Ok(watcher) => watcher,
        Err(error) => {
            tracing::warn!(%error, "changes of the configuration's files are not noticed; send SIGHUP after one");
            return;
        }
    };
    let mut watched = BTreeSet::new();
    let mut known = contents(live.files().await);
    loop {
        for dir in known.keys().map(|file| dir_of(file)) {
            if watched.insert(dir.to_owned())
                && let Err(error) = watcher.watch(dir, RecursiveMode::NonRecursive)
            {
                tracing::warn!(%error, dir = %dir.display(), "changes of configuration files there are not noticed; send SIGHUP after one");
            }
        }
        // A change by another way may have named other files.
        let _ = tokio::time::timeout(LOOK_AGAIN, told.recv()).await;
        tokio::time::sleep(SETTLE).await;
        let now = contents(live.files().await);
        let changed = differs(&known, &now);
        known = now
            .into_iter()
            .map(|(file, text)| {
                let before = known.remove(&file).flatten();
                (file, text.or(before))
            })
            .collect();
        if changed {
            live.reload(Cause::File).await;
        }
    }
}

/// What was read of files, those that could be.
type Contents = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// Whether there is something to be read again. A file that was not known may have changed since it was first named; one that is
/// away for a moment is about to come back.
fn differs(known: &Contents, now: &Contents) -> bool {
    now.iter()
        .any(|(file, text)| text.is_some() && known.get(file) != Some(text))
}

fn dir_of(file: &Path) -> &Path {
    match file.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

fn contents(files: Vec<PathBuf>) -> Contents {
    let read = |file: PathBuf| {
        let text = std::fs::read(&file).ok();
        (file, text)
    };
    files.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_just_named_may_have_changed_since() {
        let of = |files: &[(&str, Option<&str>)]| -> Contents {
            let files = files.iter();
            files
                .map(|(file, text)| (PathBuf::from(file), text.map(|text| text.as_bytes().to_vec())))
                .collect()
        };
        let known = of(&[("a", Some("1"))]);
        assert!(!differs(&known, &known));
        assert!(differs(&known, &of(&[("a", Some("2"))])));
        assert!(!differs(&known, &of(&[("a", None)])), "away for a moment");
        assert!(differs(&known, &of(&[("a", Some("1")), ("b", Some("1"))])), "new");
        assert!(!differs(&known, &of(&[("a", Some("1")), ("b", None)])));
        assert!(!differs(&known, &of(&[])), "no longer named");
    }
}
