//! etcd's v2 API, as etcd 2 of old CoreOS speaks it: the same promises, several endpoints, and what goes wrong there.

use std::time::Duration;

use corediscover::bootstrap::{self, Api, ClaimStore as _, EtcdV2};
use corediscover::hint;

use super::{DEADLINE, PREFIX, a_store_keeps_its_promises, details};
use crate::support::etcd::Etcd;
use crate::support::etcd_proxy::Proxy;
use crate::support::eventually;
use crate::support::machine::{Machine, formed};

fn open(url: String, ttl: Duration) -> EtcdV2 {
    EtcdV2::new(&[url], PREFIX, None, ttl).unwrap()
}

async fn keeps_its_promises(proxy: &Proxy) {
    let mut stores = Vec::new();
    for _ in 0..3 {
        let store = open(proxy.url(), Duration::from_secs(1));
        // A store learns with its first watch what its etcd can.
        drop(store.watch().await.unwrap());
        stores.push(store);
    }
    let stores: [EtcdV2; 3] = stores.try_into().unwrap_or_else(|_| panic!("three stores"));
    Box::pin(a_store_keeps_its_promises(stores)).await;
}

#[tokio::test]
async fn etcd_keeps_its_promises_by_its_v2_api() {
    let etcd = Etcd::start_with_v2();
    let proxy = Proxy::start_as(etcd.socket(), "2.3.8");
    keeps_its_promises(&proxy).await;
    assert!(proxy.seen().iter().any(|request| request.contains("refresh=true")), "renewals disturb nobody");
    let pairs = etcd.pairs_v2(PREFIX);
    assert!(
        pairs.contains(&("/consul.io/bootstrap/machines/m1".to_owned(), "10.0.0.1".to_owned())),
        "{pairs:?}"
    );
    assert_eq!(etcd.pairs(PREFIX), [], "nothing is written by the other API");
}

#[tokio::test]
async fn etcd_before_2_3_which_cannot_refresh_keeps_them_too() {
    let etcd = Etcd::start_with_v2();
    let proxy = Proxy::start_as(etcd.socket(), "2.2.5");
    keeps_its_promises(&proxy).await;
    assert!(!proxy.seen().iter().any(|request| request.contains("refresh=")), "it would empty the keys");
}

#[tokio::test]
async fn renewals_without_refresh_keep_the_order_of_the_claims_and_wake_nobody() {
    let etcd = Etcd::start_with_v2();
    let proxy = Proxy::start_as(etcd.socket(), "2.2.5");
    let stores = [1, 2].map(|_| open(proxy.url(), Duration::from_mins(1)));
    for (store, id) in stores.iter().zip(["m1", "m2"]) {
        assert!(store.put_claim(&id.parse().unwrap(), "10.0.0.1", &details(1), None).await.unwrap());
    }
    let mut changes = stores[1].watch().await.unwrap();
    let before = stores[1].snapshot().await.unwrap();
    for _ in 0..3 {
        assert!(stores[0].renew().await.unwrap());
    }
    let third = open(proxy.url(), Duration::from_mins(1));
    assert!(third.put_claim(&"m3".parse().unwrap(), "10.0.0.3", &details(3), None).await.unwrap());
    // Six renewals came before; the first thing that the watch tells is the new claim.
    tokio::time::timeout(DEADLINE, changes.next()).await.expect("the watch tells").unwrap();
    let after = stores[1].snapshot().await.unwrap();
    assert_eq!(after.claims[..2], before.claims[..], "neither place nor revision changed");
    assert_eq!(after.claims.len(), 3);
}

#[tokio::test]
async fn a_watch_that_missed_more_than_etcd_remembers_looks_again() {
    // etcd keeps the last thousand events.
    const EVENTS: usize = 1100;
    let etcd = Etcd::start_with_v2();
    let store = open(etcd.url(), Duration::from_mins(1));
    let mut changes = store.watch().await.unwrap();
    assert!(store.put_claim(&"m1".parse().unwrap(), "10.0.0.1", &details(1), None).await.unwrap());
    for number in 0..EVENTS {
        assert!(etcd.put_v2("/elsewhere", &format!("value={number}")).0 < 300);
    }
    tokio::time::timeout(DEADLINE, changes.next()).await.expect("the watch tells").unwrap();
    assert_eq!(store.snapshot().await.unwrap().claims.len(), 1);
    // And it goes on from there.
    let other = open(etcd.url(), Duration::from_mins(1));
    assert!(other.put_claim(&"m2".parse().unwrap(), "10.0.0.2", &details(2), None).await.unwrap());
    tokio::time::timeout(DEADLINE, changes.next()).await.expect("the watch goes on").unwrap();
}

