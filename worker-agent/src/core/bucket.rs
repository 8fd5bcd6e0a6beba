//! From the URL of a bucket to the keys of objects. Pure: nothing is asked of any server.
//!
//! `s3://bucket/prefix` holds projects below its prefix; `s3://bucket/{path}/project` says by `{path}` where in the key a
//! project's name stands. A project may use files below the *fence*: the prefix without what comes from `{path}` on.

use percent_encoding::percent_decode_str;

use super::locate::Suffix;

const SCHEME: &str = "s3://";

/// Stands for the project's name in a root.
const PATH: &str = "{path}";

/// A configured root, dynamic segments not filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketRoot {
    /// The bucket's name.
    pub bucket: String,
    /// How many segments of the key no project's file can lie above.
    fence: usize,
    /// Whether the name is put in at `{path}`, instead of being added at the end.
    has_path: bool,
}

/// Where one project may lie in a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spot {
    /// The keys to look for, in this order.
    pub keys: Vec<String>,
    /// What every key of a file of the project begins with: empty, or it ends with a slash.
    pub fence: String,
}

impl BucketRoot {
    /// Reads a configured root.
    ///
    /// # Errors
    /// What is wrong with it, and what to write instead.
    pub fn parse(url: &str) -> Result<Self, String> {
        let rest = url.strip_prefix(SCHEME).unwrap_or_default();
        let (bucket, path) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty()
            || !bucket
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        {
            return Err("names no bucket; write it as s3://bucket/prefix".into());
        }
        if path.contains(['?', '#']) {
            return Err("has a query; options of a bucket stand in [worker.storage.s3]".into());
        }
        let segments =
            segments(path).map_err(|segment| format!("has the segment '{segment}' in its key; leave it out"))?;
        let at = segments.iter().position(|segment| segment.contains(PATH));
        Ok(Self {
            bucket: bucket.to_owned(),
            fence: at.unwrap_or(segments.len()),
            has_path: at.is_some(),
        })
    }

    /// Where the project `relative` may lie, by the root with its dynamic segments filled in.
    #[must_use]
    pub fn spot(&self, filled: &str, relative: &str, suffix: Option<Suffix>) -> Option<Spot> {
        let path = filled
            .strip_prefix(SCHEME)?
            .split_once('/')
            .map_or("", |(_, path)| path);
        let segments = segments(path).ok()?;
        let fence = folder(segments.get(..self.fence)?);
        let name = if self.has_path {
            segments.join("/")
        } else {
            format!("{fence}{relative}")
        };
        let keys = match (Suffix::of(&name), suffix) {
            (Some(_), _) if self.has_path => vec![name],
            (_, Some(suffix)) => vec![format!("{name}{}", suffix.as_str())],
            (_, None) => [Suffix::Qgs, Suffix::Qgz]
                .iter()
                .map(|suffix| format!("{name}{}", suffix.as_str()))
                .collect(),
        };
        Some(Spot { keys, fence })
    }

    /// What a key is called below this root, and its file type; nothing for what is no project. `root` is as configured.
    #[must_use]
    pub fn relative(&self, root: &str, key: &str) -> Option<(String, Suffix)> {
        let suffix = Suffix::of(key)?;
        let path = root.strip_prefix(SCHEME)?.split_once('/').map_or("", |(_, path)| path);
        let pattern = segments(path).ok()?.join("/");
        let name = match pattern.split_once(PATH) {
            Some((before, after)) => {
                let name = key.strip_prefix(before)?;
                match name.strip_suffix(after) {
                    Some(name) if Suffix::of(after).is_some() => name,
                    _ => name.strip_suffix(suffix.as_str())?.strip_suffix(after)?,
                }
            }
            None if pattern.is_empty() => key.strip_suffix(suffix.as_str())?,
            None => key
                .strip_prefix(&pattern)?
                .strip_prefix('/')?
                .strip_suffix(suffix.as_str())?,
        };
        (!name.is_empty()).then(|| (name.to_owned(), suffix))
    }

    /// What the keys of all projects below this root begin with; `root` is as configured, without dynamic segments.
    #[must_use]
    pub fn listed(&self, root: &str) -> String {
        let path = root.strip_prefix(SCHEME).and_then(|rest| rest.split_once('/'));
        let segments = path.and_then(|(_, path)| segments(path).ok()).unwrap_or_default();
        folder(&segments[..self.fence.min(segments.len())])
    }
}

