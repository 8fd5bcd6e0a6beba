//! Pinned projects that are not loaded beforehand any more, because QGIS ended or fell silent while it loaded them. One such
//! project would take every generation down with it, and the agent after that.
//!
//! A version is blamed once and for all: another one is tried, and the same one when somebody asks for that.

use std::collections::BTreeMap;

use super::message::ProjectRef;

#[derive(Debug)]
struct Fault {
    version: String,
    problem: String,
}

/// Who is blamed, by uri.
#[derive(Debug, Default)]
pub struct Blamed {
    faults: BTreeMap<String, Fault>,
}

impl Blamed {
    /// QGIS came to grief over this version, and how.
    pub fn blame(&mut self, project: &ProjectRef, problem: &str) {
        let fault = Fault {
            version: project.version.clone(),
            problem: problem.to_owned(),
        };
        self.faults.insert(project.uri.clone(), fault);
    }

    /// It is to be tried once more.
    pub fn forgive(&mut self, uri: &str) {
        self.faults.remove(uri);
    }

    /// What is wrong with the project, at whichever version.
    #[must_use]
    pub fn problem(&self, uri: &str) -> Option<&str> {
        self.faults.get(uri).map(|fault| fault.problem.as_str())
    }

    /// Those of `pins` that are loaded beforehand. One whose older version is `held` stays among them: a generation without
    /// it would take that version away, and one that comes to grief over it leaves the generation before in its place.
    #[must_use]
    pub fn sound(&self, pins: &[ProjectRef], held: impl Fn(&str) -> bool) -> Vec<ProjectRef> {
        let is_blamed = |pin: &ProjectRef| {
            let fault = self.faults.get(&pin.uri);
            fault.is_some_and(|fault| fault.version == pin.version)
        };
        let sound = pins.iter().filter(|pin| !is_blamed(pin) || held(&pin.uri));
        sound.cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(uri: &str, version: &str) -> ProjectRef {
        ProjectRef {
            uri: uri.into(),
            version: version.into(),
            file: None,
            begun: crate::core::message::Begun::default(),
        }
    }

    fn sound(blamed: &Blamed, pins: &[ProjectRef], held: &[&str]) -> Vec<String> {
        let sound = blamed.sound(pins, |uri| held.contains(&uri));
        sound.into_iter().map(|pin| pin.uri).collect()
    }

    #[test]
    fn one_version_of_one_project_is_left_out() {
        let mut blamed = Blamed::default();
        let mut pins = [pin("/a", "1"), pin("/b", "1")];
        assert_eq!(sound(&blamed, &pins, &[]), ["/a", "/b"]);
        blamed.blame(&pins[0], "signal 11");
        assert_eq!(sound(&blamed, &pins, &[]), ["/b"]);
        assert_eq!((blamed.problem("/a"), blamed.problem("/b")), (Some("signal 11"), None));
        pins[0] = pin("/a", "2");
        assert_eq!(sound(&blamed, &pins, &[]), ["/a", "/b"], "another version is tried");
        blamed.blame(&pins[0], "silence");
        assert_eq!(
            (sound(&blamed, &pins, &[]), blamed.problem("/a")),
            (vec!["/b".to_owned()], Some("silence"))
        );
        blamed.forgive("/a");
        assert_eq!((sound(&blamed, &pins, &[]).len(), blamed.problem("/a")), (2, None));
    }

    #[test]
    fn a_version_that_is_held_is_not_taken_away() {
        let mut blamed = Blamed::default();
        let pins = [pin("/a", "2"), pin("/b", "1")];
        blamed.blame(&pins[0], "signal 11");
        assert_eq!(sound(&blamed, &pins, &["/a"]), ["/a", "/b"]);
    }
}