#[tokio::test]
async fn half_a_claim_that_a_dead_process_left_does_not_stop_its_machine() {
    let etcd = Etcd::start_with_v2();
    let store = open(etcd.url(), Duration::from_mins(1));
    let details = serde_json::to_string(&details(1)).unwrap().replace('"', "%22").replace(' ', "%20");
    let half = format!("value={details}&ttl=600");
    assert_eq!(etcd.put_v2("/consul.io/bootstrap/incarnations/m1", &half).0, 201);
    assert!(store.snapshot().await.unwrap().claims.is_empty());
    assert!(store.put_claim(&"m1".parse().unwrap(), "10.0.0.1", &super::details(1), None).await.unwrap());
    assert_eq!(store.snapshot().await.unwrap().claims.len(), 1);
}

#[tokio::test]
async fn the_next_endpoint_is_asked_when_one_is_dead_and_all_are_named_when_all_are() {
    let mut etcd = Etcd::start_with_v2();
    let dead = format!("http://{}:2379", crate::support::loopback());
    let store = EtcdV2::new(&[dead.clone(), etcd.url()], PREFIX, None, Duration::from_mins(1)).unwrap();
    assert!(store.put_claim(&"m1".parse().unwrap(), "10.0.0.1", &details(1), None).await.unwrap());
    assert!(store.renew().await.unwrap());
    assert_eq!(store.snapshot().await.unwrap().claims.len(), 1);
    etcd.kill();
    let report = hint::report(&store.snapshot().await.unwrap_err());
    for text in [&*dead, &*etcd.url(), "refused"] {
        assert!(report.contains(text), "`{text}` is not in: {report}");
    }
}

#[track_caller]
fn says(error: &anyhow::Error, texts: &[&str]) {
    let report = hint::report(error);
    for text in texts {
        assert!(report.contains(text), "`{text}` is not in: {report}");
    }
}

#[tokio::test]
async fn keys_that_are_directories_or_below_values_are_named_with_advice() {
    let etcd = Etcd::start_with_v2();
    let at = |prefix: &str| EtcdV2::new(&[etcd.url()], prefix, None, Duration::from_mins(1)).unwrap();
    let id = "m1".parse().unwrap();
    assert_eq!(etcd.put_v2("/value", "value=x").0, 201);
    says(&at("/value").snapshot().await.unwrap_err(), &["/value is a value", "hint: ", "--prefix"]);
    let below = at("/value/below").put_claim(&id, "10.0.0.1", &details(1), None).await.unwrap_err();
    says(&below, &["/value", "hint: ", "--prefix"]);
    assert_eq!(etcd.put_v2("/a/cluster", "dir=true").0, 201);
    says(&at("/a").snapshot().await.unwrap_err(), &["/a/cluster is a directory", "hint: ", "--prefix"]);
    assert_eq!(etcd.put_v2("/b/machines/m1", "dir=true").0, 201);
    let taken = at("/b").put_claim(&id, "10.0.0.1", &details(1), None).await.unwrap_err();
    says(&taken, &["/b/machines/m1 is a directory", "hint: "]);
}

#[tokio::test]
async fn an_etcd_without_the_v2_api_says_how_to_go_on() {
    let etcd = Etcd::start();
    let error = open(etcd.url(), Duration::from_mins(1)).snapshot().await.unwrap_err();
    says(&error, &[&etcd.url(), "does not serve the v2 API", "--enable-v2", "--etcd-api v3"]);
}

#[tokio::test]
async fn an_etcd_2_that_is_to_be_used_by_v3_says_how_to_go_on() {
    let etcd = Etcd::start_with_v2();
    let proxy = Proxy::start_as(etcd.socket(), "2.3.8");
    let v3 = Api::Only(bootstrap::version::Space::V3);
    let store = bootstrap::Etcd::new(vec![proxy.url()], PREFIX, None, Duration::from_mins(1), v3).unwrap();
    says(&store.snapshot().await.unwrap_err(), &["etcd 2.3.8", "no v3 API", "hint: ", "--etcd-api v2"]);
}

#[test]
fn machines_that_are_told_nothing_meet_in_an_etcd_2() {
    let etcd = Etcd::start_with_v2();
    let proxy = Proxy::start_as(etcd.socket(), "2.3.8");
    let machines: Vec<Machine> = (1..=4)
        .map(|number| Machine::bootstrap(&format!("machine-{number}"), &proxy.url(), 3).started())
        .collect();
    formed(&machines.iter().collect::<Vec<_>>(), 4);
    let pairs = etcd.pairs_v2("/consul.io/bootstrap/machines");
    for machine in &machines {
        let key = format!("/consul.io/bootstrap/machines/{}", machine.name);
        assert!(pairs.contains(&(key, machine.address.to_string())), "{pairs:?}");
    }
    assert_eq!(pairs.len(), 4);
    // They give their claims back.
    let mut machines = machines;
    for machine in &mut machines {
        machine.stop();
    }
    eventually(DEADLINE, "no claim is left", || {
        etcd.pairs_v2("/consul.io/bootstrap/machines").is_empty().then_some(())
    });
}
