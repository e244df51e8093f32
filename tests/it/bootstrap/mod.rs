//! Birth against a real etcd: one conformance suite for all stores, races, outages, expired and wiped keys.
//! Here the agents are stand-ins; the real ones are started by the tests of `cluster` and `killed`.

mod killed;
mod machines;
mod suite;
mod tls;
mod two_spaces;
mod v2;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use corediscover::bootstrap::version::Space;
use corediscover::bootstrap::{self, ClaimStore as _, Embedded, EtcdV3};
use corediscover::model::election::{Plan, Role};

use self::machines::{Machine, World, is_formed, may_initialise, until};
use self::suite::{a_store_keeps_its_promises, details, since_start};
use crate::support::etcd::Etcd;

/// Generous: the machine may be busy. Nothing waits longer than it must.
const DEADLINE: Duration = Duration::from_mins(1);
const PREFIX: &str = "/consul.io/bootstrap";

/// The test runs once by each API.
macro_rules! by_both_apis {
    ($($name:ident)*) => {$(
        mod $name {
            use corediscover::bootstrap::version::Space;

            #[tokio::test(flavor = "multi_thread")]
            async fn v2() {
                super::$name(super::World::new(Space::V2)).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn v3() {
                super::$name(super::World::new(Space::V3)).await;
            }
        }
    )*};
}

by_both_apis! {
    seven_machines_at_once_have_three_first_servers_twenty_times
    without_a_birth_exactly_three_of_seven_may_initialise
    machines_wait_for_an_etcd_that_is_not_there_yet_and_do_without_it_after_the_birth
    a_claim_whose_lease_expired_is_made_again
    keys_wiped_after_the_birth_are_written_again_and_a_new_machine_joins
    a_cloned_machine_id_is_refused_and_both_boots_are_named
    a_machine_that_lost_its_disk_joins_and_never_initialises
}

#[tokio::test]
async fn the_store_in_memory_keeps_its_promises() {
    let coordinator = Embedded::in_memory(since_start(), Duration::from_secs(1));
    Box::pin(a_store_keeps_its_promises([coordinator.store(), coordinator.store(), coordinator.store()]))
        .await;
}

#[tokio::test]
async fn the_store_in_a_file_keeps_its_promises() {
    let folder = tempfile::tempdir().unwrap();
    let (file, clock) = (folder.path().join("coordinator.json"), since_start());
    let open = || Embedded::in_file(&file, clock.clone(), Duration::from_secs(1)).store();
    Box::pin(a_store_keeps_its_promises([open(), open(), open()])).await;
}

#[tokio::test]
async fn etcd_keeps_its_promises() {
    let etcd = Etcd::start();
    let open = || EtcdV3::new(vec![etcd.url()], PREFIX, None, Duration::from_secs(1));
    Box::pin(a_store_keeps_its_promises([open(), open(), open()])).await;
    assert!(
        etcd.pairs(PREFIX)
            .iter()
            .any(|(key, address)| { key == "/consul.io/bootstrap/machines/m1" && address == "10.0.0.1" })
    );
}

async fn seven_machines_at_once_have_three_first_servers_twenty_times(world: World) {
    for round in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        let prefix = format!("/round/{round}");
        let machines: Vec<Machine> = (1..=7)
            .map(|number| {
                let store = world.store_at(&prefix, Duration::from_mins(1));
                Machine::start(number, folder.path(), store, true)
            })
            .collect();
        let mut servers = BTreeSet::new();
        let mut first = 0;
        let mut clusters = BTreeSet::new();
        let mut running = Vec::new();
        for (number, mut machine) in machines.into_iter().enumerate() {
            let plan = machine.plan().await;
            clusters.insert(plan.cluster_id.clone().expect("every plan names the cluster"));
            if matches!(plan.role, Role::Server { .. }) {
                servers.insert(number);
                first += usize::from(may_initialise(&plan));
            }
            assert!(!plan.join.is_empty(), "it knows whom to join");
            running.push(machine);
        }
        assert_eq!(servers.len(), 3, "round {round}");
        // A first server that was slow finds the cluster formed, and does not initialise any more.
        assert!(first >= 1, "round {round}");
        assert_eq!(clusters.len(), 1, "round {round}: {clusters:?}");
        let pairs = world.pairs(&format!("{prefix}/machines"));
        let mut addresses: Vec<&str> = pairs.iter().map(|(_, address)| address.as_str()).collect();
        addresses.sort_unstable();
        assert_eq!(addresses, (1..=7).map(|number| format!("10.0.0.{number}")).collect::<Vec<_>>());
        for machine in running {
            machine.stop().await;
        }
        assert_eq!(world.pairs(&format!("{prefix}/machines")), [], "claims are given back");
    }
}

