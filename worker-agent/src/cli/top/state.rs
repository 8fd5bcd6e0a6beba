//! What `top` knows, and what keys do with it. Pure.

use graticule_proto::v1::{CachedProject, StatsReply, WorkerInfo};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// What was seen of an agent.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Its name in the fleet; empty when it was asked by its address.
    pub(super) name: String,
    /// What it says of itself.
    pub(super) stats: StatsReply,
    /// Projects that it has loaded or pinned.
    pub(super) projects: Vec<CachedProject>,
    /// Why it says nothing.
    pub(super) problem: Option<String>,
}

/// By which column workers are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sort {
    /// How long they have been busy, the longest first.
    #[default]
    Busy,
    /// What only they use of memory, the largest first.
    Memory,
    /// What they have served, the most first.
    Served,
    /// Their agents and numbers.
    Number,
}

impl Sort {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Memory => "private",
            Self::Served => "served",
            Self::Number => "worker",
        }
    }

    const fn next(self) -> Self {
        match self {
            Self::Busy => Self::Memory,
            Self::Memory => Self::Served,
            Self::Served => Self::Number,
            Self::Number => Self::Busy,
        }
    }
}

/// What is to be done after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    /// It goes on.
    Go,
    /// It ends.
    End,
}

/// Everything that is shown.
#[derive(Debug)]
pub(super) struct State {
    /// The agents, in the order of their names.
    pub(super) agents: Vec<Seen>,
    /// The order of workers.
    pub(super) sort: Sort,
    /// Nothing new is looked for.
    pub(super) paused: bool,
    /// How many workers are scrolled out of sight.
    pub(super) scrolled: usize,
    /// Whether the terminal takes colours.
    pub(super) colours: bool,
}

impl State {
    pub(super) const fn new(colours: bool) -> Self {
        Self {
            agents: Vec::new(),
            sort: Sort::Busy,
            paused: false,
            scrolled: 0,
            colours,
        }
    }

    /// Takes what was seen now.
    pub(super) fn see(&mut self, agents: Vec<Seen>) {
        self.agents = agents;
        self.scrolled = self.scrolled.min(self.last());
    }

    /// A key was pressed.
    pub(super) fn press(&mut self, key: KeyEvent) -> Doing {
        if key.kind == KeyEventKind::Release {
            return Doing::Go;
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Doing::End,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Doing::End,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('s') => (self.sort, self.scrolled) = (self.sort.next(), 0),
            KeyCode::Down => self.scrolled = (self.scrolled + 1).min(self.last()),
            KeyCode::Up => self.scrolled = self.scrolled.saturating_sub(1),
            KeyCode::PageDown => self.scrolled = (self.scrolled + 10).min(self.last()),
            KeyCode::PageUp => self.scrolled = self.scrolled.saturating_sub(10),
            KeyCode::Home => self.scrolled = 0,
            _ => {}
        }
        Doing::Go
    }

    fn last(&self) -> usize {
        let workers: usize = self.agents.iter().map(|seen| seen.stats.workers.len()).sum();
        workers.saturating_sub(1)
    }

    /// Every worker with its agent's name, sorted.
    pub(super) fn workers(&self) -> Vec<(&str, &WorkerInfo)> {
        let mut workers: Vec<(&str, &WorkerInfo)> = self
            .agents
            .iter()
            .flat_map(|seen| seen.stats.workers.iter().map(|worker| (seen.name.as_str(), worker)))
            .collect();
        workers.sort_by(|(_, a), (_, b)| match self.sort {
            Sort::Busy => b.busy_seconds.total_cmp(&a.busy_seconds),
            Sort::Memory => b.private_bytes.cmp(&a.private_bytes),
            Sort::Served => b.served.cmp(&a.served),
            Sort::Number => std::cmp::Ordering::Equal,
        });
        workers
    }

    /// Every project, once: what all agents together have of it. Those that are asked for most come first.
    pub(super) fn projects(&self) -> Vec<Project> {
        let mut all: Vec<Project> = Vec::new();
        for project in self.agents.iter().flat_map(|seen| &seen.projects) {
            let at = all.iter().position(|known| known.name == project.project);
            let at = at.unwrap_or_else(|| {
                all.push(Project {
                    name: project.project.clone(),
                    ..Project::default()
                });
                all.len() - 1
            });
            let known = &mut all[at];
            known.pinned |= project.pinned;
            known.workers += project.workers;
            known.hits += project.hits;
            known.load_ms = known.load_ms.max(project.load_ms);
            if known.problem.is_empty() {
                known.problem.clone_from(&project.problem);
            }
        }
        all.sort_by(|a, b| b.hits.cmp(&a.hits).then_with(|| a.name.cmp(&b.name)));
        all
    }
}

/// What all agents together have of a project.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Project {
    pub(super) name: String,
    pub(super) pinned: bool,
    pub(super) workers: u32,
    pub(super) hits: u64,
    /// The longest of the last loads, in milliseconds.
    pub(super) load_ms: f64,
    pub(super) problem: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(name: &str, workers: &[(u64, f64)]) -> Seen {
        let worker = |&(id, busy_seconds)| WorkerInfo {
            id,
            busy_seconds,
            served: id,
            ..WorkerInfo::default()
        };
        let mut seen = Seen {
            name: name.into(),
            ..Seen::default()
        };
        seen.stats.workers = workers.iter().map(worker).collect();
        seen
    }

    fn ids(state: &State) -> Vec<u64> {
        state.workers().iter().map(|(_, worker)| worker.id).collect()
    }

    #[test]
    fn keys_sort_scroll_pause_and_end() {
        let mut state = State::new(false);
        state.see(vec![seen("a", &[(1, 0.0), (2, 5.0)]), seen("b", &[(3, 1.0)])]);
        assert_eq!(ids(&state), [2, 3, 1]);
        let press = |state: &mut State, code: KeyCode| state.press(KeyEvent::from(code));
        press(&mut state, KeyCode::Char('s'));
        press(&mut state, KeyCode::Char('s'));
        assert_eq!((state.sort, ids(&state)), (Sort::Served, vec![3, 2, 1]));
        press(&mut state, KeyCode::Char('s'));
        assert_eq!(ids(&state), [1, 2, 3]);
        for _ in 0..9 {
            press(&mut state, KeyCode::Down);
        }
        assert_eq!(state.scrolled, 2);
        state.see(vec![seen("a", &[(1, 0.0)])]);
        assert_eq!(state.scrolled, 0);
        press(&mut state, KeyCode::Char('p'));
        assert!(state.paused);
        assert_eq!(press(&mut state, KeyCode::Char('c')), Doing::Go);
        let control = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(state.press(control), Doing::End);
        assert_eq!(press(&mut state, KeyCode::Char('q')), Doing::End);
    }

    #[test]
    fn projects_of_all_agents_are_added_up() {
        let project = |name: &str, hits, problem: &str| CachedProject {
            project: name.into(),
            hits,
            workers: 1,
            problem: problem.into(),
            ..CachedProject::default()
        };
        let mut state = State::new(false);
        let mut agents = vec![seen("a", &[]), seen("b", &[])];
        agents[0].projects = vec![project("/x", 1, ""), project("/y", 5, "")];
        agents[1].projects = vec![project("/x", 6, "bad")];
        state.see(agents);
        let all = state.projects();
        assert_eq!(
            (all.len(), all[0].name.as_str(), all[0].hits, all[0].workers),
            (2, "/x", 7, 2)
        );
        assert_eq!(all[0].problem, "bad");
    }
}
