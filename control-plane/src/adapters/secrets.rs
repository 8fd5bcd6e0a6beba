//! What stands in the files of certificates that Envoys are told, by the names under which they ask for it. It knows nothing of
//! Envoy's types, and shows no key to anybody.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use graticule_daemon::tls::{Authority, Identity, TlsError, digest};

use crate::config::Config;

/// The certificate of the front.
pub const FRONT_CERTIFICATE: &str = "front/certificate";

/// The authorities that vouch for the front's clients.
pub const FRONT_CLIENTS: &str = "front/clients";

/// The certificate of the listener for REST.
pub const REST_CERTIFICATE: &str = "rest/certificate";

/// The authorities that vouch for those who may connect to it.
pub const REST_CLIENTS: &str = "rest/clients";

/// What Envoy shows to the fleet port.
pub const FLEET_CERTIFICATE: &str = "fleet/certificate";

/// Who vouches for the fleet port.
pub const FLEET_AUTHORITY: &str = "fleet/authority";

/// The name of what Envoy shows to the agents of a pool.
#[must_use]
pub fn pool_certificate(pool: &str) -> String {
    format!("pool/{pool}/certificate")
}

/// The name of who vouches for the agents of a pool.
#[must_use]
pub fn pool_authority(pool: &str) -> String {
    format!("pool/{pool}/authority")
}

/// What a name stands for.
#[derive(Clone, PartialEq, Eq)]
pub enum Material {
    /// A certificate with its key, in PEM.
    Certificate {
        /// The certificate and those of the authorities between.
        chain: Arc<[u8]>,
        /// The private key.
        key: Arc<[u8]>,
        /// The end of its validity, in seconds since 1970.
        until_unix: i64,
    },
    /// Authorities in PEM, and the name that what they vouch for must have; empty: any.
    Authority {
        /// Their certificates.
        pem: Arc<[u8]>,
        /// The name.
        name: String,
    },
    /// Something whose files have not been looked at.
    Unread,
}

/// Nothing of what it holds.
impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Certificate { .. } => "Certificate",
            Self::Authority { .. } => "Authority",
            Self::Unread => "Unread",
        })
    }
}

/// Where something stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Pair {
        key: String,
        cert_file: PathBuf,
        key_file: PathBuf,
        /// Names that it must not have, because they have roles where it is shown, and it is shown for everybody.
        roles: Vec<String>,
    },
    Own {
        names: Vec<String>,
    },
    Roots {
        key: String,
        file: PathBuf,
        name: String,
    },
}

impl Source {
    fn key(&self) -> &str {
        match self {
            Self::Pair { key, .. } | Self::Roots { key, .. } => key,
            Self::Own { .. } => "front.tls.auto",
        }
    }

    fn files(&self) -> Vec<&Path> {
        match self {
            Self::Pair {
                cert_file, key_file, ..
            } => vec![cert_file, key_file],
            Self::Own { .. } => Vec::new(),
            Self::Roots { file, .. } => vec![file],
        }
    }

    fn read(&self) -> Result<Material, TlsError> {
        match self {
            Self::Pair {
                key,
                cert_file,
                key_file,
                roles,
            } => {
                let identity = Identity::read(key, cert_file, key_file)?;
                match identity.facts.names.iter().find(|name| roles.contains(name)) {
                    Some(name) => Err(TlsError::new(format!("{key}.cert_file"), cert_file, has_role(name))),
                    None => Ok(certificate(key, &identity)),
                }
            }
            Self::Own { names } => {
                Identity::self_signed(self.key(), names).map(|identity| certificate(self.key(), &identity))
            }
            Self::Roots { key, file, name } => Authority::read(key, file).map(|authority| Material::Authority {
                pem: authority.pem,
                name: name.clone(),
            }),
        }
    }
}

fn has_role(name: &str) -> String {
    format!(
        "it is for `{name}`, which has a role in fleet.access.certificates, and whoever reached the listener would have it: give \
         Envoy a certificate of another name"
    )
}

