//! What zygotes and workers print: one log event a line, and the last lines kept for the report of a failed start.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;

/// A longer line is cut here, in bytes.
const LONGEST_LINE: usize = 4096;

/// How many lines are kept.
const KEPT: usize = 20;

/// The last lines that a process printed; clones share them.
#[derive(Debug, Clone, Default)]
pub struct LastLines(Arc<Mutex<VecDeque<String>>>);

impl LastLines {
    fn push(&self, line: String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == KEPT {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// The lines as one text.
    #[must_use]
    pub fn text(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

/// Logs what a process prints, line by line, until it closes its output. Gives the end that becomes its output.
///
/// # Errors
/// When the process has no descriptors left.
pub fn capture(who: String) -> io::Result<(OwnedFd, LastLines)> {
    let (reader, writer) = io::pipe()?;
    let mut reader = pipe::Receiver::from_owned_fd(reader.into())?;
    let lines = LastLines::default();
    let kept = lines.clone();
    tokio::spawn(async move {
        let mut line = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let read = match reader.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(read) => read,
            };
            for &byte in &buffer[..read] {
                if byte == b'\n' {
                    log(&who, &kept, &line);
                    line.clear();
                } else if line.len() < LONGEST_LINE {
                    line.push(byte);
                }
            }
        }
        log(&who, &kept, &line);
    });
    Ok((writer.into(), lines))
}

fn log(who: &str, kept: &LastLines, line: &[u8]) {
    let line = String::from_utf8_lossy(line);
    let line = line.trim_end();
    if !line.is_empty() {
        tracing::info!(target: "qgis", process = who, "{line}");
        kept.push(line.to_owned());
    }
}
