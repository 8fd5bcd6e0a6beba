//! A configuration that is fetched from a URL when the daemon starts, and the last good copy for when that is down.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::document::Format;
use super::error::ConfigError;
use crate::redact;

/// How long a fetch may take in all.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest document that is read, in bytes.
pub const MAX_DOCUMENT: usize = 1 << 20;

/// Whether this names a URL and no file.
#[must_use]
pub fn is_url(name: &str) -> bool {
    name.starts_with("http://") || name.starts_with("https://")
}

/// Where the last good copies of fetched configurations are kept: in the service manager's state directory, else below the
/// user's own, as the XDG Base Directory Specification has it.
#[must_use]
pub fn kept_in(variables: &[(String, String)]) -> Option<PathBuf> {
    let absolute = |name: &str| {
        let found = variables.iter().find(|(variable, _)| variable == name);
        let first = found.and_then(|(_, dirs)| dirs.split(':').next());
        first.map(PathBuf::from).filter(|dir| dir.is_absolute())
    };
    let state = absolute("STATE_DIRECTORY").or_else(|| absolute("XDG_STATE_HOME"));
    let state = state.or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    state.map(|state| state.join("graticule-config"))
}

/// What a URL gave, or the copy of what it gave before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fetched {
    /// Where it came from, for people.
    pub name: String,
    /// The document.
    pub text: String,
    /// How it is written.
    pub format: Format,
    /// Why it is a copy, when it is one.
    pub warning: Option<String>,
    copy: Option<PathBuf>,
}

impl Fetched {
    /// Gets the document, else the copy in `kept`.
    pub fn get(url: &str, kept: Option<&Path>) -> Result<Self, ConfigError> {
        let shown = redact::text(url);
        let copy = kept.map(|dir| dir.join(name_of(url)));
        let problem = match fetch(url) {
            Ok((text, format)) => {
                return Ok(Self {
                    name: shown,
                    text,
                    format,
                    warning: None,
                    copy,
                });
            }
            Err(problem) => problem,
        };
        let found = copy.as_deref().and_then(|copy| {
            let formats = [Format::Toml, Format::Json, Format::Yaml];
            formats.into_iter().find_map(|format| {
                let text = std::fs::read_to_string(with(copy, format)).ok()?;
                Some((text, format))
            })
        });
        let Some((text, format)) = found else {
            return Err(ConfigError::Layer {
                origin: shown,
                problem: format!("{problem}; there is no copy of an earlier start either"),
            });
        };
        Ok(Self {
            warning: Some(format!(
                "the configuration at {shown} cannot be had ({problem}); the last good copy is used"
            )),
            name: format!("last good copy of {shown}"),
            text,
            format,
            copy: None,
        })
    }

    /// Keeps the document for the next start, readable by this user only. A copy is not kept again.
    pub fn keep(&self) -> io::Result<()> {
        let Some(copy) = &self.copy else { return Ok(()) };
        if let Some(dir) = copy.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let place = with(copy, self.format);
        let fresh = place.with_extension("new");
        // It may have been left behind with other rights.
        drop(std::fs::remove_file(&fresh));
        write_private(&fresh, &self.text)?;
        std::fs::rename(&fresh, &place)?;
        for format in [Format::Toml, Format::Json, Format::Yaml] {
            if format != self.format {
                drop(std::fs::remove_file(with(copy, format)));
            }
        }
        Ok(())
    }
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn with(copy: &Path, format: Format) -> PathBuf {
    copy.with_extension(match format {
        Format::Toml => "toml",
        Format::Json => "json",
        Format::Yaml => "yaml",
    })
}

/// One name for each URL.
fn name_of(url: &str) -> String {
    let mut name = String::from("config-");
    for byte in &Sha256::digest(url.as_bytes())[..8] {
        // Writing to a String cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    name
}

/// Fetches in a thread of its own, so that it may be called from anywhere.
fn fetch(url: &str) -> Result<(String, Format), String> {
    let run = || -> Result<(String, Format), String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        runtime.block_on(async {
            tokio::time::timeout(PATIENCE, get(url))
                .await
                .unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs())))
        })
    };
    std::thread::scope(|scope| scope.spawn(run).join()).unwrap_or_else(|_| Err("the fetch broke off".into()))
}