fn certificate(key: &str, identity: &Identity) -> Material {
    if let Some(problem) = identity.warning() {
        tracing::warn!(used_for = key, problem, "nobody will trust this certificate; renew it");
    }
    Material::Certificate {
        chain: Arc::clone(&identity.chain_pem),
        key: Arc::clone(&identity.key_pem),
        until_unix: identity.facts.until_unix(),
    }
}

/// What is wanted by name, as configured.
fn wanted(config: &Config) -> BTreeMap<String, Source> {
    let mut wanted = for_rest(config);
    let set = |file: &Path| !file.as_os_str().is_empty();
    let tls = &config.front.tls;
    if tls.is_on() {
        let source = if tls.auto {
            Source::Own {
                names: own_names(config),
            }
        } else {
            Source::Pair {
                key: "front.tls".to_owned(),
                cert_file: tls.cert_file.clone(),
                key_file: tls.key_file.clone(),
                roles: Vec::new(),
            }
        };
        wanted.insert(FRONT_CERTIFICATE.to_owned(), source);
        if tls.asks_clients() {
            let source = Source::Roots {
                key: "front.tls.client_ca_file".to_owned(),
                file: tls.client_ca_file.clone(),
                name: String::new(),
            };
            wanted.insert(FRONT_CLIENTS.to_owned(), source);
        }
    }
    for (pool, settings) in &config.pools {
        let tls = &settings.tls;
        if set(&tls.ca_file) {
            let source = Source::Roots {
                key: format!("pools.{pool}.tls.ca_file"),
                file: tls.ca_file.clone(),
                name: tls.server_name.clone(),
            };
            wanted.insert(pool_authority(pool), source);
        }
        if tls.shows_certificate() {
            let source = Source::Pair {
                key: format!("pools.{pool}.tls"),
                cert_file: tls.cert_file.clone(),
                key_file: tls.key_file.clone(),
                roles: Vec::new(),
            };
            wanted.insert(pool_certificate(pool), source);
        }
    }
    wanted
}

/// What the listener for REST needs, on both sides.
fn for_rest(config: &Config) -> BTreeMap<String, Source> {
    let mut wanted = BTreeMap::new();
    let rest = &config.rest;
    if !rest.enabled {
        return wanted;
    }
    let pair = |key: &str, cert_file: &Path, key_file: &Path, roles: Vec<String>| Source::Pair {
        key: key.to_owned(),
        cert_file: cert_file.to_owned(),
        key_file: key_file.to_owned(),
        roles,
    };
    let roots = |key: &str, file: &Path, name: String| Source::Roots {
        key: key.to_owned(),
        file: file.to_owned(),
        name,
    };
    let tls = &rest.tls;
    if tls.is_on() {
        let source = pair("rest.tls", &tls.cert_file, &tls.key_file, Vec::new());
        wanted.insert(REST_CERTIFICATE.to_owned(), source);
    }
    if tls.asks_clients() {
        let source = roots("rest.tls.client_ca_file", &tls.client_ca_file, String::new());
        wanted.insert(REST_CLIENTS.to_owned(), source);
    }
    let tls = &rest.fleet_tls;
    if config.fleet.tls.is_on() {
        let source = roots("rest.fleet_tls.ca_file", &tls.ca_file, rest.server_name(&config.fleet));
        wanted.insert(FLEET_AUTHORITY.to_owned(), source);
        if tls.shows_certificate() {
            let roles = config.fleet.access.certificates.keys().cloned().collect();
            let source = pair("rest.fleet_tls", &tls.cert_file, &tls.key_file, roles);
            wanted.insert(FLEET_CERTIFICATE.to_owned(), source);
        }
    }
    wanted
}

/// The names of a certificate of our own: this machine's, and every host of a pool that is a name.
fn own_names(config: &Config) -> Vec<String> {
    let machine = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    names.extend(machine.filter(|name| name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b))));
    let pools = config.effective_pools();
    let hosts = pools.values().flat_map(|pool| &pool.hosts);
    let plain = hosts.filter(|host| {
        !host.ends_with('*')
            && host
                .trim_start_matches("*.")
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b))
    });
    for host in plain {
        if !names.contains(host) {
            names.push(host.clone());
        }
    }
    names
}

