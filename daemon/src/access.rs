//! Who may do what on a gRPC port: roles that bearer tokens and client certificates have, and what each method needs. It
//! knows no method: the daemon brings the table.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::config::Secret;
use crate::tls::{TlsError, TlsServer};

mod guard;
#[cfg(test)]
mod tests;

pub use guard::{Door, Peer};

/// A token is not shorter than this: what is shorter can be guessed.
const SHORTEST: usize = 16;

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look at everything and change nothing.
    Read,
    /// What the port is for besides administration: agents attach, Envoys are told their configuration, clients ask for maps.
    Peer,
    /// Everything.
    Full,
}

impl Role {
    const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Peer => "peer",
            Self::Full => "full",
        }
    }

    const fn allows(self, need: Need) -> bool {
        match need {
            Need::Nothing => true,
            Need::Read => matches!(self, Self::Read | Self::Full),
            Need::Peer => matches!(self, Self::Peer | Self::Full),
            Need::Full => matches!(self, Self::Full),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which role a method needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// None.
    Nothing,
    /// [`Role::Read`] or full.
    Read,
    /// [`Role::Peer`] or full.
    Peer,
    /// [`Role::Full`].
    Full,
}

/// Methods, as `/package.Service/Method`, by what they need; any other needs [`Role::Full`].
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Those that anybody may call.
    pub open: &'static [&'static str],
    /// Those that only look.
    pub read: &'static [&'static str],
    /// What the port is for besides administration.
    pub peer: &'static [&'static str],
}

impl Table {
    /// What a method needs.
    #[must_use]
    pub fn need(&self, method: &str) -> Need {
        let among = |methods: &[&str]| methods.contains(&method);
        if among(self.open) {
            Need::Nothing
        } else if among(self.read) {
            Need::Read
        } else if among(self.peer) {
            Need::Peer
        } else {
            Need::Full
        }
    }
}

/// Who may do what on a port. While no token and no certificate is named, whoever reaches the port may do everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Access {
    /// A token whose holder may do everything, of at least 16 characters. Like every secret it is shown nowhere.
    pub full_token: Secret,
    /// A file of tokens whose holders may do everything, one a line; it is read again when it changes.
    pub full_token_file: PathBuf,
    /// A token whose holder may look at everything.
    pub read_token: Secret,
    /// A file of tokens whose holders may look at everything, one a line.
    pub read_token_file: PathBuf,
    /// A token for what the port is for besides administration: agents, Envoys, clients of maps.
    pub peer_token: Secret,
    /// A file of tokens for what the port is for besides administration, one a line.
    pub peer_token_file: PathBuf,
    /// Roles of client certificates, by a name in them, such as `"ops.example.org" = "full"`; `"*"` for any certificate. Only
    /// where the port's TLS has a `client_ca_file`.
    pub certificates: BTreeMap<String, Role>,
    /// Whether the port may be open to other machines without TLS and without tokens or certificates.
    pub insecure: bool,
}

impl Access {
    fn tokens(&self) -> [(Role, &'static str, &Secret, &Path); 3] {
        [
            (Role::Full, "full_token", &self.full_token, &self.full_token_file),
            (Role::Read, "read_token", &self.read_token, &self.read_token_file),
            (Role::Peer, "peer_token", &self.peer_token, &self.peer_token_file),
        ]
    }

    /// Whether somebody has to say who they are.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        let named =
            |(_, _, token, file): &(Role, &str, &Secret, &Path)| !token.is_empty() || !file.as_os_str().is_empty();
        !self.certificates.is_empty() || self.tokens().iter().any(named)
    }

    /// Whether there is a token with which somebody can look, so one of the role `read` or `full`.
    #[must_use]
    pub fn has_tokens(&self) -> bool {
        self.tokens().iter().any(|(role, _, token, file)| {
            role.allows(Need::Read) && (!token.is_empty() || !file.as_os_str().is_empty())
        })
    }

    /// The files with tokens.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.tokens()
            .into_iter()
            .filter(|(_, _, _, file)| !file.as_os_str().is_empty())
            .map(|(_, _, _, file)| file.to_owned())
    }

    /// Checks what can be checked without files: that a port which others can reach is secured. `key` is where this stands,
    /// and `port` where the port is, with the key that says so.
    ///
    /// # Errors
    /// What to change.
    pub fn check(&self, key: &str, tls: &TlsServer, (at, listen): (&str, SocketAddr)) -> Result<(), TlsError> {
        let of = |key: String, problem: String| Err(TlsError::of(key, problem));
        if !self.certificates.is_empty() && !tls.asks_clients() {
            let problem =
                "certificates have roles only where clients must show one: set client_ca_file of the port's tls";
            return of(format!("{key}.certificates"), problem.to_owned());
        }
        let secured = tls.is_on() && (self.is_closed() || tls.asks_clients());
        if listen.ip().is_loopback() || self.insecure || secured {
            return Ok(());
        }
        let lacks = match (tls.is_on(), self.is_closed()) {
            (true, _) => "asks nobody who they are",
            (false, true) => "would have tokens sent in the clear",
            (false, false) => "has neither TLS nor tokens",
        };
        of(
            at.to_owned(),
            format!(
                "the port {listen} can be reached from other machines and {lacks}: configure its TLS with client_ca_file, or with \
                 tokens in `{key}`; or have it listen on loopback; or, where only trusted machines reach it, set `{key}.insecure` to true"
            ),
        )
    }

    /// Reads every token.
    ///
    /// # Errors
    /// Which cannot be used, without saying any of it.
    pub fn read(&self, key: &str) -> Result<Holders, TlsError> {
        let mut tokens = Vec::new();
        for (role, name, token, file) in self.tokens() {
            for token in read_tokens(&format!("{key}.{name}"), token, file)? {
                tokens.push((role, Sha256::digest(token.as_bytes()).into()));
            }
        }
        Ok(Holders {
            tokens,
            certificates: self.certificates.clone(),
            closed: self.is_closed(),
        })
    }

    /// In a few words for people.
    #[must_use]
    pub fn says(&self, tls: &TlsServer) -> String {
        let roles: Vec<&str> = Role::ALL
            .into_iter()
            .filter(|role| {
                let token = self.tokens().into_iter().find(|(of, ..)| of == role);
                let token = token.is_some_and(|(_, _, token, file)| !token.is_empty() || !file.as_os_str().is_empty());
                token || self.certificates.values().any(|of| of == role)
            })
            .map(Role::name)
            .collect();
        match (self.is_closed(), tls.asks_clients()) {
            (true, _) => format!("roles: {}", roles.join(", ")),
            (false, true) => "every certificate may do everything".to_owned(),
            (false, false) => "open to whoever reaches it".to_owned(),
        }
    }
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::Read, Self::Peer, Self::Full];
}

