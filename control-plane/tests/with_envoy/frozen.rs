//! A control plane that stood still for a while, as a machine does that is suspended or moved: what nobody heard meanwhile is held
//! against no agent.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::world::{Agents, Envoy, Program};

/// An agent may be silent for so long, in seconds: longer than those take here to say something.
const SILENCE: u64 = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_not_heard_because_the_control_plane_stood_still_is_told_as_before() {
    let variables = [
        ("CONF_FLEET__SYNC_WINDOW", "0".to_owned()),
        ("CONF_FLEET__SILENCE_LIMIT", SILENCE.to_string()),
    ];
    let program = Program::start(Path::new(env!("CARGO_BIN_EXE_control-plane")), &variables).await;
    // One alone: of a pool that is lost as a whole Envoys are told as before in any case.
    let _fleet = Agents::attach(program.fleet, 1, |_| "default".to_owned()).await;
    let mut envoy = Envoy::start(program.xds, "one").await;
    envoy.until_told_of("pool/default", 1).await;
    let told = envoy.times_told("pool/default");

    let process = Pid::from_raw(i32::try_from(program.pid()).unwrap());
    kill(process, Signal::SIGSTOP).unwrap();
    tokio::time::sleep(Duration::from_secs(2 * SILENCE)).await;
    kill(process, Signal::SIGCONT).unwrap();

    // Longer than the silence that is allowed: the agent has been heard since.
    tokio::time::sleep(Duration::from_secs(SILENCE + 2)).await;
    assert_eq!(envoy.times_told("pool/default"), told);
    assert!(program.log().contains("this process stood still"), "{}", program.log());
}