/// Everything that is wanted, by name. Clones are cheap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Secrets {
    sources: Arc<BTreeMap<String, (SourceSeen, Material)>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct SourceSeen {
    source: Source,
    digest: [u8; 32],
}

/// What became of looking at the files again.
#[derive(Debug)]
pub struct Looked {
    /// What counts now.
    pub secrets: Secrets,
    /// Keys of the configuration whose files could be used, with the end of a certificate.
    pub usable: Vec<(String, Option<i64>)>,
    /// What could not be used; what it was before counts.
    pub problems: Vec<TlsError>,
}

impl Secrets {
    /// Reads what the configuration names. A certificate of our own stays as it is in `before` as long as its names are the same.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn read(config: &Config, before: &Self) -> Result<Self, TlsError> {
        let mut sources = BTreeMap::new();
        for (name, source) in wanted(config) {
            let seen = SourceSeen {
                digest: digest(source.files()),
                source,
            };
            let known = before.sources.get(&name).filter(|(other, _)| *other == seen);
            let material = match known {
                Some((_, material)) if *material != Material::Unread => material.clone(),
                _ => seen.source.read()?,
            };
            sources.insert(name, (seen, material));
        }
        Ok(Self {
            sources: Arc::new(sources),
        })
    }

    /// The names that the configuration wants, without a look at files that are not known: for what is not to be published.
    #[must_use]
    pub fn unread(config: &Config, before: &Self) -> Self {
        let sources = wanted(config).into_iter().map(|(name, source)| {
            let known = before
                .sources
                .get(&name)
                .filter(|(seen, _)| seen.source == source)
                .cloned();
            let digest = [0; 32];
            (name, known.unwrap_or((SourceSeen { source, digest }, Material::Unread)))
        });
        Self {
            sources: Arc::new(sources.collect()),
        }
    }

    /// Looks at the files of `self` again; `None` when nothing has changed in them since the last look. What cannot be used stays
    /// as it was, and is looked at again when it changes.
    #[must_use]
    pub fn look(&self) -> Option<Looked> {
        let (mut sources, mut changed) = ((*self.sources).clone(), false);
        let (mut usable, mut problems) = (Vec::new(), Vec::new());
        for (seen, material) in sources.values_mut() {
            let now = digest(seen.source.files());
            if now == seen.digest {
                continue;
            }
            (seen.digest, changed) = (now, true);
            match seen.source.read() {
                Ok(read) => {
                    usable.push((seen.source.key().to_owned(), until(&read)));
                    *material = read;
                }
                Err(problem) => problems.push(problem),
            }
        }
        changed.then(|| Looked {
            secrets: Self {
                sources: Arc::new(sources),
            },
            usable,
            problems,
        })
    }

    /// Certificates that have expired.
    #[must_use]
    pub fn warnings(&self, now: SystemTime) -> Vec<String> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let keys = self
            .keys()
            .into_iter()
            .filter(|(_, until)| until.is_some_and(|until| until < now));
        keys.map(|(key, _)| format!("the certificate of `{key}` has expired; renew it"))
            .collect()
    }

    /// What a name stands for.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Material> {
        self.sources.get(name).map(|(_, material)| material)
    }

    /// Everything, in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Material)> {
        self.sources
            .iter()
            .map(|(name, (_, material))| (name.as_str(), material))
    }

    /// The keys of the configuration that files stand at, with the end of a certificate.
    #[must_use]
    pub fn keys(&self) -> Vec<(String, Option<i64>)> {
        self.sources
            .values()
            .map(|(seen, material)| (seen.source.key().to_owned(), until(material)))
            .collect()
    }
}

fn until(material: &Material) -> Option<i64> {
    match material {
        Material::Certificate { until_unix, .. } => Some(*until_unix),
        Material::Authority { .. } | Material::Unread => None,
    }
}

#[cfg(test)]
mod tests;