fn folder(segments: &[String]) -> String {
    let mut folder = segments.join("/");
    if !folder.is_empty() {
        folder.push('/');
    }
    folder
}

/// The segments of a path, percent-decoded; an error is one that steps.
fn segments(path: &str) -> Result<Vec<String>, String> {
    let decoded = path
        .split('/')
        .filter(|segment| !segment.is_empty())
        .map(|segment| percent_decode_str(segment).decode_utf8_lossy().into_owned());
    decoded
        .map(|segment| {
            let steps = segment == "." || segment == ".." || segment.contains('/');
            if steps { Err(segment) } else { Ok(segment) }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spot(root: &str, filled: &str, relative: &str, suffix: Option<Suffix>) -> (Vec<String>, String) {
        let spot = BucketRoot::parse(root).unwrap().spot(filled, relative, suffix).unwrap();
        (spot.keys, spot.fence)
    }

    #[test]
    fn a_name_is_added_to_the_prefix() {
        let both = |name: &str| vec![format!("{name}.qgs"), format!("{name}.qgz")];
        assert_eq!(spot("s3://b", "s3://b", "x/y", None), (both("x/y"), String::new()));
        assert_eq!(spot("s3://b/", "s3://b/", "x", None), (both("x"), String::new()));
        assert_eq!(
            spot(
                "s3://b/maps/{user}/",
                "s3://b/maps/J%C3%B6%20a/",
                "x",
                Some(Suffix::Qgz)
            ),
            (vec!["maps/Jö a/x.qgz".to_owned()], "maps/Jö a/".to_owned())
        );
    }

    #[test]
    fn a_name_is_put_in_at_its_place() {
        let spot_of = |relative: &str| {
            let filled = format!("s3://b/all/{relative}/project");
            spot("s3://b/all/{path}/project", &filled, relative, Some(Suffix::Qgs))
        };
        assert_eq!(
            spot_of("x/y"),
            (vec!["all/x/y/project.qgs".to_owned()], "all/".to_owned())
        );
        assert_eq!(
            spot("s3://b/p-{path}/a.qgz", "s3://b/p-x/a.qgz", "x", Some(Suffix::Qgs)),
            (vec!["p-x/a.qgz".to_owned()], String::new())
        );
    }

    #[test]
    fn a_key_is_called_as_it_would_be_asked_for() {
        for (root, key, expected) in [
            ("s3://b", "x/y.qgs", Some("x/y")),
            ("s3://b/maps/", "maps/x.qgz", Some("x")),
            ("s3://b/maps", "maps2/x.qgz", None),
            ("s3://b/maps", "maps/x.gpkg", None),
            ("s3://b/maps", "maps/.qgs", None),
            ("s3://b/all/{path}/project", "all/x/y/project.qgs", Some("x/y")),
            ("s3://b/all/{path}/project", "all/x/other.qgs", None),
            ("s3://b/p-{path}/a.qgz", "p-x/a.qgz", Some("x")),
        ] {
            let found = BucketRoot::parse(root).unwrap().relative(root, key);
            assert_eq!(found.as_ref().map(|(name, _)| name.as_str()), expected, "{root} {key}");
        }
        let listed = |root: &str| BucketRoot::parse(root).unwrap().listed(root);
        assert_eq!(listed("s3://b/maps"), "maps/");
        assert_eq!(listed("s3://b/all/{path}/project"), "all/");
        assert_eq!(listed("s3://b"), "");
    }

    #[test]
    fn what_cannot_be_meant_is_said() {
        for (root, expected) in [
            ("s3://", "names no bucket"),
            ("s3:///x", "names no bucket"),
            ("s3:b/x", "names no bucket"),
            ("s3://b c/x", "names no bucket"),
            ("s3://me:secret@b/x", "names no bucket"),
            ("s3://b/x?region=y", "has a query"),
            ("s3://b/a/../x", "has the segment '..'"),
            ("s3://b/%2e%2e/x", "has the segment '..'"),
            ("s3://b/a%2Fb", "has the segment 'a/b'"),
        ] {
            let said = BucketRoot::parse(root).unwrap_err();
            assert!(said.contains(expected), "{root}: {said}");
        }
    }
}
