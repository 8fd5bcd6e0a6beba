//! The agent's cache index: what is known of each project that a worker has loaded. Which worker holds what is the
//! pool's knowledge; this keeps what outlives workers.

use std::collections::BTreeMap;

use super::message::LoadedProject;

/// One project's record.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Record {
    /// As clients name it.
    pub name: String,
    /// The version last loaded.
    pub version: String,
    /// How long its last load took, in milliseconds.
    pub load_ms: f64,
    /// Requests served from it since the agent started.
    pub hits: u64,
    /// Layers that could not be opened at its last load.
    pub bad_layers: Vec<String>,
    /// Those that took longest to open then, in milliseconds, slowest first.
    pub slow_layers: Vec<(String, f64)>,
    /// Why it could not be loaded when that was tried last; empty when it could.
    pub problem: String,
}

/// How many projects without a worker or a pin are remembered.
const REMEMBERED: usize = 4096;

/// Records by uri.
#[derive(Debug, Default)]
pub struct Index {
    records: BTreeMap<String, Record>,
}

impl Index {
    /// A request for the project `name` at `uri` was served.
    pub fn served(&mut self, uri: &str, name: &str) {
        self.record(uri).hits += 1;
        self.named(uri, name);
    }

    /// Clients know the project at `uri` as `name`.
    pub fn named(&mut self, uri: &str, name: &str) {
        let record = self.record(uri);
        if record.name != name {
            name.clone_into(&mut record.name);
        }
    }

    /// A worker or zygote loaded it.
    pub fn loaded(&mut self, project: &LoadedProject) {
        let record = self.record(&project.uri);
        record.version.clone_from(&project.version);
        record.load_ms = project.load_ms;
        record.bad_layers.clone_from(&project.bad_layers);
        record.slow_layers.clone_from(&project.slow_layers);
        record.problem.clear();
    }

    /// It is to be loaded once more: what was wrong before says nothing now.
    pub fn retried(&mut self, uri: &str) {
        if let Some(record) = self.records.get_mut(uri) {
            record.problem.clear();
        }
    }

    /// It could not be loaded.
    pub fn failed(&mut self, uri: &str, problem: &str) {
        problem.clone_into(&mut self.record(uri).problem);
    }

    /// The record of `uri`, where there is one.
    #[must_use]
    pub fn get(&self, uri: &str) -> Option<&Record> {
        self.records.get(uri)
    }

    /// How many projects could not be loaded when that was tried last.
    #[must_use]
    pub fn broken(&self) -> usize {
        self.records
            .values()
            .filter(|record| !record.problem.is_empty())
            .count()
    }

    /// Every record with its uri.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Record)> {
        self.records.iter()
    }

    fn record(&mut self, uri: &str) -> &mut Record {
        if self.records.len() >= REMEMBERED && !self.records.contains_key(uri) {
            let rarest = self
                .records
                .iter()
                .min_by_key(|(_, record)| record.hits)
                .map(|(uri, _)| uri.clone());
            self.records.remove(&rarest.unwrap_or_default());
        }
        self.records.entry(uri.to_owned()).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rarest_makes_room() {
        let mut index = Index::default();
        index.served("/often", "/often");
        index.served("/often", "/often");
        for n in 0..REMEMBERED + 10 {
            index.served(&format!("/{n}"), "/x");
        }
        assert_eq!(index.iter().count(), REMEMBERED);
        assert_eq!(index.get("/often").unwrap().hits, 2);
    }
}