async fn get(url: &str) -> Result<(String, Format), String> {
    // Whoever comes first installs it; all install the same.
    drop(rustls::crypto::ring::default_provider().install_default());
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::limited(3))
        .build()
        .map_err(|error| because(&error))?;
    let mut answer = client.get(url).send().await.map_err(|error| because(&error))?;
    if !answer.status().is_success() {
        return Err(format!("it answers {}", answer.status()));
    }
    let format = format_of(&answer);
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(|error| because(&error))? {
        body.extend_from_slice(&part);
        if body.len() > MAX_DOCUMENT {
            return Err(format!("it is longer than {MAX_DOCUMENT} bytes"));
        }
    }
    let text = String::from_utf8(body).map_err(|_| "it is no text".to_owned())?;
    Ok((text, format))
}

/// By the end of the URL's path, else by what the server calls it.
fn format_of(answer: &reqwest::Response) -> Format {
    let by_name = Format::of(Path::new(answer.url().path()));
    let has_name = Path::new(answer.url().path()).extension().is_some();
    let kind = answer.headers().get("content-type");
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    match () {
        () if has_name => by_name,
        () if kind.contains("json") => Format::Json,
        () if kind.contains("yaml") => Format::Yaml,
        () => Format::Toml,
    }
}

/// The innermost reason; what lies around it repeats the URL, which may hold a password.
fn because(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    redact::text(&error.to_string())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Answers one request.
    fn serve(answer: String) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://me:s3cret@{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut heard = [0; 4096];
            let _ = stream.read(&mut heard).unwrap();
            // A client that has read enough hangs up.
            drop(stream.write_all(answer.as_bytes()));
        });
        url
    }

    fn ok(kind: &str, body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\nconnection: close\r\n\r\n{body}")
    }

    #[test]
    fn the_format_is_told_by_the_name_or_by_the_server() {
        for (path, kind, format) in [
            ("/a.json", "text/plain", Format::Json),
            ("/a.yaml?x=1", "text/plain", Format::Yaml),
            ("/a", "application/json; charset=utf-8", Format::Json),
            ("/a", "application/yaml", Format::Yaml),
            ("/a", "text/plain", Format::Toml),
        ] {
            let url = serve(ok(kind, "x")) + path;
            let fetched = Fetched::get(&url, None).unwrap();
            assert_eq!((fetched.format, fetched.text.as_str()), (format, "x"), "{path} {kind}");
            assert!(!fetched.name.contains("s3cret"), "{}", fetched.name);
        }
    }

    #[test]
    fn a_url_that_is_down_gives_its_last_good_copy_with_a_warning() {
        let dir = tempfile::tempdir().unwrap();
        let kept = dir.path().join("deep/er");
        let url = serve(ok("application/json", "{\"a\": 1}"));
        let fetched = Fetched::get(&url, Some(&kept)).unwrap();
        assert_eq!(fetched.warning, None);
        let down = Fetched::get(&url, Some(&kept)).unwrap_err().to_string();
        assert!(
            down.contains("no copy of an earlier start") && !down.contains("s3cret"),
            "{down}"
        );
        fetched.keep().unwrap();
        let copy = Fetched::get(&url, Some(&kept)).unwrap();
        assert_eq!((copy.text.as_str(), copy.format), ("{\"a\": 1}", Format::Json));
        let warning = copy.warning.clone().unwrap();
        assert!(
            warning.contains("last good copy is used") && !warning.contains("s3cret"),
            "{warning}"
        );
        copy.keep().unwrap();
        let files: Vec<_> = std::fs::read_dir(&kept).unwrap().map(Result::unwrap).collect();
        assert_eq!(files.len(), 1);
        assert_eq!(files[0].metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let other = Fetched::get(&format!("{url}/other"), Some(&kept))
            .unwrap_err()
            .to_string();
        assert!(other.contains("no copy"), "{other}");
        // Another format of the same URL takes the place of the first.
        let anew = Fetched {
            format: Format::Toml,
            text: "a = 2".into(),
            ..fetched
        };
        anew.keep().unwrap();
        assert_eq!(Fetched::get(&url, Some(&kept)).unwrap().text, "a = 2");
    }

    #[test]
    fn what_is_no_configuration_is_not_read() {
        let long = "x".repeat(MAX_DOCUMENT + 1);
        for (answer, problem) in [
            (ok("text/plain", &long), "longer than"),
            (
                "HTTP/1.1 404 Not Found\r\nconnection: close\r\n\r\n".to_owned(),
                "it answers 404",
            ),
            (
                "HTTP/1.1 500 Oh\r\nconnection: close\r\n\r\n".to_owned(),
                "it answers 500",
            ),
        ] {
            let said = Fetched::get(&serve(answer), None).unwrap_err().to_string();
            assert!(said.contains(problem), "{said}");
        }
    }
}
