//! One side of a comparison: a Graticule, or QGIS Server the way it is usually run. Both serve the demo's projects and the
//! towns, under names of their own.

use crate::client::Client;
use crate::incumbent::Incumbent;
use crate::stack::{Plan, Stack};
use crate::{parts, towns};

/// What is measured.
pub enum Side {
    /// A whole stack.
    Graticule(Box<Stack>),
    /// nginx before FastCGI processes.
    Incumbent(Box<Incumbent>),
}

impl Side {
    /// Starts what is planned.
    pub async fn graticule(plan: Plan) -> Self {
        let folders = serde_json::json!({"/": parts::projects(), "/towns": parts::towns()});
        let plan = plan.agent("CONF_WORKER__QGIS__PROJECTS__SEARCH_PATHS", folders);
        Self::Graticule(Box::new(plan.start().await))
    }

    /// Starts so many processes with these variables.
    pub async fn incumbent(processes: usize, environment: &[(&str, &str)]) -> Self {
        Self::Incumbent(Box::new(Incumbent::start(processes, environment).await))
    }

    /// A client of its front.
    #[must_use]
    pub fn client(&self) -> &Client {
        match self {
            Self::Graticule(stack) => stack.client(),
            Self::Incumbent(incumbent) => incumbent.client(),
        }
    }

    /// The value of MAP for a project of the demo.
    #[must_use]
    pub fn project(&self, name: &str) -> String {
        match self {
            Self::Graticule(_) => format!("/{name}"),
            Self::Incumbent(_) => format!("{}/{name}.qgs", parts::projects().display()),
        }
    }

    /// The value of MAP for a town, by its number.
    #[must_use]
    pub fn town(&self, number: usize) -> String {
        let name = towns::name(number);
        match self {
            Self::Graticule(_) => format!("/towns/{name}"),
            Self::Incumbent(_) => format!("{}/{name}.qgs", parts::towns().display()),
        }
    }

    /// What all its processes use of memory together, in bytes.
    #[must_use]
    pub fn memory(&self) -> u64 {
        match self {
            Self::Graticule(stack) => stack.memory(),
            Self::Incumbent(incumbent) => incumbent.memory(),
        }
    }

    /// Projects that its workers have loaded; nothing of a side that does not count them.
    pub async fn loaded(&self) -> Option<u64> {
        let Self::Graticule(stack) = self else { return None };
        let mut loaded = 0;
        for agent in &stack.agents {
            let page = agent.metrics().get("/metrics").await.text();
            let counts = page
                .lines()
                .filter(|line| line.starts_with("graticule_project_loads_total{"));
            let counts = counts.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
            loaded += counts.sum::<u64>();
        }
        Some(loaded)
    }

    /// Requests that its workers have served; nothing of a side that does not count them.
    pub async fn served(&self) -> Option<u64> {
        let Self::Graticule(stack) = self else { return None };
        let mut served = 0;
        for agent in &stack.agents {
            served += agent
                .stats()
                .await
                .workers
                .iter()
                .map(|worker| worker.served)
                .sum::<u64>();
        }
        Some(served)
    }
}
