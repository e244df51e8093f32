//! Log and snapshot as the first release wrote them are read for ever; a newer format is refused.
//!
//! `tests/fixtures/format-1/raft` was written by [`write`] and is never written again. When the format changes, the
//! new one gets a folder of its own: `COREDISCOVER_FIXTURES=tests/fixtures/format-N/raft cargo test --lib format_tests`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use openraft::storage::{RaftLogReader as _, RaftLogStorage as _, RaftLogStorageExt as _};
use openraft::{EntryPayload, Membership};

use super::directory::Directory;
use super::log::{Log, LogSettings};
use super::snapshot::SnapshotStore;
use super::types::{Entry, LogId, Peer, Proposal, SnapshotMeta, StoredMembership, Vote};
use crate::agent::rpc::{decode, encode};
use crate::host::disk::{Disk, HostDisk};
use crate::model::catalog::{
    Catalog, Check, Command, Condition, Depth, Deregistration, KvDelete, KvWrite, NodeRegistration,
    Registration, Service, Status,
};
use crate::model::names::ClusterId;

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/format-1/raft");
/// Two segments hold it all.
const SEGMENT_BYTES: u64 = 2048;

fn disk() -> Arc<dyn Disk> {
    Arc::new(HostDisk)
}

fn settings(folder: &Path) -> LogSettings {
    LogSettings {
        first_bytes: SEGMENT_BYTES,
        max_bytes: 2 * SEGMENT_BYTES,
        ..LogSettings::in_folder(disk(), folder)
    }
}

fn cluster() -> ClusterId {
    "6ee2ac94-10db-410c-ba51-608a2924ba01".parse().unwrap()
}

/// One of each kind.
fn commands() -> Vec<Command> {
    let node = NodeRegistration {
        id: "0b6c1f0e-5df3-4a55-9a0b-1f6f1e0a7c11".into(),
        node: "m1".into(),
        address: "10.0.0.1".into(),
        datacenter: "dc1".into(),
        tagged_addresses: Some(BTreeMap::from([("lan".into(), "10.0.0.1".into())])),
        meta: Some(BTreeMap::from([("rack".into(), "7".into())])),
    };
    let service = Service {
        id: "web-1".into(),
        name: "web".into(),
        tags: vec!["v1".into()],
        port: 8080,
        meta: BTreeMap::from([("team".into(), "a".into())]),
        ..Service::default()
    };
    let check = Check {
        check_id: "web-1-ttl".into(),
        name: "Web".into(),
        status: Status::Warning,
        output: "slow".into(),
        service_id: "web-1".into(),
        ..Check::default()
    };
    let write = |key: &str, value: &'static [u8], condition| {
        let value = Bytes::from_static(value);
        Command::KvWrite(KvWrite { key: key.into(), value, flags: u64::MAX, condition })
    };
    vec![
        Command::ClusterBorn { cluster_id: cluster() },
        Command::Register(Box::new(Registration {
            node: node.clone(),
            skip_node_update: false,
            service: Some(service),
            checks: vec![check],
        })),
        write("a/b", b"value", Condition::None),
        write("a/c", b"\x00\xff", Condition::ModifyIndex(0)),
        Command::KvDelete(KvDelete { key: "a/c".into(), recurse: false, modify_index: None }),
        Command::KvReap { before: 1 },
        Command::Batch(vec![
            Command::Register(Box::new(Registration { node, ..Registration::default() })),
            Command::Deregister(Deregistration {
                node: "m1".into(),
                service_id: None,
                check_id: Some("none".into()),
            }),
        ]),
    ]
}

fn membership() -> Membership<u64, Peer> {
    let peer = |number: u64| {
        let address = format!("10.0.0.{number}:8300").parse().unwrap();
        (number, Peer { name: format!("m{number}"), address, incarnation: format!("incarnation {number}") })
    };
    let voters = vec![BTreeSet::from([1, 2]), BTreeSet::from([1, 3])];
    Membership::new(voters, [1, 2, 3, 4].map(peer).into_iter().collect::<BTreeMap<_, _>>()).unwrap()
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new_term_index(term, index)
}

/// The entries that were not purged, and then a blank one of the next term.
fn entries() -> Vec<Entry> {
    let mut entries = vec![Entry { log_id: log_id(1, 2), payload: EntryPayload::Membership(membership()) }];
    for (command, index) in commands().iter().zip(3..) {
        let payload = EntryPayload::Normal(Proposal(encode(command).unwrap()));
        entries.push(Entry { log_id: log_id(2, index), payload });
    }
    entries.push(Entry { log_id: log_id(3, 10), payload: EntryPayload::Blank });
    entries
}

fn catalog() -> Catalog {
    let mut catalog = Catalog::default();
    for (command, index) in commands().iter().zip(1..) {
        catalog.apply(index, command).result.unwrap();
    }
    catalog
}

fn meta() -> SnapshotMeta {
    let last_membership = StoredMembership::new(Some(log_id(1, 0)), membership());
    SnapshotMeta { last_log_id: Some(log_id(1, 1)), last_membership }
}