async fn without_a_birth_exactly_three_of_seven_may_initialise(world: World) {
    let folder = tempfile::tempdir().unwrap();
    let machines: Vec<Machine> = (1..=7)
        .map(|number| Machine::start(number, folder.path(), world.store(bootstrap::CLAIM_TTL), false))
        .collect();
    until(&world, "three are bound", |pairs| {
        pairs.iter().any(|(key, value)| {
            key.ends_with("/cluster")
                && serde_json::from_str::<serde_json::Value>(value).unwrap()["bound"]
                    .as_array()
                    .unwrap()
                    .len()
                    == 3
        })
    })
    .await;
    let plans =
        || -> Vec<Plan> { machines.iter().flat_map(|machine| machine.seen.borrow().plans.clone()).collect() };
    let end = Instant::now() + DEADLINE;
    while plans().len() < 3 {
        assert!(Instant::now() < end, "three start: {:?}", plans());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(plans().iter().all(may_initialise), "{:?}", plans());
    assert_eq!(plans().len(), 3, "the other four wait for the birth");
    for machine in machines {
        machine.stop().await;
    }
}

async fn machines_wait_for_an_etcd_that_is_not_there_yet_and_do_without_it_after_the_birth(mut world: World) {
    world.etcd.kill();
    let folder = tempfile::tempdir().unwrap();
    let start = |number| Machine::start(number, folder.path(), world.store(bootstrap::CLAIM_TTL), true);
    let mut machines: Vec<Machine> = (1..=3).map(start).collect();
    assert!(machines.iter().all(|machine| machine.seen.borrow().plans.is_empty()), "nothing starts blind");
    world.etcd.restart();
    let cluster = machines[0].plan().await.cluster_id;
    for machine in &mut machines {
        assert_eq!(machine.plan().await.cluster_id, cluster);
    }
    until(&world, "the birth is on record", is_formed).await;

    // etcd dies; machines stop and start; their disks are enough.
    world.etcd.kill();
    for machine in machines {
        machine.stop().await;
    }
    let start = |number| Machine::start(number, folder.path(), world.store(bootstrap::CLAIM_TTL), true);
    let mut machines: Vec<Machine> = (1..=3).map(start).collect();
    for machine in &mut machines {
        let plan = machine.plan().await;
        assert_eq!(plan.cluster_id, cluster);
        assert_eq!(plan.role, Role::Server { initial: None }, "what is born is not initialised again");
        assert_eq!(plan.join.len(), 2);
    }

    // etcd returns with its data: the machines claim again.
    world.etcd.restart();
    until(&world, "three claims", |pairs| {
        pairs.iter().filter(|(key, _)| key.contains("/machines/")).count() == 3
    })
    .await;
    for machine in machines {
        machine.stop().await;
    }
}

/// When the claim of m1 was made, as etcd counts.
fn created(world: &World) -> Option<i64> {
    let key = "/consul.io/bootstrap/machines/m1";
    match world.space {
        Space::V2 => world.etcd.get_v2(key)["node"]["createdIndex"].as_i64(),
        Space::V3 => {
            let printed = world.etcd.etcdctl(&["get", "--write-out=json", key]);
            let printed: serde_json::Value = serde_json::from_str(&printed).unwrap();
            printed["kvs"][0]["create_revision"].as_i64()
        }
    }
}

async fn a_claim_whose_lease_expired_is_made_again(mut world: World) {
    let folder = tempfile::tempdir().unwrap();
    let store = world.store(Duration::from_secs(1));
    let machine = Machine::start(1, folder.path(), store, true);
    let claimed = |pairs: &[(String, String)]| pairs.iter().any(|(key, _)| key.ends_with("/machines/m1"));
    until(&world, "m1 claims", claimed).await;
    let before = created(&world).unwrap();
    // The lease ends before its time.
    match world.space {
        Space::V2 => world.etcd.remove_v2("/consul.io/bootstrap/machines/m1"),
        Space::V3 => {
            for lease in world.etcd.etcdctl(&["lease", "list"]).lines().skip(1) {
                world.etcd.etcdctl(&["lease", "revoke", lease]);
            }
        }
    }
    let end = Instant::now() + DEADLINE;
    while created(&world).is_none_or(|now| now <= before) {
        assert!(Instant::now() < end, "m1 does not claim again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // etcd restarts: the claim is there, or made again.
    world.etcd.restart();
    until(&world, "m1 claims after the restart", claimed).await;
    machine.stop().await;
}

async fn keys_wiped_after_the_birth_are_written_again_and_a_new_machine_joins(world: World) {
    let folder = tempfile::tempdir().unwrap();
    let start = |number| Machine::start(number, folder.path(), world.store(bootstrap::CLAIM_TTL), true);
    let mut machines: Vec<Machine> = (1..=3).map(start).collect();
    let cluster = machines[0].plan().await.cluster_id;
    until(&world, "the birth is on record", is_formed).await;
    world.wipe();
    until(&world, "the certificate is back", is_formed).await;
    until(&world, "the claims are back", |pairs| {
        pairs.iter().filter(|(key, _)| key.contains("/machines/")).count() == 3
    })
    .await;
    let mut fourth = start(4);
    let plan = fourth.plan().await;
    assert_eq!((plan.role, plan.cluster_id), (Role::Client, cluster));
    fourth.stop().await;
    for machine in machines {
        machine.stop().await;
    }
}

async fn a_cloned_machine_id_is_refused_and_both_boots_are_named(world: World) {
    let folder = tempfile::tempdir().unwrap();
    let other = world.store(Duration::from_mins(1));
    let mut foreign = details(7);
    "another-boot".clone_into(&mut foreign.boot_id);
    assert!(other.put_claim(&"m1".parse().unwrap(), "10.0.0.99", &foreign, None).await.unwrap());
    let machine = Machine::start(1, folder.path(), world.store(bootstrap::CLAIM_TTL), true);
    let error = tokio::time::timeout(DEADLINE, machine.task).await.expect("it ends").unwrap().unwrap_err();
    let report = corediscover::hint::report(&error);
    let own_boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert!(report.contains("another-boot") && report.contains(own_boot.trim()), "{report}");
    assert!(report.contains("hint: "), "{report}");
}

async fn a_machine_that_lost_its_disk_joins_and_never_initialises(world: World) {
    let folder = tempfile::tempdir().unwrap();
    let start = |number| Machine::start(number, folder.path(), world.store(bootstrap::CLAIM_TTL), true);
    let mut machines: Vec<Machine> = (1..=3).map(start).collect();
    let cluster = machines[0].plan().await.cluster_id;
    until(&world, "the birth is on record", is_formed).await;
    machines.pop().unwrap().stop().await;
    std::fs::remove_dir_all(folder.path().join("m3")).unwrap();
    let mut third = start(3);
    let plan = third.plan().await;
    assert_eq!((plan.role, plan.cluster_id), (Role::Client, cluster));
    third.stop().await;
    for machine in machines {
        machine.stop().await;
    }
}

// ---- the command ----

#[track_caller]
fn refused(args: &[&str], code: i32, texts: &[&str]) {
    let output = crate::support::corediscover().arg("bootstrap").args(args).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{errors}");
    for text in texts {
        assert!(errors.contains(text), "`{text}` is not in: {errors}");
    }
}

#[test]
fn wrong_arguments_are_refused_with_advice() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let data_dir = data_dir.to_str().unwrap();
    let with = |etcd, id, advertise, expect| {
        [
            "--etcd",
            etcd,
            "--machine-id",
            id,
            "--advertise",
            advertise,
            "--expect",
            expect,
            "--data-dir",
            data_dir,
        ]
    };
    refused(&[], 2, &["--etcd", "--machine-id", "--advertise", "--expect", "--data-dir"]);
    refused(&with("10.0.0.1:2379", "m1", "10.0.0.1", "3"), 2, &["not a URL of etcd", "hint: "]);
    refused(&with("https://10.0.0.1", "m1", "10.0.0.1", "3"), 2, &["--etcd-ca", "hint: "]);
    refused(&with("http://10.0.0.1", "a/b", "10.0.0.1", "3"), 2, &["not a machine-id"]);
    refused(&with("http://10.0.0.1", "m1", "0.0.0.0", "3"), 2, &["--advertise 0.0.0.0", "hint: "]);
    refused(&with("http://10.0.0.1", "m1", "10.0.0.1", "0"), 2, &["--expect 0", "hint: "]);
    refused(&with("http://10.0.0.1", "m1", "10.0.0.1", "x"), 2, &["--expect"]);
    let api = [&with("http://10.0.0.1", "m1", "10.0.0.1", "3")[..], &["--etcd-api", "v4"]].concat();
    refused(&api, 2, &["v4", "v2, v3, auto"]);
    let no_file = ["--etcd=http://10.0.0.1", "--machine-id-file=/no/such/file", "--advertise=10.0.0.1"];
    let rest = ["--expect=3", "--data-dir", data_dir];
    refused(&[&no_file[..], &rest[..]].concat(), 1, &["/no/such/file", "hint: "]);
    let unwritable = ["--data-dir=/proc/no"];
    let rest = ["--etcd=http://127.0.0.1:1", "--machine-id=m1", "--advertise=10.0.0.1", "--expect=3"];
    refused(&[&unwritable[..], &rest[..]].concat(), 1, &["/proc/no"]);
}

#[test]
fn a_machine_that_waits_says_for_what_and_stops_when_told() {
    use std::io::{BufRead as _, BufReader};
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let file = folder.path().join("coordinator.json");
    let mut command = crate::support::corediscover();
    command
        .args(["bootstrap", "-machine-id=m1", "-advertise=10.0.0.1", "-expect=2"])
        .arg("--embedded")
        .arg(&file)
        .arg("--data-dir")
        .arg(&data_dir)
        .args(["--", "-node", "one"])
        .stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let said = lines.map(Result::unwrap).find(|line| line.contains("have 1 of 2 machines, waiting for 1"));
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap()),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    assert!(said.is_some());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!std::fs::read_to_string(&file).unwrap().contains("10.0.0.1"), "the claim was given back");
}
