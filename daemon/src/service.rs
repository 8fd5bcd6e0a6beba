//! What a daemon tells the service manager that started it, as systemd's `sd_notify` has it: that it is ready, how it is
//! doing, that it stops, and that it is alive. Without `NOTIFY_SOCKET` in the environment nothing is told.
//!
//! systemd kills a service whose watchdog is not fed. So what feeds it asks the daemon's own heart whether it beats.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// How long the heart may take to answer, in parts of the time between two feeds.
const PART: u32 = 2;

/// The daemon can serve; with a line that `systemctl status` shows.
pub fn ready(line: &str) {
    tell(&format!("READY=1\n{}", status_of(line)));
}

/// How the daemon is doing, on a line.
pub fn status(line: &str) {
    tell(&status_of(line));
}

/// The daemon stops.
pub fn stopping(line: &str) {
    tell(&format!("STOPPING=1\n{}", status_of(line)));
}

/// A word is a line: a second one would be another word.
fn status_of(line: &str) -> String {
    format!("STATUS={}\n", line.replace('\n', " "))
}

fn tell(words: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    if let Err(error) = send(&socket, words) {
        tracing::warn!(%error, "the service manager could not be told; see NOTIFY_SOCKET");
    }
}

/// Sends a message to a socket at a path, or after an `@` at an abstract name.
fn send(socket: &OsStr, words: &str) -> io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(words.as_bytes(), &address)?;
    Ok(())
}

/// Feeds the service manager's watchdog, when it has one, for as long as `alive` answers in time. Does not return then.
pub async fn watchdog<F: Future<Output = bool>>(alive: impl Fn() -> F) {
    let variable = |name| std::env::var(name).ok();
    let (limit, whose) = (variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"));
    if let Some(limit) = limit_of(limit.as_deref(), whose.as_deref(), std::process::id()) {
        feed(limit, alive, || tell("WATCHDOG=1\n")).await;
    }
}

/// How long the service manager waits for a sign of life of this process, when it does.
fn limit_of(microseconds: Option<&str>, whose: Option<&str>, own: u32) -> Option<Duration> {
    let microseconds = microseconds?.parse().ok().filter(|&number: &u64| number > 0)?;
    let ours = whose.is_none_or(|pid| pid == own.to_string());
    ours.then(|| Duration::from_micros(microseconds))
}

async fn feed<F: Future<Output = bool>>(limit: Duration, alive: impl Fn() -> F, mut fed: impl FnMut()) {
    let every = limit / 3;
    loop {
        match tokio::time::timeout(every / PART, alive()).await {
            Ok(true) => fed(),
            Ok(false) => tracing::error!("the daemon does not answer itself; the watchdog is not fed"),
            Err(_) => tracing::error!("the daemon does not answer itself in time; the watchdog is not fed"),
        }
        tokio::time::sleep(every).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn the_watchdog_is_fed_while_the_heart_beats() {
        let (beats, fed) = (AtomicU32::new(0), AtomicU32::new(0));
        let enough = tokio::sync::Notify::new();
        let alive = || {
            let beat = beats.fetch_add(1, Ordering::SeqCst);
            if beat == 7 {
                enough.notify_one();
            }
            async move {
                match beat {
                    0..3 => true,
                    3 => false,
                    _ => std::future::pending().await,
                }
            }
        };
        let feeding = feed(Duration::from_millis(600), alive, || {
            fed.fetch_add(1, Ordering::SeqCst);
        });
        tokio::select! {
            () = feeding => {}
            () = enough.notified() => {}
        }
        assert_eq!(fed.load(Ordering::SeqCst), 3, "three beats, a no, and then silence");
    }

    #[test]
    fn the_watchdog_is_the_one_of_this_process() {
        let minute = Some(Duration::from_secs(60));
        assert_eq!(limit_of(Some("60000000"), None, 7), minute);
        assert_eq!(limit_of(Some("60000000"), Some("7"), 7), minute);
        for (limit, whose) in [
            (None, None),
            (Some("0"), None),
            (Some("x"), None),
            (Some("1"), Some("8")),
        ] {
            assert_eq!(limit_of(limit, whose, 7), None, "{limit:?} {whose:?}");
        }
    }

    #[test]
    fn words_reach_a_socket_at_a_path_or_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let name = format!("graticule-test-{}", std::process::id());
        let named = SocketAddr::from_abstract_name(&name).unwrap();
        let at_path = UnixDatagram::bind(&path).unwrap();
        let at_name = UnixDatagram::bind_addr(&named).unwrap();
        let hear = |socket: &UnixDatagram| {
            let mut buffer = [0; 100];
            let size = socket.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..size].to_vec()).unwrap()
        };
        send(path.as_os_str(), &status_of("two\nlines")).unwrap();
        assert_eq!(hear(&at_path), "STATUS=two lines\n");
        send(OsStr::new(&format!("@{name}")), "READY=1\n").unwrap();
        assert_eq!(hear(&at_name), "READY=1\n");
        assert!(send(dir.path().join("nobody").as_os_str(), "READY=1\n").is_err());
    }
}
