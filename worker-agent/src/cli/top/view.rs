//! What `top` shows: agents with their pressure, lanes with their queues, workers and projects. Pure: a state and a size
//! give cells.

use graticule_proto::v1::{AgentPhase, WorkerInfo};
use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Row, Table, Widget as _};

use super::super::show::{phase, plain, worker_cells};
use super::state::{Seen, State};

/// Rows that projects have at least, their head included.
const PROJECTS: u16 = 6;

/// No column but the last is wider, in letters, unless its head is.
const WIDEST: usize = 28;

/// Draws everything into the area.
pub(super) fn view(state: &State, area: Rect, buffer: &mut Buffer) {
    let (agents, lanes) = (agent_rows(state), lane_rows(state));
    let height = |rows: usize| u16::try_from(rows + 2).unwrap_or(u16::MAX);
    // On a low screen workers keep some room, for they are what it is about.
    let agents_height = height(agents.len()).min(area.height / 3 + 2);
    let [head, agents_area, lanes_area, workers_area, projects_area, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(agents_height),
        Constraint::Length(height(lanes.len())),
        Constraint::Fill(1),
        Constraint::Length(height(state.projects().len()).min(PROJECTS.max(area.height / 4))),
        Constraint::Length(1),
    ])
    .areas(area);
    let ink = Ink(state.colours);
    Line::from(summary(state))
        .style(Style::new().add_modifier(Modifier::BOLD))
        .render(head, buffer);
    ink.table(
        [
            "AGENT", "PHASE", "LIVE", "BUSY", "WAITING", "REQUESTS", "FAILURES", "MEMORY", "NOTES",
        ],
        agents,
    )
    .render(agents_area, buffer);
    ink.table(["LANE", "RUNNING", "WAITING", "GUARANTEED", "MAXIMUM"], lanes)
        .render(lanes_area, buffer);
    ink.table(
        [
            "AGENT", "WORKER", "PID", "STATE", "START", "SERVED", "PRIVATE", "BUSY", "PROJECTS",
        ],
        worker_rows(state),
    )
    .render(workers_area, buffer);
    ink.table(
        ["PROJECT", "PINNED", "WORKERS", "HITS", "LOAD", "NOTES"],
        project_rows(state),
    )
    .render(projects_area, buffer);
    let keys = format!(
        "q end  p {}  s sort by another column (now {})  arrows scroll",
        if state.paused { "go on" } else { "pause" },
        state.sort.name()
    );
    Line::from(keys)
        .style(Style::new().add_modifier(Modifier::DIM))
        .render(foot, buffer);
}

/// One frame as text, as high as it has to be.
pub(super) fn text(state: &State, (width, most): (u16, u16)) -> String {
    let rows = agent_rows(state).len() + lane_rows(state).len() + state.workers().len() + state.projects().len();
    let height = u16::try_from(rows + 11).unwrap_or(most).min(most);
    let area = Rect::new(0, 0, width, height * 2);
    let mut buffer = Buffer::empty(area);
    view(state, area, &mut buffer);
    let lines = (0..area.height).map(|y| {
        let line: String = (0..area.width).map(|x| buffer[(x, y)].symbol()).collect();
        line.trim_end().to_owned()
    });
    let mut lines: Vec<String> = lines.collect();
    // The keys are of no use on paper, nor is what space they left.
    lines.pop();
    lines.dedup_by(|a, b| a.is_empty() && b.is_empty());
    lines.join("\n").trim_end().to_owned() + "\n"
}

/// Colours, where the terminal takes them.
#[derive(Clone, Copy)]
struct Ink(bool);

impl Ink {
    /// Columns are as wide as what they hold, up to a bound; the last one has what is left.
    fn table<'a, const N: usize>(self, heads: [&'a str; N], rows: Vec<[String; N]>) -> Table<'a> {
        let mut widths = heads.map(str::len);
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().clamp(*width, WIDEST.max(*width));
            }
        }
        let mut widths = widths.map(|width| Constraint::Length(u16::try_from(width).unwrap_or(u16::MAX)));
        if let Some(last) = widths.last_mut() {
            *last = Constraint::Fill(1);
        }
        let rows = rows
            .into_iter()
            .map(move |row| Row::new(row.map(|cell| self.cell(cell))));
        let head = Row::new(heads).style(Style::new().add_modifier(Modifier::UNDERLINED));
        Table::new(rows.collect::<Vec<_>>(), widths)
            .header(head)
            .column_spacing(2)
    }

    fn cell<'a>(self, text: String) -> Line<'a> {
        let colour = match text.as_str() {
            "ready" | "idle" => Color::Green,
            "starting" | "draining" | "busy" | "cancelling" | "leaving" => Color::Yellow,
            "failing" | "unreachable" => Color::Red,
            _ => Color::Reset,
        };
        let style = if self.0 { Style::new().fg(colour) } else { Style::new() };
        Line::from(Span::styled(text, style))
    }
}

