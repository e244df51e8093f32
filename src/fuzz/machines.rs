//! What other machines and etcd say: gossip, claims, certificates, etcd's answers.

use std::net::SocketAddr;
use std::time::Duration;

use super::take_part;
use crate::agent::rpc;
use crate::bootstrap::etcd_v2::view_of_answer;
use crate::bootstrap::keys::{Pair, view_of};
use crate::bootstrap::version::Version;
use crate::model::election::birth::Patience;
use crate::model::election::gossip_birth::GossipEvent;
use crate::model::election::{
    Birth, BirthRecord, Event, GossipBirth, Incarnation, LocalState, Machine, SeenServer, View,
};
use crate::model::membership::{Config, DATAGRAM_BYTES_MAX, Input, Output, Swim, Tags};

/// A story: each part is what came in next, its first byte says how.
pub(super) fn gossip(bytes: &[u8]) {
    let own: SocketAddr = ([127, 0, 0, 1], 8301).into();
    let mut swim = Swim::new(Config::default(), "me".to_owned(), own, Tags::default(), 1);
    let mut now = Duration::ZERO;
    let mut exchange = 0;
    let mut rest = bytes;
    while let Some(part) = take_part(&mut rest) {
        let Some((how, content)) = part.split_first() else { continue };
        now += Duration::from_millis(u64::from(how >> 4) * 100);
        let content = content.to_vec();
        let input = match how & 7 {
            0 => Input::StreamRequest { stream: 1, bytes: content },
            1 => Input::StreamReply { exchange, bytes: content },
            2 => Input::StreamConnected { exchange },
            3 => Input::Join { request: 1, to: ([127, 0, 0, 2], 8301).into() },
            4 => Input::Tick,
            _ => Input::Datagram { from: ([127, 0, 0, 2], 8301).into(), bytes: content },
        };
        for output in swim.step(now, input) {
            match output {
                Output::Datagram { bytes, .. } => assert!(bytes.len() <= DATAGRAM_BYTES_MAX),
                Output::Exchange { exchange: number, .. } => exchange = number,
                Output::Reply { .. } | Output::Event(_) => {}
            }
        }
        assert!(swim.members().iter().any(|member| member.name == "me"), "it has forgotten itself");
    }
}

/// What the store shows, and what a machine that sees it does next: keys and values in turn.
pub(super) fn claims(bytes: &[u8]) {
    const PREFIX: &str = "/p";
    let mut rest = bytes;
    let mut local = LocalState::default();
    let mut pairs = Vec::new();
    for number in 1.. {
        let Some(key) = take_part(&mut rest) else { break };
        let value = take_part(&mut rest).unwrap_or_default();
        if key == b"birth.json" {
            local = serde_json::from_slice(value).unwrap_or_default();
        }
        let key = format!("{PREFIX}/{}", String::from_utf8_lossy(key));
        pairs.push(Pair { key, value: value.to_vec(), created: number, modified: number });
    }
    if let Ok(view) = view_of(PREFIX, &pairs, |machine, _| machine.modified) {
        see(&view, local);
    }
}

/// A machine `m1` sees this for a minute.
fn see(view: &View, local: LocalState) {
    let machine = Machine {
        machine_id: "m1".parse().expect("this is a machine-id"),
        address: "10.0.0.1".to_owned(),
        incarnation: Incarnation::from_random(1),
        boot_id: "boot".to_owned(),
        name: "m1".to_owned(),
        version: "1".to_owned(),
        expect: 3,
    };
    let raft_state = local.record.as_ref().is_some_and(|record| record.formed);
    let mut birth = Birth::new(machine, Patience::default(), local, raft_state);
    birth.step(Duration::ZERO, 1, Event::Started);
    for second in 0..60_u64 {
        let now = Duration::from_secs(second);
        birth.step(now, u128::from(second), Event::StoreChanged(view.clone()));
        birth.step(now, u128::from(second), Event::ClaimWritten { won: second % 2 == 0 });
        birth.step(now, u128::from(second), Event::CertificateWritten { won: second % 3 == 0 });
        birth.step(now, u128::from(second), Event::Probed { cluster: None });
    }
}

/// An answer of etcd's v2 API: the status in two bytes, then the body.
pub(super) fn etcd_v2(bytes: &[u8]) {
    if let Some((status, body)) = bytes.split_first_chunk::<2>() {
        let status = u16::from_be_bytes(*status);
        if let Ok(Some(view)) = view_of_answer("/p", status, body) {
            see(&view, LocalState::default());
        }
        crate::bootstrap::etcd_v2::fuzz_event(status, body);
        if let Ok(version) = Version::read(body) {
            assert!(!version.to_string().is_empty());
        }
    }
}

/// Births without etcd: requests and replies, each as it comes by RPC, in turn.
pub(super) fn gossip_birth(bytes: &[u8]) {
    let server = |number: u8| SeenServer {
        node_id: u64::from(number),
        name: format!("m{number}"),
        incarnation: Incarnation::from_random(u128::from(number)),
        address: format!("10.0.0.{number}:8300"),
        expect: Some(3),
        cluster: None,
    };
    let mut birth = GossipBirth::new(server(1), false, BirthRecord::default(), false);
    birth.step(Duration::ZERO, 0, GossipEvent::Looked);
    let seen = vec![server(2), server(3)];
    let mut rest = bytes;
    for number in 0.. {
        let Some(part) = take_part(&mut rest) else { break };
        let event = match (rpc::decode(part), rpc::decode(part)) {
            (Ok(request), _) => GossipEvent::Request { number, request },
            (_, Ok(reply)) => GossipEvent::Reply { from: Incarnation::from_random(2), reply },
            _ => GossipEvent::Seen(seen.clone()),
        };
        let now = Duration::from_millis(number * 200);
        birth.step(now, u128::from(number), event);
        birth.step(now, u128::from(number), GossipEvent::Timer);
    }
}
