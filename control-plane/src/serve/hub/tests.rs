use graticule_daemon::ready::Readiness;
use prometheus::Registry;

use super::*;

fn encrypted() -> Secrets {
    let mut config = Config::default();
    config.front.tls.auto = true;
    // Each has a key of its own.
    Secrets::read(&config, &Secrets::default()).unwrap()
}

#[tokio::test]
async fn a_renewal_of_what_no_longer_counts_changes_nothing() {
    let (first, renewed, other) = (encrypted(), encrypted(), encrypted());
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let metrics = Metrics::register(&Registry::new()).unwrap();
    let synced = Readiness::new().wait_for("nothing");
    let config = Arc::new(Config::default());
    let hub = Hub::start(
        Arc::clone(&config),
        first.clone(),
        Desired::default(),
        metrics,
        synced,
        stop,
    );
    let heard = async || {
        let (tell, told) = oneshot::channel();
        hub.tell(Event::Clear(String::new(), tell)).await;
        told.await.unwrap();
        hub.secrets.borrow().clone()
    };
    hub.tell(Event::Renewed(first.clone(), renewed.clone())).await;
    assert_eq!(heard().await, renewed);
    let (counts, counted) = oneshot::channel();
    hub.tell(Event::Configure(config, other.clone(), counts)).await;
    counted.await.unwrap();
    hub.tell(Event::Renewed(renewed, first)).await;
    assert_eq!(heard().await, other);
}

#[test]
fn two_agents_of_one_id_are_said_once_a_minute() {
    let mut twins = Twins::default();
    let at = Duration::from_secs;
    assert!(twins.is_news(at(0), "a"));
    assert!(!twins.is_news(at(59), "a") && twins.is_news(at(59), "b"));
    assert!(twins.is_news(at(60), "a") && !twins.is_news(at(60), "b"));
}
