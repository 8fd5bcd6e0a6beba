//! What the agent knows of QGIS's server plugins, shared by those who hear of them, those who ask whether answers may be
//! shared, and those who show them. The decisions are [`core::plugins`](crate::core::plugins)'s; here are the lock, the
//! log and the messages.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use graticule_proto::v1::{ListPluginsReply, PluginInfo};

use crate::core::plugins::{Known, Plugin, Unshared};

/// The plugins; clones share them.
#[derive(Clone)]
pub struct Plugins {
    known: Arc<Mutex<Known>>,
    /// It is configured by which headers plugins answer.
    varied: Arc<AtomicBool>,
}

impl Plugins {
    /// Nothing is known yet; `configured` says whether there are folders in which plugins may be, `varied` whether it is
    /// configured by which headers they answer.
    #[must_use]
    pub fn new(configured: bool, varied: bool) -> Self {
        Self {
            known: Arc::new(Mutex::new(Known::new(configured))),
            varied: Arc::new(AtomicBool::new(varied)),
        }
    }

    /// Whether it is configured by which headers plugins answer, from now on.
    pub fn set_varied(&self, varied: bool) {
        self.varied.store(varied, Ordering::Relaxed);
    }

    fn varied(&self) -> bool {
        self.varied.load(Ordering::Relaxed)
    }

    /// What is known is whole after every call, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A zygote or worker tells of all its plugins.
    pub fn heard(&self, list: Vec<Plugin>) {
        let mut known = self.lock();
        let before = known.unshared(self.varied());
        let news = known.heard(list);
        let after = known.unshared(self.varied());
        drop(known);
        for Plugin {
            name,
            version,
            path,
            place,
            problem,
            access_control,
            ..
        } in news
        {
            if problem.is_empty() {
                let place = place.name();
                tracing::info!(
                    plugin = name,
                    version,
                    path,
                    place,
                    access_control,
                    "a plugin is loaded"
                );
            } else {
                tracing::error!(plugin = name, version, path, problem, "a plugin is not loaded");
            }
        }
        if let Some(why @ Unshared::AccessControl { .. }) = after.filter(|after| before.as_ref() != Some(after)) {
            tracing::warn!(%why, "no answer is kept or shared");
        }
    }

    /// Whether an answer may serve more than one request.
    #[must_use]
    pub fn let_share(&self) -> bool {
        self.lock().unshared(self.varied()).is_none()
    }

    /// How many are loaded, and how many could not be.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let known = self.lock();
        let failed = known.list().iter().filter(|plugin| !plugin.problem.is_empty()).count();
        (known.list().len() - failed, failed)
    }

    /// What `ListPlugins` answers.
    #[must_use]
    pub fn list(&self) -> ListPluginsReply {
        let known = self.lock();
        let unshared = known.unshared(self.varied());
        ListPluginsReply {
            plugins: known.list().iter().cloned().map(info).collect(),
            unshared: unshared.map_or_else(String::new, |why| why.to_string()),
        }
    }
}

fn info(plugin: Plugin) -> PluginInfo {
    PluginInfo {
        name: plugin.name,
        version: plugin.version,
        description: plugin.description,
        path: plugin.path,
        r#where: plugin.place.name().to_owned(),
        problem: plugin.problem,
        access_control: plugin.access_control,
        cache_filter: plugin.cache_filter,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::plugins::Place;

    #[test]
    fn what_was_heard_is_counted_and_listed() {
        let plugins = Plugins::new(true, false);
        assert!(!plugins.let_share());
        let sound = Plugin {
            name: "a".into(),
            place: Place::Worker,
            ..Plugin::default()
        };
        let failed = Plugin {
            name: "b".into(),
            problem: "no".into(),
            ..Plugin::default()
        };
        plugins.heard(vec![sound, failed]);
        assert!(plugins.let_share());
        assert_eq!(plugins.counts(), (1, 1));
        let list = plugins.list();
        let shown: Vec<_> = list
            .plugins
            .iter()
            .map(|info| (info.name.as_str(), info.r#where.as_str()))
            .collect();
        assert_eq!((shown, list.unshared.as_str()), (vec![("a", "worker"), ("b", "")], ""));
    }

    #[test]
    fn why_nothing_is_shared_is_said() {
        let plugins = Plugins::new(true, false);
        assert!(plugins.list().unshared.contains("has told yet"));
        let guard = Plugin {
            name: "guard".into(),
            access_control: true,
            ..Plugin::default()
        };
        plugins.heard(vec![guard.clone()]);
        assert!(plugins.list().unshared.contains("the plugin guard controls access"));
        let varied = Plugins::new(true, true);
        varied.heard(vec![guard]);
        assert_eq!((varied.let_share(), varied.list().unshared), (true, String::new()));
    }
}
