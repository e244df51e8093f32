//! etcd is killed (SIGKILL) on either side of every step of a birth, by both APIs, and comes back with its data or
//! without: three real machines always end as one cluster.

use std::collections::BTreeSet;

use corediscover::bootstrap::version::Space;
use serde_json::Value;

use super::PREFIX;
use crate::support::etcd::Etcd;
use crate::support::etcd_proxy::{Moment, Proxy, Step, bound_in};
use crate::support::eventually;
use crate::support::machine::{Machine, PATIENCE, formed};

/// What etcd has after its death.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Data {
    Kept,
    Lost,
}

fn certificate(etcd: &Etcd, space: Space) -> Option<Value> {
    let pairs = if space == Space::V2 { etcd.pairs_v2(PREFIX) } else { etcd.pairs(PREFIX) };
    let (_, value) = pairs.into_iter().find(|(key, _)| key.ends_with("/cluster"))?;
    Some(serde_json::from_str(&value).unwrap())
}

fn claims(etcd: &Etcd, space: Space) -> usize {
    let prefix = format!("{PREFIX}/machines");
    if space == Space::V2 { etcd.pairs_v2(&prefix).len() } else { etcd.pairs(&prefix).len() }
}

/// Whether etcd shows what the step wrote.
fn is_done(step: Step, etcd: &Etcd, space: Space) -> bool {
    let certificate = certificate(etcd, space);
    match step {
        Step::Claim => claims(etcd, space) > 0,
        Step::Freeze => certificate.is_some(),
        Step::Bind => certificate.is_some_and(|found| bound(&found) > 0),
        Step::BindSecond => certificate.is_some_and(|found| bound(&found) > 1),
        Step::Form => certificate.is_some_and(|found| found["formed"] == true),
    }
}

/// Whether etcd did what the proxy let pass last, once that is known. It refuses a birth that was told in the same
/// moment as the third machine promised, because the certificate is no longer the one that was read.
fn outcome(step: Step, proxy: &Proxy, etcd: &Etcd, space: Space) -> Option<bool> {
    if is_done(step, etcd, space) {
        return Some(true);
    }
    let told = bound_in(proxy.seen().last()?)?;
    (step == Step::Form && bound(&certificate(etcd, space)?) > told).then_some(false)
}

fn bound(certificate: &Value) -> usize {
    certificate["bound"].as_array().map_or(0, Vec::len)
}

/// What the machine's disk remembers of its birth.
fn record(machine: &Machine) -> Option<Value> {
    let text = std::fs::read_to_string(machine.data().join("birth.json")).ok()?;
    let birth: Value = serde_json::from_str(&text).unwrap();
    birth.get("record").filter(|record| !record.is_null()).cloned()
}

/// The clusters in which a machine has seen a committed entry.
fn formed_clusters(machines: &[Machine]) -> BTreeSet<String> {
    let read = |machine: &Machine| {
        let record = record(machine).filter(|record| record["formed"] == true)?;
        record["cluster_id"].as_str().map(str::to_owned)
    };
    machines.iter().filter_map(read).collect()
}

fn etcd_dies(space: Space, step: Step, moment: Moment, data: Data) {
    let mut etcd = if space == Space::V2 { Etcd::start_with_v2() } else { Etcd::start() };
    let proxy = match space {
        Space::V2 => Proxy::start_as(etcd.socket(), "2.3.8"),
        Space::V3 => Proxy::start(etcd.socket()),
    };
    let first = if step == Step::BindSecond { Moment::Before } else { moment };
    proxy.stop_at(step, first);
    let machines: Vec<Machine> = (1..=3)
        .map(|number| Machine::bootstrap(&format!("machine-{number}"), &proxy.url(), 3).started())
        .collect();
    proxy.wait_reached(PATIENCE);
    if step == Step::BindSecond {
        // The hardest moment: one machine has begun, and the others know nothing.
        eventually(PATIENCE, "a machine has begun", || machines.iter().find_map(record));
    }
    if first != moment {
        proxy.stop_at(step, moment);
        proxy.wait_reached(PATIENCE);
    }
    if moment == Moment::After {
        while !eventually(PATIENCE, "etcd has done the step, or refused it", || {
            outcome(step, &proxy, &etcd, space)
        }) {
            proxy.stop_at(step, moment);
            proxy.wait_reached(PATIENCE);
        }
    }
    match data {
        Data::Kept => {
            etcd.restart();
            let done = is_done(step, &etcd, space);
            // A claim lives under a lease, so that only what has none must still be there.
            assert!(
                step == Step::Claim || done == (moment == Moment::After),
                "the kill came at the wrong time"
            );
        }
        Data::Lost => etcd.restart_empty(),
    }
    proxy.open();

    formed(&machines.iter().collect::<Vec<_>>(), 3);
    let clusters = eventually(PATIENCE, "all machines know that their cluster formed", || {
        let known = |machine: &Machine| formed_clusters(std::slice::from_ref(machine)).len() == 1;
        machines.iter().all(known).then(|| formed_clusters(&machines))
    });
    assert_eq!(clusters.len(), 1, "{clusters:?}");
    let recorded = eventually(PATIENCE, "etcd knows the birth and three machines", || {
        let certificate = certificate(&etcd, space).filter(|found| found["formed"] == true)?;
        (claims(&etcd, space) == 3).then_some(certificate)
    });
    assert_eq!(recorded["cluster_id"].as_str(), clusters.first().map(String::as_str));
    for machine in &machines {
        let peers = machine.get("/v1/status/peers").unwrap();
        assert_eq!(peers.as_array().unwrap().len(), 3, "{peers}");
    }
    assert!(machines[0].put("/v1/kv/alive", "1"));
}

/// One test for each step, side, and fate of the data, by both APIs.
macro_rules! etcd_is_killed {
    ($($name:ident: $step:ident $moment:ident,)*) => {$(
        mod $name {
            use super::{Data, Moment, Space, Step, etcd_dies};

            #[test]
            fn and_comes_back_by_v3() {
                etcd_dies(Space::V3, Step::$step, Moment::$moment, Data::Kept);
            }

            #[test]
            fn and_comes_back_by_v2() {
                etcd_dies(Space::V2, Step::$step, Moment::$moment, Data::Kept);
            }

            #[test]
            fn and_comes_back_empty_by_v3() {
                etcd_dies(Space::V3, Step::$step, Moment::$moment, Data::Lost);
            }

            #[test]
            fn and_comes_back_empty_by_v2() {
                etcd_dies(Space::V2, Step::$step, Moment::$moment, Data::Lost);
            }
        }
    )*};
}

etcd_is_killed! {
    etcd_is_killed_before_the_first_claim: Claim Before,
    etcd_is_killed_after_the_first_claim: Claim After,
    etcd_is_killed_before_the_list_is_frozen: Freeze Before,
    etcd_is_killed_after_the_list_is_frozen: Freeze After,
    etcd_is_killed_before_the_first_machine_is_bound: Bind Before,
    etcd_is_killed_after_the_first_machine_is_bound: Bind After,
    etcd_is_killed_before_the_second_machine_is_bound: BindSecond Before,
    etcd_is_killed_after_the_second_machine_is_bound: BindSecond After,
    etcd_is_killed_before_it_is_told_of_the_birth: Form Before,
    etcd_is_killed_after_it_was_told_of_the_birth: Form After,
}
