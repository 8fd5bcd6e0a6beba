//! How many connections to PostgreSQL an agent can open, so that an operator can allow them before they are needed.

use std::collections::BTreeSet;
use std::fmt;

use super::uri::Server;

/// QGIS keeps one connection that layers share, and takes up to four more from its pool while it draws; all of them for
/// each way to connect that layers' sources name. It gives them back to its pool, not to the server.
const OF_LAYERS: usize = 5;

/// The most connections of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connections {
    /// The databases that search paths name.
    pub databases: usize,
    /// Whether clients choose databases, so that there may be more of them.
    pub open: bool,
    /// Of the agent itself, to each database: to look at projects, and one to listen.
    pub own: usize,
    /// Of all workers together, to each database: one of each worker, to read projects.
    pub projects: usize,
    /// Of all workers together, for each way to connect that layers use.
    pub layers: usize,
}

/// Counts them for the search paths into PostgreSQL; none when there are no such paths.
#[must_use]
pub fn connections<'a>(
    servers: impl IntoIterator<Item = &'a Server>,
    workers: usize,
    most_queries: usize,
    listens: bool,
) -> Option<Connections> {
    let names = servers.into_iter().map(|server| {
        let (host, dbname) = (server.service.as_ref().or(server.host.as_ref()), server.dbname.as_ref());
        (host, server.port, dbname, server.user.as_ref())
    });
    let names: BTreeSet<_> = names.collect();
    (!names.is_empty()).then(|| Connections {
        databases: names.len(),
        open: names
            .iter()
            .any(|(_, _, dbname, _)| dbname.is_some_and(|dbname| dbname.contains('{'))),
        own: most_queries + usize::from(listens),
        projects: workers,
        layers: workers * OF_LAYERS,
    })
}

impl fmt::Display for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            databases,
            open,
            own,
            projects,
            layers,
        } = self;
        let each = own + projects;
        let more = if *open {
            "each database that clients choose".to_owned()
        } else {
            format!("{databases} database(s)")
        };
        write!(
            f,
            "PostgreSQL: for projects at most {each} connections to {more} ({own} of the agent, {projects} of its workers); \
             for layers at most {layers} for each way to connect that they use"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::postgresql::Source;

    fn count(urls: &[&str]) -> Option<Connections> {
        let servers: Vec<_> = urls.iter().map(|url| Source::parse(url).unwrap().server).collect();
        connections(&servers, 4, 2, true)
    }

    #[test]
    fn search_paths_of_one_database_share_its_connections() {
        let one = count(&[
            "postgresql://ann@db/?dbname=gis&schema=a",
            "postgresql://ann@db/?dbname=gis&schema={town}",
        ])
        .unwrap();
        let expected = Connections {
            databases: 1,
            open: false,
            own: 3,
            projects: 4,
            layers: 20,
        };
        assert_eq!(one, expected);
        assert_eq!(
            one.to_string(),
            "PostgreSQL: for projects at most 7 connections to 1 database(s) (3 of the agent, 4 of its workers); for layers \
             at most 20 for each way to connect that they use"
        );
        let two = count(&[
            "postgresql://ann@db/?dbname=gis",
            "postgresql://ann@db/?dbname=other",
            "postgresql://?service=x",
        ]);
        assert_eq!(two.unwrap().databases, 3);
        assert!(
            count(&["postgresql://db/?dbname={town}"])
                .unwrap()
                .to_string()
                .contains("that clients choose")
        );
        assert_eq!(count(&[]), None);
    }
}
