//! `/readyz` on the data port: what Envoy's own checks of the agent ask. It is answered from what the agent says of itself,
//! without a worker and without QGIS, so that a busy agent answers as fast as an idle one. It says what the control plane
//! is told; the checks are the net under that, and all there is for agents that no control plane knows.

use graticule_proto::v1::{AgentPhase, AgentState};
use http::{Method, StatusCode};

use super::standing::Word;
use super::told::{Told, ToldBody};

/// Where it is asked.
const PATH: &str = "/readyz";

/// Envoy takes an agent whose answer has this header out at once, without waiting for further checks to fail. For an agent
/// that goes by its own decision.
const AT_ONCE: &str = "x-envoy-immediate-health-check-fail";

/// Whether a request is a check. With a query it would be a client's, who names a project.
#[must_use]
pub fn is_check(method: &Method, path: &str, query: Option<&str>) -> bool {
    path == PATH && query.is_none() && (method == Method::GET || method == Method::HEAD)
}

/// The answer: 200 when requests should be sent here, else 503 with the reason.
#[must_use]
pub fn answer(state: &AgentState, word: &Word) -> Told {
    let phase = state.phase();
    let goes = word.is_draining() || matches!(phase, AgentPhase::Draining | AgentPhase::Failing);
    let ready = phase == AgentPhase::Ready && !goes && word.in_error.is_none();
    let text = if ready {
        "ready\n".to_owned()
    } else if phase == AgentPhase::Failing {
        "failing: too many workers have failed\n".to_owned()
    } else {
        let awaited = word.awaits().unwrap_or_else(|| state.waits_for.join(", "));
        let standing = if goes { "draining" } else { "not ready" };
        format!("{standing}, waits for {awaited}\n")
    };
    let mut headers = vec![
        ("content-type".to_owned(), "text/plain; charset=utf-8".to_owned()),
        ("content-length".to_owned(), text.len().to_string()),
        ("cache-control".to_owned(), "no-store".to_owned()),
    ];
    if goes {
        headers.push((AT_ONCE.to_owned(), "true".to_owned()));
    }
    Told {
        status: if ready {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        },
        headers,
        body: ToldBody::Whole(vec![text.into()]),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_check_is_told_from_a_clients_request() {
        assert!(is_check(&Method::GET, "/readyz", None));
        assert!(is_check(&Method::HEAD, "/readyz", None));
        assert!(!is_check(&Method::POST, "/readyz", None));
        assert!(!is_check(&Method::GET, "/readyz", Some("MAP=/world")));
        assert!(!is_check(&Method::GET, "/readyz/x", None));
    }

    #[test]
    fn who_goes_by_decision_is_taken_out_at_once_and_who_is_not_up_yet_is_not() {
        let said = |phase: AgentPhase, word: &Word| {
            let state = AgentState {
                phase: phase.into(),
                waits_for: vec!["workers".to_owned()],
                ..AgentState::default()
            };
            let told = answer(&state, word);
            let ToldBody::Whole(text) = told.body else {
                panic!("it is there whole")
            };
            let at_once = told.headers.iter().any(|(name, _)| name == AT_ONCE);
            let text = String::from_utf8(text.concat()).unwrap();
            (told.status.as_u16(), at_once, text)
        };
        let (none, mut drained, mut stopping, mut in_error) =
            (Word::default(), Word::default(), Word::default(), Word::default());
        drained.drained = Some(Instant::now());
        stopping.stopping = true;
        in_error.in_error = Some("disk".into());
        assert_eq!(said(AgentPhase::Ready, &none), (200, false, "ready\n".to_owned()));
        let starting = said(AgentPhase::Starting, &none);
        assert_eq!(starting, (503, false, "not ready, waits for workers\n".to_owned()));
        // The word is there before the state that follows from it.
        for word in [&drained, &stopping] {
            let (status, at_once, text) = said(AgentPhase::Ready, word);
            assert!(status == 503 && at_once && text.starts_with("draining"), "{text}");
        }
        assert!(said(AgentPhase::Draining, &none).1);
        let (status, at_once, text) = said(AgentPhase::Failing, &none);
        assert!(status == 503 && at_once && text.starts_with("failing"), "{text}");
        let (status, at_once, text) = said(AgentPhase::Ready, &in_error);
        assert!(status == 503 && !at_once && text.ends_with("disk\n"), "{text}");
    }
}