fn summary(state: &State) -> String {
    let told = state.agents.iter().filter(|seen| seen.problem.is_none());
    let (mut live, mut capacity, mut busy, mut waiting, mut ready) = (0, 0, 0, 0, 0);
    for seen in told {
        let agent = seen.stats.state.clone().unwrap_or_default();
        live += agent.live;
        capacity += agent.capacity;
        busy += agent.busy;
        waiting += agent.waiting;
        ready += u32::from(agent.phase() == AgentPhase::Ready);
    }
    let paused = if state.paused { "  (paused)" } else { "" };
    let agents = state.agents.len();
    format!(
        "{ready} of {agents} agents ready, {live} of {capacity} workers live, {busy} busy, {waiting} requests waiting{paused}"
    )
}

/// A figure and its bar, full at the bound or above.
fn bar(value: f64, bound: f64) -> String {
    const WIDTH: f64 = 8.0;
    let share = if bound > 0.0 {
        (value / bound).clamp(0.0, 1.0)
    } else {
        0.0
    };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 8")]
    let full = (share * WIDTH).round() as usize;
    format!("{value:.2} {:<8}", "█".repeat(full))
}

fn name(seen: &Seen) -> String {
    if seen.name.is_empty() {
        "-".to_owned()
    } else {
        plain(&seen.name)
    }
}

fn agent_rows(state: &State) -> Vec<[String; 9]> {
    let row = |seen: &Seen| {
        if let Some(problem) = &seen.problem {
            let none = String::new;
            let state = "unreachable".to_owned();
            return [
                name(seen),
                state,
                none(),
                none(),
                none(),
                none(),
                none(),
                none(),
                plain(problem),
            ];
        }
        let agent = seen.stats.state.clone().unwrap_or_default();
        let memory = seen.stats.memory.as_ref();
        let mut notes = Vec::new();
        if agent.degraded {
            notes.push("degraded".to_owned());
        }
        if !agent.waits_for.is_empty() {
            notes.push(format!("waits for {}", agent.waits_for.join(", ")));
        }
        notes.extend(
            agent
                .pin_problems
                .iter()
                .map(|(pin, problem)| format!("{pin}: {problem}")),
        );
        [
            name(seen),
            phase(&seen.stats),
            format!("{}/{}", agent.live, agent.capacity),
            agent.busy.to_string(),
            agent.waiting.to_string(),
            bar(agent.request_pressure, 2.0),
            bar(agent.failure_pressure, 5.0),
            memory.map_or_else(String::new, |m| format!("{}/{}", gigabytes(m.used), gigabytes(m.total))),
            plain(&notes.join("; ")),
        ]
    };
    state.agents.iter().map(row).collect()
}

#[allow(clippy::cast_precision_loss, reason = "bytes to show, not to count")]
fn gigabytes(bytes: u64) -> String {
    format!("{:.1}G", bytes as f64 / 1e9)
}

/// The lanes of all agents together, in the order in which agents name them.
fn lane_rows(state: &State) -> Vec<[String; 5]> {
    let mut all: Vec<(String, [u32; 4])> = Vec::new();
    for lane in state.agents.iter().flat_map(|seen| &seen.stats.lanes) {
        let figures = [lane.running, lane.waiting, lane.guaranteed, lane.maximum];
        match all.iter_mut().find(|(name, _)| *name == lane.name) {
            Some((_, sums)) => sums.iter_mut().zip(figures).for_each(|(sum, figure)| *sum += figure),
            None => all.push((lane.name.clone(), figures)),
        }
    }
    let row = |(name, figures): (String, [u32; 4])| {
        let [running, waiting, guaranteed, maximum] = figures.map(|figure| figure.to_string());
        [plain(&name), running, waiting, guaranteed, maximum]
    };
    all.into_iter().map(row).collect()
}