async fn write(folder: &Path) {
    let directory = Directory::open_folder(&disk(), folder).unwrap();
    directory.set_owner(u64::MAX, Some(cluster())).unwrap();
    let store = SnapshotStore::in_folder(&directory.snapshots()).unwrap();
    let snapshot = Bytes::from(catalog().to_bytes(Depth::Full).unwrap());
    store.save(&meta(), &snapshot).unwrap();
    let mut log = Log::open(settings(&directory.log())).unwrap();
    let blank = |index| Entry { log_id: log_id(1, index), payload: EntryPayload::Blank };
    log.save_vote(&Vote::new(1, 7)).await.unwrap();
    log.blocking_append([blank(0), blank(1)]).await.unwrap();
    let mut entries = entries();
    let last = entries.pop().unwrap();
    log.blocking_append(entries).await.unwrap();
    log.blocking_append([blank(10), blank(11)]).await.unwrap();
    log.truncate_after(Some(log_id(2, 9))).await.unwrap();
    log.save_vote(&Vote::new_committed(3, u64::MAX)).await.unwrap();
    log.save_committed(Some(log_id(2, 8))).await.unwrap();
    log.purge(log_id(1, 1)).await.unwrap();
    log.blocking_append([last]).await.unwrap();
    log.close();
}

async fn check(folder: &Path) {
    let directory = Directory::open_folder(&disk(), folder).unwrap();
    let owner = directory.owner().unwrap().unwrap();
    assert_eq!((owner.node, owner.cluster), (u64::MAX, Some(cluster())));
    let store = SnapshotStore::in_folder(&directory.snapshots()).unwrap();
    let (found, snapshot) = store.load().unwrap().unwrap();
    assert_eq!(found, meta());
    let found = Catalog::from_bytes(&snapshot).unwrap();
    let wanted = catalog();
    assert_eq!((found.index(), found.cluster()), (wanted.index(), wanted.cluster()));
    assert_eq!(found.node("m1"), wanted.node("m1"));
    assert_eq!(found.to_bytes(Depth::Full).unwrap(), wanted.to_bytes(Depth::Full).unwrap());
    let mut log = Log::open(settings(&directory.log())).unwrap();
    assert_eq!(log.try_get_log_entries(0..).await.unwrap(), entries());
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new_committed(3, u64::MAX)));
    assert_eq!(log.read_committed().await.unwrap(), Some(log_id(2, 8)));
    assert_eq!(log.get_log_state().await.unwrap().last_purged_log_id, Some(log_id(1, 1)));
    for (entry, command) in entries()[1..].iter().zip(commands()) {
        let EntryPayload::Normal(proposal) = &entry.payload else { panic!("{entry}") };
        assert_eq!(decode::<Command>(&proposal.0).unwrap(), command);
    }
    // It goes on from there.
    log.blocking_append([Entry { log_id: log_id(3, 11), payload: EntryPayload::Blank }]).await.unwrap();
    log.close();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            std::fs::copy(&path, &to).unwrap();
        }
    }
}

fn fixture() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let raft = folder.path().join("raft");
    copy(Path::new(FIXTURE), &raft);
    (folder, raft)
}

#[tokio::test]
async fn the_log_and_the_snapshot_of_the_first_release_are_read() {
    let (_folder, raft) = fixture();
    check(&raft).await;
}

#[tokio::test]
async fn what_is_written_now_is_read_too() {
    if let Some(folder) = std::env::var_os("COREDISCOVER_FIXTURES") {
        write(Path::new(&folder)).await;
        std::fs::remove_file(Path::new(&folder).join("lock")).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    write(folder.path()).await;
    check(folder.path()).await;
}

fn refused<T>(opened: anyhow::Result<T>, path: &Path) {
    let Err(error) = opened else { panic!("{} of a newer format is read", path.display()) };
    let report = crate::hint::report(&error);
    for word in [&*path.display().to_string(), "format 2", "this program reads 1", "hint: ", "newer version"]
    {
        assert!(report.contains(word), "`{word}` is not in: {report}");
    }
}

#[test]
fn a_newer_format_of_log_snapshot_and_owner_is_refused_with_the_file_and_advice() {
    let (_folder, raft) = fixture();
    let directory = Directory::open_folder(&disk(), &raft).unwrap();
    let patch = |path: &Path, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = std::fs::read(path).unwrap();
        change(&mut bytes);
        crate::host::files::write_atomic(path, &bytes, 0o600).unwrap();
    };
    let segment = directory.log().join("00000000000000000002.log");
    patch(&segment, &|bytes| {
        bytes[8] = 2;
        let checksum = crc32fast::hash(&bytes[..60]).to_le_bytes();
        bytes[60..64].copy_from_slice(&checksum);
    });
    refused(Log::open(settings(&directory.log())), &segment);
    let snapshot = directory.snapshots().join("catalog.snapshot");
    patch(&snapshot, &|bytes| bytes[8] = 2);
    refused(SnapshotStore::in_folder(&directory.snapshots()).unwrap().load(), &snapshot);
    let owner = raft.join("owner.json");
    let newer = br#"{"format": 2, "nodes": []}"#;
    patch(&owner, &|bytes| *bytes = newer.to_vec());
    refused(directory.owner(), &owner);
}
