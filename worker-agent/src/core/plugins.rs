//! QGIS's server plugins as the agent knows them: what zygotes and workers have told, and whether answers may serve more
//! than one request. Knows no process and no request.

use serde::Deserialize;

/// A server plugin, as a zygote or a worker tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct Plugin {
    /// The name of its folder, by which it is allowed and imported.
    pub name: String,
    /// What `metadata.txt` says.
    #[serde(default)]
    pub version: String,
    /// The same.
    #[serde(default)]
    pub description: String,
    /// Its folder; empty for one that is allowed and not there.
    pub path: String,
    /// Where it is loaded; none when it is not.
    #[serde(default, rename = "where")]
    pub place: Place,
    /// Why it is not loaded; empty when it is.
    #[serde(default)]
    pub problem: String,
    /// It decides who may see what.
    #[serde(default)]
    pub access_control: bool,
    /// It keeps answers for QGIS.
    #[serde(default)]
    pub cache_filter: bool,
}

/// Where a plugin is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum Place {
    /// In the zygote; forked workers inherit it.
    #[serde(rename = "zygote")]
    Zygote,
    /// In each worker.
    #[serde(rename = "worker")]
    Worker,
    /// Nowhere.
    #[default]
    #[serde(rename = "")]
    Nowhere,
}

impl Place {
    /// One word; nothing for nowhere.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Zygote => "zygote",
            Self::Worker => "worker",
            Self::Nowhere => "",
        }
    }
}

/// Why no answer may serve more than one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unshared {
    /// No process has told yet which plugins there are.
    Unknown,
    /// A plugin decides who may see what, and it is not configured by which headers it does.
    AccessControl {
        /// The plugin.
        plugin: String,
    },
}

/// What is known of the plugins.
#[derive(Debug, Default)]
pub struct Known {
    /// Some may be there.
    configured: bool,
    /// A process has told.
    heard: bool,
    /// The last word of all.
    list: Vec<Plugin>,
    /// The first plugin that was seen to control access. It is never forgotten: workers of an older generation may still
    /// have one that a newer generation has not.
    access_control: Option<String>,
}

impl Known {
    /// Nothing is known; `configured` says whether there are folders in which plugins may be.
    #[must_use]
    pub fn new(configured: bool) -> Self {
        Self {
            configured,
            ..Self::default()
        }
    }

    /// A zygote or worker tells of all its plugins. Gives what is new of that: plugins that were not there, or that were
    /// not so.
    pub fn heard(&mut self, list: Vec<Plugin>) -> Vec<Plugin> {
        self.heard = true;
        let controls = list.iter().find(|plugin| plugin.access_control);
        if let (None, Some(plugin)) = (&self.access_control, controls) {
            self.access_control = Some(plugin.name.clone());
        }
        let news = list.iter().filter(|plugin| !self.list.contains(plugin)).cloned();
        let news = news.collect();
        self.list = list;
        news
    }

    /// All that were found, in the order in which they are loaded.
    #[must_use]
    pub fn list(&self) -> &[Plugin] {
        &self.list
    }

    /// Why no answer may serve more than one request; `varied` says that it is configured by which headers plugins answer.
    #[must_use]
    pub fn unshared(&self, varied: bool) -> Option<Unshared> {
        match &self.access_control {
            Some(plugin) if !varied => Some(Unshared::AccessControl { plugin: plugin.clone() }),
            _ if self.configured && !self.heard => Some(Unshared::Unknown),
            _ => None,
        }
    }
}

impl std::fmt::Display for Unshared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unknown => f.write_str("no process has told yet which plugins it has loaded"),
            Self::AccessControl { plugin } => write!(
                f,
                "the plugin {plugin} controls access: name the headers by which it does in cache.vary_headers"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(name: &str, access_control: bool) -> Plugin {
        Plugin {
            name: name.into(),
            place: Place::Zygote,
            access_control,
            ..Plugin::default()
        }
    }

    #[test]
    fn nothing_is_shared_before_plugins_are_known() {
        assert_eq!(Known::new(false).unshared(false), None);
        let mut known = Known::new(true);
        assert_eq!(known.unshared(false), Some(Unshared::Unknown));
        assert_eq!(known.unshared(true), Some(Unshared::Unknown));
        known.heard(vec![plugin("a", false)]);
        assert_eq!(known.unshared(false), None);
    }

    #[test]
    fn access_control_ends_sharing_for_good_unless_it_is_known_by_what_answers_vary() {
        let mut known = Known::new(true);
        known.heard(vec![plugin("a", false), plugin("b", true)]);
        let b = Some(Unshared::AccessControl { plugin: "b".into() });
        assert_eq!((known.unshared(false), known.unshared(true)), (b.clone(), None));
        known.heard(vec![plugin("a", false)]);
        assert_eq!(known.unshared(false), b);
    }

    #[test]
    fn one_that_failed_after_it_took_control_counts() {
        let mut known = Known::new(true);
        let problem = "KeyError: 'DATABASE'".to_owned();
        known.heard(vec![Plugin {
            problem,
            place: Place::Nowhere,
            ..plugin("a", true)
        }]);
        assert!(known.unshared(false).is_some());
    }

    #[test]
    fn news_are_what_was_not_so_before() {
        let mut known = Known::new(true);
        let names = |news: Vec<Plugin>| news.into_iter().map(|plugin| plugin.name).collect::<Vec<_>>();
        let (a, b) = (plugin("a", false), plugin("b", false));
        assert_eq!(names(known.heard(vec![a.clone(), b.clone()])), ["a", "b"]);
        assert!(known.heard(vec![a.clone(), b.clone()]).is_empty());
        let place = Place::Worker;
        assert_eq!(names(known.heard(vec![a, Plugin { place, ..b }])), ["b"]);
        assert_eq!(known.list().len(), 2);
    }

    #[test]
    fn they_are_told_as_documented() {
        let told = r#"{"name": "a", "version": "1", "description": "d", "path": "/p/a", "where": "", "problem": "x",
                       "access_control": true, "cache_filter": false}"#;
        let plugin: Plugin = serde_json::from_str(told).unwrap();
        assert_eq!((plugin.place, plugin.problem.as_str()), (Place::Nowhere, "x"));
        let told = r#"{"name": "a", "path": "/p/a", "where": "worker"}"#;
        assert_eq!(serde_json::from_str::<Plugin>(told).unwrap().place.name(), "worker");
    }
}