fn worker_rows(state: &State) -> Vec<[String; 9]> {
    let workers = state.workers().into_iter().skip(state.scrolled);
    let row = |(agent, worker): (&str, &WorkerInfo)| {
        let agent = if agent.is_empty() { "-".to_owned() } else { plain(agent) };
        let [id, pid, state, start, served, memory, busy, projects] = worker_cells(worker);
        [agent, id, pid, state, start, served, memory, busy, projects]
    };
    workers.map(row).collect()
}

fn project_rows(state: &State) -> Vec<[String; 6]> {
    let row = |project: super::state::Project| {
        [
            plain(&project.name),
            if project.pinned { "yes" } else { "no" }.to_owned(),
            project.workers.to_string(),
            project.hits.to_string(),
            format!("{:.0} ms", project.load_ms),
            plain(&project.problem),
        ]
    };
    state.projects().into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use graticule_proto::v1::{AgentState, CachedProject, LaneInfo, MemoryInfo, StatsReply, WorkerInfo};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    fn seen(name: &str, busy_seconds: f64) -> Seen {
        let mut agent = AgentState {
            capacity: 2,
            live: 2,
            busy: 1,
            waiting: 3,
            request_pressure: 2.0,
            failure_pressure: 0.5,
            waits_for: vec!["an operator".into()],
            ..AgentState::default()
        };
        agent.set_phase(AgentPhase::Ready);
        let worker = |id, busy_seconds: f64| WorkerInfo {
            id,
            pid: 100 + u32::try_from(id).unwrap(),
            state: if busy_seconds > 0.0 { "busy" } else { "idle" }.into(),
            start: "fork".into(),
            generation: 1,
            served: 7,
            private_bytes: 12_300_000,
            projects: vec!["/world".into()],
            busy_seconds,
        };
        let lane = LaneInfo {
            name: "interactive".into(),
            running: 1,
            waiting: 3,
            guaranteed: 1,
            maximum: 2,
        };
        let memory = MemoryInfo {
            total: 8_000_000_000,
            used: 2_000_000_000,
            ..MemoryInfo::default()
        };
        let project = CachedProject {
            project: "/wor\u{1b}ld".into(),
            pinned: true,
            workers: 2,
            hits: 7,
            load_ms: 120.0,
            ..CachedProject::default()
        };
        let stats = StatsReply {
            state: Some(agent),
            workers: vec![worker(1, 0.0), worker(2, busy_seconds)],
            lanes: vec![lane],
            memory: Some(memory),
            ..StatsReply::default()
        };
        Seen {
            name: name.into(),
            stats,
            projects: vec![project],
            problem: None,
        }
    }

    fn state() -> State {
        let gone = Seen {
            name: "maps-3".into(),
            problem: Some("it went away".into()),
            ..Seen::default()
        };
        let mut state = State::new(false);
        state.see(vec![seen("maps-1", 1.5), seen("maps-2", 9.0), gone]);
        state
    }

    fn drawn(state: &State, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal
            .draw(|frame| view(state, frame.area(), frame.buffer_mut()))
            .unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn a_fleet_on_a_screen() {
        insta::assert_snapshot!(drawn(&state(), 110, 26));
    }

    #[test]
    fn one_agent_on_a_low_screen_when_paused_and_scrolled() {
        let mut state = State::new(false);
        state.see(vec![seen("", 0.0)]);
        (state.paused, state.scrolled) = (true, 1);
        insta::assert_snapshot!(drawn(&state, 80, 16));
    }

    #[test]
    fn on_paper_everything_is_there_and_nothing_of_the_terminal() {
        let text = text(&state(), (120, 200));
        for part in [
            "2 of 3 agents ready",
            "maps-3",
            "unreachable",
            "interactive",
            "/wor ld",
            "9.0 s",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("q end") && !text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn colours_are_there_only_when_they_are_wanted() {
        let area = Rect::new(0, 0, 100, 20);
        let coloured = |state: &State| {
            let mut buffer = Buffer::empty(area);
            view(state, area, &mut buffer);
            buffer.content().iter().any(|cell| cell.fg == Color::Green)
        };
        let mut state = state();
        assert!(!coloured(&state));
        state.colours = true;
        assert!(coloured(&state));
    }

    #[test]
    fn a_bar_is_full_at_its_bound() {
        assert_eq!(bar(0.0, 2.0), "0.00         ");
        assert_eq!(bar(1.0, 2.0), "1.00 ████    ");
        assert_eq!(bar(7.0, 2.0), "7.00 ████████");
    }
}
