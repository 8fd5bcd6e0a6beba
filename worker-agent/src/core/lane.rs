//! Lanes: classes of requests, each with its own share of the workers. What puts a request in a lane is decided from
//! the request (`core/ogc`); how workers are shared between lanes is the pool's.

/// A class of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// What people wait for: maps, capabilities, information about features.
    Interactive,
    /// What takes long by its nature, such as prints.
    Heavy,
    /// What a worker itself asks for while it renders a project that has layers of this very server.
    Inner,
}

impl Lane {
    /// Every lane, in the order of [`Lane::index`].
    pub const ALL: [Self; 3] = [Self::Interactive, Self::Heavy, Self::Inner];

    /// The lane's name in metrics, logs and docs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Heavy => "heavy",
            Self::Inner => "inner",
        }
    }

    /// Its place in arrays that have one item for each lane.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Interactive => 0,
            Self::Heavy => 1,
            Self::Inner => 2,
        }
    }
}
