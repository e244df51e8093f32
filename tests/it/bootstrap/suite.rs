//! What every store of claims must do, in memory, in a file and in etcd.

use std::sync::Arc;
use std::time::{Duration, Instant};

use corediscover::bootstrap::ClaimStore;
use corediscover::bootstrap::embedded::Clock;
use corediscover::model::election::certificate::{bind, form, freeze};
use corediscover::model::election::{ClaimDetails, Incarnation, View};
use corediscover::model::names::ClusterId;

use super::DEADLINE;

pub(super) fn details(number: u128) -> ClaimDetails {
    ClaimDetails {
        incarnation: Incarnation::from_random(number),
        name: format!("m{number}"),
        boot_id: "boot".to_owned(),
        version: "1".to_owned(),
        cluster: None,
    }
}

/// What every store must do. `stores` are connections of three machines; their leases live for `ttl`.
pub(super) async fn a_store_keeps_its_promises<S: ClaimStore>(stores: [S; 3]) {
    let ids = ["m1", "m2", "m3"].map(|id| id.parse().unwrap());
    let [one, two, three] = &stores;
    assert_eq!(one.snapshot().await.unwrap(), View::default());

    // Claims are create-only and come in order of creation.
    let mut changes = one.watch().await.unwrap();
    assert!(two.put_claim(&ids[1], "10.0.0.2", &details(2), None).await.unwrap());
    tokio::time::timeout(DEADLINE, changes.next()).await.expect("the watch tells").unwrap();
    assert!(one.put_claim(&ids[0], "10.0.0.1", &details(1), None).await.unwrap());
    assert!(!three.put_claim(&ids[0], "10.0.0.9", &details(9), None).await.unwrap(), "it is taken");
    let view = three.snapshot().await.unwrap();
    let seen: Vec<_> = view.claims.iter().map(|claim| (claim.machine_id.as_str(), &*claim.address)).collect();
    assert_eq!(seen, [("m2", "10.0.0.2"), ("m1", "10.0.0.1")]);
    assert_eq!(view.claims[1].details, details(1));

    // A claim changes only by its revision, and keeps its place.
    let mut renamed = details(2);
    "renamed".clone_into(&mut renamed.name);
    let revision = view.claims[0].revision;
    assert!(two.put_claim(&ids[1], "10.0.0.2", &renamed, Some(revision)).await.unwrap());
    assert!(!two.put_claim(&ids[1], "10.0.0.2", &details(2), Some(revision)).await.unwrap(), "it is old");
    let view = two.snapshot().await.unwrap();
    assert_eq!((view.claims[0].machine_id.as_str(), &*view.claims[0].details.name), ("m2", "renamed"));

    // The certificate: one creator, then only compare-and-swap.
    let first = freeze(&view.claims, 2, ClusterId::from_random(1)).unwrap();
    let other = freeze(&view.claims, 1, ClusterId::from_random(2)).unwrap();
    assert!(!one.compare_and_swap_certificate(1, &first).await.unwrap(), "there is nothing to swap");
    assert!(one.create_certificate(&first).await.unwrap());
    assert!(!two.create_certificate(&other).await.unwrap());
    let (certificate, revision) = two.snapshot().await.unwrap().certificate.unwrap();
    assert_eq!(certificate, first);
    let next = form(&bind(&certificate, &details(1).incarnation).unwrap());
    assert!(one.compare_and_swap_certificate(revision, &next).await.unwrap());
    assert!(!two.compare_and_swap_certificate(revision, &other).await.unwrap(), "the revision is old");
    let (certificate, _) = two.snapshot().await.unwrap().certificate.unwrap();
    assert_eq!(certificate, next, "every field came back");

    // A released claim is gone at once; without a renewal a lease ends, and with it the claim. The certificate stays.
    two.release().await.unwrap();
    let claims = one.snapshot().await.unwrap().claims;
    assert_eq!(claims.len(), 1, "{claims:?}");
    assert!(!two.renew().await.unwrap(), "nothing is left to renew");
    assert!(one.renew().await.unwrap());
    let end = Instant::now() + DEADLINE;
    while !one.snapshot().await.unwrap().claims.is_empty() {
        assert!(Instant::now() < end, "the claim never expires");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!one.renew().await.unwrap(), "the lease has ended");
    assert!(one.put_claim(&ids[0], "10.0.0.1", &details(1), None).await.unwrap(), "a new lease, a new claim");
    assert!(one.snapshot().await.unwrap().certificate.is_some());
}

pub(super) fn since_start() -> Clock {
    let start = Instant::now();
    Arc::new(move || start.elapsed())
}
