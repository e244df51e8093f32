//! For `crate::fuzz`: bodies of messages between servers, log files and snapshots.

use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, VoteRequest,
    VoteResponse,
};

use super::network::SnapshotPiece;
use super::types::TypeConfig;
use crate::agent::rpc::messages::{
    FollowEvent, FollowQuestion, KvReadAnswer, KvReadQuestion, ProposeAnswer, ReadIndexAnswer,
    ReadIndexQuestion,
};
use crate::agent::rpc::{Hello, decode};
use crate::model::catalog::{Catalog, Command, Depth};
use crate::model::election::{BirthReply, BirthRequest};

#[cfg(test)]
pub(crate) use super::log::fuzz::seeds as log_seeds;
pub(crate) use super::log::fuzz::segment as log_segment;

/// The body of any message; what is a command is applied.
pub(crate) fn messages(bytes: &[u8]) {
    drop(decode::<Hello>(bytes));
    drop(decode::<AppendEntriesRequest<TypeConfig>>(bytes));
    drop(decode::<AppendEntriesResponse<TypeConfig>>(bytes));
    drop(decode::<VoteRequest<TypeConfig>>(bytes));
    drop(decode::<VoteResponse<TypeConfig>>(bytes));
    drop(decode::<TransferLeaderRequest<TypeConfig>>(bytes));
    drop(decode::<SnapshotPiece>(bytes));
    drop(decode::<SnapshotResponse<TypeConfig>>(bytes));
    drop(decode::<ProposeAnswer>(bytes));
    drop(decode::<ReadIndexQuestion>(bytes));
    drop(decode::<ReadIndexAnswer>(bytes));
    drop(decode::<KvReadQuestion>(bytes));
    drop(decode::<KvReadAnswer>(bytes));
    drop(decode::<FollowQuestion>(bytes));
    drop(decode::<BirthRequest>(bytes));
    drop(decode::<BirthReply>(bytes));
    if let Ok(FollowEvent::Commands(commands)) = decode::<FollowEvent>(bytes) {
        for (_, command) in &commands {
            apply(command);
        }
    }
    apply(bytes);
}

/// A catalog that took a command goes through a snapshot unchanged.
fn apply(bytes: &[u8]) {
    let Ok(command) = decode::<Command>(bytes) else { return };
    let mut catalog = Catalog::default();
    catalog.apply(1, &command);
    catalog.apply(2, &command);
    let saved = catalog.to_bytes(Depth::Full).expect("a catalog can be written");
    let read = Catalog::from_bytes(&saved).expect("what we write we read");
    assert_eq!(read.to_bytes(Depth::Full).ok(), Some(saved));
}

/// A snapshot: the file, and the catalog in it.
pub(crate) fn snapshot(bytes: &[u8]) {
    drop(super::snapshot::decode(Bytes::copy_from_slice(bytes)));
    if let Some((_, content)) = bytes.split_at_checked(16) {
        // No damage would get past the checksum.
        let mut sealed = bytes.to_vec();
        sealed[12..16].copy_from_slice(&crc32fast::hash(content).to_le_bytes());
        if let Ok((_, catalog)) = super::snapshot::decode(Bytes::from(sealed)) {
            drop(Catalog::from_bytes(&catalog));
        }
    }
    if let Ok(catalog) = Catalog::from_bytes(bytes) {
        let saved = catalog.to_bytes(Depth::Full).expect("a catalog can be written");
        let again = Catalog::from_bytes(&saved).expect("what we write we read");
        assert_eq!(again.to_bytes(Depth::Full).ok(), Some(saved));
    }
}

/// Bodies as they are sent.
#[cfg(test)]
pub(crate) fn message_seeds() -> Vec<Vec<u8>> {
    use std::time::Duration;

    use crate::agent::handle::{Freshness, KvRead, ReadMode};
    use crate::agent::rpc::encode;
    use crate::agent::rpc::messages::ReadIndex;
    use crate::model::catalog::{Condition, Deregistration, KvDelete, KvQuery, KvWrite, Registration};
    use crate::model::names::ClusterId;
    use openraft::impls::leader_id_std::LeaderId;

    let write = KvWrite {
        key: "a/b".to_owned(),
        value: Bytes::from_static(b"value"),
        flags: 1,
        condition: Condition::ModifyIndex(2),
    };
    let delete = KvDelete { key: "a".to_owned(), recurse: true, modify_index: None };
    let removed = Deregistration { node: "n".to_owned(), ..Deregistration::default() };
    let commands = [
        Command::ClusterBorn { cluster_id: ClusterId::from_random(1) },
        Command::Register(Box::new(registration())),
        Command::Register(Box::<Registration>::default()),
        Command::Deregister(removed.clone()),
        Command::KvWrite(write),
        Command::KvDelete(delete),
        Command::KvReap { before: 3 },
        Command::Batch(vec![Command::Deregister(removed)]),
    ];
    let mut seeds: Vec<Bytes> = commands.iter().map(|command| encode(command).unwrap()).collect();
    let vote = super::types::Vote { leader_id: LeaderId { term: 1, voted_for: 2 }, committed: true };
    let log_id = Some(super::types::LogId::new_term_index(1, 2));
    let freshness = Freshness { known_leader: true, last_contact: Duration::from_millis(5) };
    let append = AppendEntriesRequest::<TypeConfig> {
        vote,
        prev_log_id: log_id,
        entries: Vec::new(),
        leader_commit: log_id,
    };
    let query = KvQuery::Get { key: "a".to_owned() };
    seeds.extend([
        encode(&append).unwrap(),
        encode(&VoteRequest::<TypeConfig>::new(vote, log_id)).unwrap(),
        encode(&ReadIndexQuestion { mode: ReadMode::Consistent }).unwrap(),
        encode(&ReadIndexAnswer::Ok(ReadIndex { index: 1, discovery: 2 })).unwrap(),
        encode(&KvRead { query, mode: ReadMode::Default, blocking: None }).unwrap(),
        encode(&FollowQuestion { have: Some(7) }).unwrap(),
        encode(&FollowEvent::Alive { index: 1, freshness }).unwrap(),
        encode(&FollowEvent::Snapshot { total: 9, piece: Bytes::from_static(b"piece") }).unwrap(),
        encode(&FollowEvent::Commands(vec![(1, seeds[1].clone())])).unwrap(),
        encode(&BirthReply::Accepted { cluster_id: ClusterId::from_random(1), born: true }).unwrap(),
    ]);
    seeds.into_iter().map(Vec::from).collect()
}

#[cfg(test)]
fn registration() -> crate::model::catalog::Registration {
    let body = serde_json::json!({
        "Node": "n", "Address": "10.0.0.1", "NodeMeta": {"k": "v"},
        "Service": {"Service": "web", "Tags": ["a"], "Port": 80},
        "Check": {"Name": "c", "CheckID": "c", "Status": "passing"}
    });
    crate::model::api::catalog::decode_register(&body).unwrap().0
}

/// A snapshot's file and the catalog in it.
#[cfg(test)]
pub(crate) fn snapshot_seeds() -> Vec<Vec<u8>> {
    let mut catalog = Catalog::default();
    catalog.apply(1, &Command::Register(Box::new(registration())));
    let bytes = catalog.to_bytes(Depth::Full).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = super::snapshot::SnapshotStore::in_folder(folder.path()).unwrap();
    store.save(&super::types::SnapshotMeta::default(), &Bytes::from(bytes.clone())).unwrap();
    let file = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    vec![bytes, std::fs::read(file).unwrap()]
}
