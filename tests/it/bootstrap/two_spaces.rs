//! One etcd that serves both APIs holds two key spaces: machines must never be born in both.

use std::time::Duration;

use corediscover::bootstrap::version::Space;
use corediscover::bootstrap::{self, Api, CLAIM_TTL, ClaimStore as _, EtcdV2, EtcdV3};
use corediscover::hint;
use corediscover::model::election::Role;
use corediscover::model::election::certificate::{Certificate, bind, form, freeze};
use corediscover::model::election::{Claim, Incarnation};
use corediscover::model::names::ClusterId;

use super::{Machine, PREFIX, details};
use crate::support::etcd::Etcd;
use crate::support::eventually;

fn open(etcd: &Etcd, api: Api) -> bootstrap::Etcd {
    bootstrap::Etcd::new(vec![etcd.url()], PREFIX, None, CLAIM_TTL, api).unwrap()
}

/// A certificate for one machine that no store has seen.
fn foreign_certificate() -> Certificate {
    let claim = Claim {
        machine_id: "m9".parse().unwrap(),
        address: "10.0.0.9".to_owned(),
        details: details(9),
        created: 1,
        revision: 1,
    };
    freeze(&[claim], 1, ClusterId::from_random(9)).unwrap()
}

#[tokio::test]
async fn an_etcd_that_serves_both_is_used_by_v3() {
    let etcd = Etcd::start_with_v2();
    let store = open(&etcd, Api::Auto);
    assert!(store.put_claim(&"m1".parse().unwrap(), "10.0.0.1", &details(1), None).await.unwrap());
    assert_eq!(etcd.pairs("/consul.io/bootstrap/machines").len(), 1);
    assert_eq!(etcd.pairs_v2("/"), []);
}

#[tokio::test]
async fn a_certificate_of_the_other_api_is_named_and_nothing_is_written() {
    for (own, other) in [(Space::V3, Space::V2), (Space::V2, Space::V3)] {
        let etcd = Etcd::start_with_v2();
        let certificate = foreign_certificate();
        match other {
            Space::V2 => {
                let store = EtcdV2::new(&[etcd.url()], PREFIX, None, CLAIM_TTL).unwrap();
                assert!(store.create_certificate(&certificate).await.unwrap());
            }
            Space::V3 => {
                let store = EtcdV3::new(vec![etcd.url()], PREFIX, None, CLAIM_TTL);
                assert!(store.create_certificate(&certificate).await.unwrap());
            }
        }
        let store = open(&etcd, if own == Space::V3 { Api::Auto } else { Api::Only(own) });
        let report = hint::report(&store.watch().await.err().unwrap());
        let advice = format!("--etcd-api {other}");
        for text in [certificate.cluster_id.as_str(), "/consul.io/bootstrap/cluster", &advice, "hint: "] {
            assert!(report.contains(text), "`{text}` is not in: {report}");
        }
        assert!(store.create_certificate(&foreign_certificate()).await.is_err());
        // Once it is gone, the machine goes on.
        match other {
            Space::V2 => etcd.remove_v2(PREFIX),
            Space::V3 => drop(etcd.etcdctl(&["del", "--prefix", PREFIX])),
        }
        drop(store.watch().await.unwrap());
    }
}

#[tokio::test]
async fn a_cluster_that_has_formed_is_not_disturbed_by_what_others_do_by_the_other_api() {
    let etcd = Etcd::start_with_v2();
    let formed = form(&bind(&foreign_certificate(), &Incarnation::from_random(9)).unwrap());
    let store = open(&etcd, Api::Auto);
    assert!(store.create_certificate(&formed).await.unwrap());
    let strayed = EtcdV2::new(&[etcd.url()], PREFIX, None, CLAIM_TTL).unwrap();
    assert!(strayed.put_claim(&"m1".parse().unwrap(), "10.0.0.1", &details(1), None).await.unwrap());
    drop(store.watch().await.unwrap());
}