fn too_short() -> String {
    format!("a token has at least {SHORTEST} characters: make one with `openssl rand -hex 32`")
}

/// Every token of a key and its file: one a line; lines that are empty or begin with `#` do not count.
fn read_tokens(key: &str, token: &Secret, file: &Path) -> Result<Vec<String>, TlsError> {
    let mut tokens: Vec<String> = Vec::new();
    if !token.is_empty() {
        let token = token.reveal().trim();
        if token.len() < SHORTEST {
            return Err(TlsError::of(key.to_owned(), too_short()));
        }
        tokens.push(token.to_owned());
    }
    if !file.as_os_str().is_empty() {
        let wrong = |problem: String| TlsError::new(format!("{key}_file"), file, problem);
        let text = std::fs::read_to_string(file).map_err(|error| wrong(format!("it cannot be read: {error}")))?;
        let lines = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let before = tokens.len();
        tokens.extend(lines.map(str::to_owned));
        if tokens.len() == before {
            return Err(wrong("it has no token: write one a line".to_owned()));
        }
        if tokens[before..].iter().any(|token| token.len() < SHORTEST) {
            return Err(wrong(too_short()));
        }
    }
    Ok(tokens)
}

/// The token to show: that of the key, else the first of its file.
///
/// # Errors
/// When the file cannot be used.
pub fn first_token(key: &str, token: &Secret, file: &Path) -> Result<Option<String>, TlsError> {
    Ok(read_tokens(&format!("{key}.token"), token, file)?.into_iter().next())
}

/// Who has which role. Of tokens it holds digests alone.
#[derive(Clone, Debug, Default)]
pub struct Holders {
    tokens: Vec<(Role, [u8; 32])>,
    certificates: BTreeMap<String, Role>,
    closed: bool,
}

/// Why a call is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Nobody knows who calls.
    Unknown(String),
    /// It is known and may not.
    NotAllowed(String),
}

impl Holders {
    /// Whether a call that needs this may be made by whoever shows this `authorization` and the names of this certificate.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub fn admit(&self, need: Need, authorization: Option<&str>, names: &[String]) -> Result<(), Refused> {
        if !self.closed || need == Need::Nothing {
            return Ok(());
        }
        let roles = self.roles(authorization, names)?;
        if roles.iter().any(|role| role.allows(need)) {
            return Ok(());
        }
        if roles.is_empty() {
            return Err(Refused::Unknown(match names.first() {
                Some(name) => format!(
                    "the certificate of `{name}` has no role here: add it to `certificates` of this port's access, or show a token"
                ),
                None => "show a token: --token-file FILE, GRATICULE_TOKEN_FILE, or the metadata `authorization: Bearer TOKEN`".to_owned(),
            }));
        }
        let has: Vec<&str> = roles.iter().map(|role| role.name()).collect();
        let needed = match need {
            Need::Nothing | Need::Read => "read",
            Need::Peer => "peer",
            Need::Full => "full",
        };
        Err(Refused::NotAllowed(format!(
            "this needs the role `{needed}` or `full`, and you have `{}`: show another token",
            has.join("`, `")
        )))
    }

    fn roles(&self, authorization: Option<&str>, names: &[String]) -> Result<Vec<Role>, Refused> {
        let mut roles: Vec<Role> = names
            .iter()
            .filter_map(|name| self.certificates.get(name).copied())
            .collect();
        if roles.is_empty() && !names.is_empty() {
            roles.extend(self.certificates.get("*"));
        }
        if let Some(text) = authorization {
            let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
            if !scheme.eq_ignore_ascii_case("bearer") {
                return Err(Refused::Unknown("`authorization` is to be `Bearer TOKEN`".to_owned()));
            }
            let Some(role) = self.role_of(token.trim()) else {
                return Err(Refused::Unknown(
                    "nobody has this token: it may have been replaced, ask for the present one".to_owned(),
                ));
            };
            roles.push(role);
        }
        roles.sort_unstable();
        roles.dedup();
        Ok(roles)
    }

    /// Digests are compared, and every one of them in full: how long it takes says nothing of how near a guess was.
    fn role_of(&self, token: &str) -> Option<Role> {
        let shown: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let mut found = None;
        for (role, digest) in &self.tokens {
            let differs = shown.iter().zip(digest).fold(0, |differs, (a, b)| differs | (a ^ b));
            if std::hint::black_box(differs) == 0 {
                found = found.max(Some(*role));
            }
        }
        found
    }
}
