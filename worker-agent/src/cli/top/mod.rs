//! `top`: a live full-screen view of agents. What is shown is [`view`]'s, what keys do is [`state`]'s; here are the terminal,
//! the clock and the questions.

mod state;
mod view;

use std::io::{IsTerminal as _, stdout};
use std::process::ExitCode;
use std::time::Duration;

use futures::future::join_all;
use graticule_cli::{Failure, exit, say};
use graticule_proto::v1::{ListCacheRequest, StatsRequest};
use ratatui::crossterm::event::{self, Event};
use ratatui::layout::Rect;
use tokio::sync::mpsc;

use self::state::{Doing, Seen, State};
use super::ask::{run, said};
use super::target::{Agents, One, Which};

/// How large a frame is that is printed, in columns and rows at most.
const PAPER: (u16, u16) = (120, 200);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Keys: q ends it, p pauses it, s sorts by another column, arrows scroll.

Examples:
  worker-agent top
  worker-agent top --fleet 127.0.0.1:18001 --once")]
pub(super) struct Top {
    /// How often to look, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
    /// Print one frame and end, also where there is no terminal
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    which: Which,
}

impl Top {
    pub(super) fn run(self) -> ExitCode {
        run(self.show())
    }

    async fn show(&self) -> anyhow::Result<u8> {
        if !self.once && !stdout().is_terminal() {
            let problem = "standard output is no terminal: use `worker-agent stats --watch`, or --once for one frame";
            return Err(Failure::Usage(problem.into()).into());
        }
        // Who is not there at the beginning may be misspelt; who goes later is shown as gone.
        let agents = self.which.agents().await?;
        let mut state = State::new(graticule_cli::Ink::of_stdout() != graticule_cli::Ink::PLAIN);
        state.see(look(&agents).await);
        if self.once {
            say(&view::text(&state, PAPER));
            return Ok(exit::together(state.agents.iter().map(|seen| match seen.problem {
                None => exit::DONE,
                Some(_) => exit::REFUSED,
            })));
        }
        let mut terminal = ratatui::try_init()?;
        let done = self.live(&mut terminal, state, agents).await;
        ratatui::restore();
        done
    }

    async fn live(
        &self,
        terminal: &mut ratatui::DefaultTerminal,
        mut state: State,
        mut agents: Agents,
    ) -> anyhow::Result<u8> {
        let mut keys = keys();
        let mut clock = tokio::time::interval(Duration::from_secs(self.every));
        // The first tick comes at once, and has been looked at.
        clock.tick().await;
        loop {
            terminal.draw(|frame| {
                let area: Rect = frame.area();
                view::view(&state, area, frame.buffer_mut());
            })?;
            tokio::select! {
                event = keys.recv() => match event {
                    Some(Event::Key(key)) => match state.press(key) {
                        Doing::Go => {}
                        Doing::End => return Ok(exit::DONE),
                    },
                    Some(_) => {}
                    None => return Ok(exit::DONE),
                },
                _ = clock.tick() => {
                    if !state.paused {
                        // Agents of a fleet come and go; when nobody can tell, the last ones stay in sight.
                        if let Ok(found) = self.which.agents().await {
                            agents = found;
                        }
                        state.see(look(&agents).await);
                    }
                }
            }
        }
    }
}

/// What is typed; the thread that reads it ends with the process.
fn keys() -> mpsc::Receiver<Event> {
    let (tell, told) = mpsc::channel(16);
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if tell.blocking_send(event).is_err() {
                return;
            }
        }
    });
    told
}

async fn look(agents: &Agents) -> Vec<Seen> {
    join_all(agents.all().iter().map(async |one| {
        let name = one.name.clone();
        match ask(one).await {
            Ok((stats, cache)) => Seen {
                name,
                stats,
                projects: cache,
                problem: None,
            },
            Err(error) => Seen {
                name,
                problem: Some(format!("{error:#}")),
                ..Seen::default()
            },
        }
    }))
    .await
}

async fn ask(one: &One) -> anyhow::Result<(graticule_proto::v1::StatsReply, Vec<graticule_proto::v1::CachedProject>)> {
    let mut admin = one.admin().await?;
    let stats = admin.stats(StatsRequest {}).await.map_err(|status| said(&status))?;
    let cache = admin
        .list_cache(ListCacheRequest {})
        .await
        .map_err(|status| said(&status))?;
    Ok((stats.into_inner(), cache.into_inner().projects))
}