/// Claims, freezes and binds as a machine does, looking at nothing but its own space; tells whether it is bound.
async fn tries_to_be_born(store: &bootstrap::Etcd, number: u128) -> bool {
    let id = format!("m{number}").parse().unwrap();
    let tried = async {
        store.put_claim(&id, &format!("10.0.0.{number}"), &details(number), None).await?;
        let view = store.snapshot().await?;
        store.create_certificate(&freeze(&view.claims, 1, ClusterId::from_random(number))?).await?;
        let (certificate, revision) = store.snapshot().await?.certificate.unwrap();
        let bound = bind(&certificate, &details(number).incarnation)?;
        store.compare_and_swap_certificate(revision, &bound).await
    };
    let tried: anyhow::Result<bool> = tried.await;
    tried.is_ok_and(|bound| bound)
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_that_were_told_different_apis_are_never_bound_to_two_certificates() {
    let etcd = Etcd::start_with_v2();
    for round in 0..100 {
        let prefix = format!("/round/{round}");
        let open = |api| bootstrap::Etcd::new(vec![etcd.url()], &prefix, None, CLAIM_TTL, api).unwrap();
        let stores = (open(Api::Only(Space::V2)), open(Api::Only(Space::V3)));
        let (v2, v3) = tokio::join!(tries_to_be_born(&stores.0, 2), tries_to_be_born(&stores.1, 3));
        assert!(!(v2 && v3), "two clusters in round {round}");
    }
}

#[tokio::test]
async fn two_certificates_that_were_written_in_the_same_moment_are_never_bound() {
    let etcd = Etcd::start_with_v2();
    // As if both sides had looked before either of them wrote.
    let (v2, v3) = (
        EtcdV2::new(&[etcd.url()], PREFIX, None, CLAIM_TTL).unwrap(),
        EtcdV3::new(vec![etcd.url()], PREFIX, None, CLAIM_TTL),
    );
    let certificate = foreign_certificate();
    assert!(v2.create_certificate(&certificate).await.unwrap());
    assert!(v3.create_certificate(&certificate).await.unwrap());
    let bound = bind(&certificate, &Incarnation::from_random(9)).unwrap();
    for space in [Space::V2, Space::V3] {
        let store = open(&etcd, Api::Only(space));
        let error = store.compare_and_swap_certificate(1, &bound).await.unwrap_err();
        assert!(hint::report(&error).contains("remove the key"), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_that_come_later_with_the_other_api_start_nothing() {
    let etcd = Etcd::start_with_v2();
    let folder = tempfile::tempdir().unwrap();
    let start = |number: usize, api| Machine::start(number, folder.path(), open(&etcd, api), true);
    let mut first: Vec<Machine> = (1..=3).map(|number| start(number, Api::Only(Space::V2))).collect();
    for machine in &mut first {
        machine.plan().await;
    }
    let late: Vec<Machine> = (4..=6).map(|number| start(number, Api::Auto)).collect();
    // One that does as the first is born meanwhile.
    let mut seventh = start(7, Api::Only(Space::V2));
    assert_eq!(seventh.plan().await.role, Role::Client);
    for machine in first.into_iter().chain([seventh]) {
        machine.stop().await;
    }
    for machine in late {
        assert!(machine.seen.borrow().plans.is_empty(), "it has started an agent");
        machine.stop().await;
    }
    assert_eq!(etcd.pairs(PREFIX), [], "nothing was written by the other API");
}

#[test]
fn the_journal_of_a_machine_that_uses_the_wrong_api_says_what_to_do() {
    use crate::support::machine::Machine;
    let etcd = Etcd::start_with_v2();
    let value = serde_json::to_string(&foreign_certificate()).unwrap().replace('"', "%22");
    assert_eq!(etcd.put_v2("/consul.io/bootstrap/cluster", &format!("value={value}")).0, 201);
    let machine = Machine::bootstrap("lost", &etcd.url(), 1).started();
    eventually(Duration::from_secs(30), "it says what to do", || {
        let log = machine.log();
        (log.contains("--etcd-api v2") && log.contains("etcdctl rm /consul.io/bootstrap/cluster"))
            .then_some(())
    });
    assert_eq!(etcd.pairs(PREFIX), [], "it has not claimed");
}
