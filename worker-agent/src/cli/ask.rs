//! How a verb is put to one agent or to a whole fleet, and what the command's exit code is then.

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use graticule_cli::wire::AGENT;
use graticule_cli::{Progress, exit, refused};

use super::answer::{Answer, Outcome, all_as_json, print_one, under_name};
use super::target::{Admin, Agents, One, Target};

/// So many agents of a fleet are asked at once.
const AT_ONCE: usize = 32;

/// How long agents and control planes follow what takes its time, in seconds, but for the end of it.
pub(super) const FOLLOWED: f64 = 570.0;

/// Runs a command to its end; an error is printed and gives its exit code.
pub(super) fn run(work: impl Future<Output = anyhow::Result<u8>>) -> ExitCode {
    let done = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(work));
    ExitCode::from(done.unwrap_or_else(|error| super::fail(&error)))
}

/// What an agent said that did not do it.
pub(super) fn said(status: &tonic::Status) -> anyhow::Error {
    refused(AGENT, status).into()
}

/// Puts a verb to every agent that is meant; `what` says what goes on meanwhile.
pub(super) fn ask(target: &Target, what: &str, verb: impl AsyncFn(Admin) -> anyhow::Result<Answer>) -> ExitCode {
    run(each(target, what, async |one: &One| verb(one.admin().await?).await))
}

/// The same, for verbs that have to know more of the way to an agent.
pub(super) async fn each(
    target: &Target,
    what: &str,
    verb: impl AsyncFn(&One) -> anyhow::Result<Answer>,
) -> anyhow::Result<u8> {
    let agents = target.agents().await?;
    let progress = Progress::new(agents.all().len(), what);
    let fleet = match &agents {
        Agents::One(one) => {
            let answer = verb(one).await;
            drop(progress);
            return Ok(print_one(answer, target.json));
        }
        Agents::Fleet(fleet) => fleet,
    };
    let verb = &verb;
    let asked = stream::iter(
        fleet
            .iter()
            .map(|one| async move { (one.name.clone(), verb(one).await) }),
    );
    let mut asked = std::pin::pin!(asked.buffer_unordered(AT_ONCE));
    let mut outcomes: Vec<Outcome> = Vec::new();
    while let Some(outcome) = asked.next().await {
        if !target.json {
            show(&progress, &outcome);
        }
        progress.step();
        outcomes.push(outcome);
    }
    drop(progress);
    outcomes.sort_by(|a, b| a.0.cmp(&b.0));
    if target.json {
        graticule_cli::say(&format!("{:#}\n", all_as_json(&outcomes)));
    }
    Ok(exit::together(outcomes.iter().map(|(_, outcome)| match outcome {
        Ok(answer) => answer.code,
        Err(error) => exit::code(error),
    })))
}

/// What an agent of the fleet has come to, as soon as it is known.
fn show(progress: &Progress, (name, outcome): &Outcome) {
    match outcome {
        Ok(answer) => {
            progress.say(&under_name(name, &answer.text));
            for note in &answer.notes {
                progress.complain(&format!("worker-agent: {name}: {note}"));
            }
        }
        Err(error) => progress.complain(&format!("worker-agent: {name}: {error:#}")),
    }
}

/// A call that may take so many seconds and a few more; a control plane on the way would give it three minutes.
pub(super) fn for_long<T>(message: T, seconds: f64) -> tonic::Request<T> {
    const MORE: f64 = 30.0;
    let mut request = tonic::Request::new(message);
    if let Ok(bound) = Duration::try_from_secs_f64(seconds + MORE) {
        request.set_timeout(bound);
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_call_says_how_long() {
        let request = for_long((), 90.0);
        assert_eq!(request.metadata().get("grpc-timeout").unwrap(), "120000m");
        assert!(for_long((), -90.0).metadata().is_empty());
    }
}
