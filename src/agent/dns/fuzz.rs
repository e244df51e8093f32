//! For `crate::fuzz`: any datagram as a question to a small catalog.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use hickory_proto::op::Message;

use super::unusual::{Reading, error_reply, read};
use crate::model::catalog::{Catalog, Command, NodeRegistration, Registration, Service};
use crate::model::dns::wire::{Head, parse_query};
use crate::model::dns::{Policy, Question, Rcode, Transport, View, Zones, answer, bytes_max, fit};

/// A few nodes with a service each, of every kind of address.
static CATALOG: LazyLock<Catalog> = LazyLock::new(|| {
    let mut catalog = Catalog::default();
    for (index, address) in (1..).zip(["10.0.0.1", "fd00::1", "host.example", "web.service.consul"]) {
        let node = NodeRegistration {
            node: format!("node{index}"),
            address: address.to_owned(),
            meta: Some([("rfc1035-text".to_owned(), "t".repeat(300))].into()),
            ..NodeRegistration::default()
        };
        let service = Service {
            id: "web".to_owned(),
            name: "web".to_owned(),
            tags: vec!["a".to_owned(), "b.c".to_owned()],
            port: 80,
            ..Service::default()
        };
        let registration = Registration { node, service: Some(service), ..Registration::default() };
        catalog.apply(index, &Command::Register(Box::new(registration)));
    }
    catalog
});

/// Any bytes as a question, by both transports. An answer must be within its limit and readable by others.
pub(crate) fn message(bytes: &[u8]) {
    let peer = ([127, 0, 0, 1], 53).into();
    for transport in [Transport::Udp, Transport::Tcp] {
        if let Some(query) = parse_query(bytes) {
            reply(query.head(false), transport);
        }
        match read(bytes, peer, transport, true) {
            Reading::Question(head) => reply(head, transport),
            Reading::Error(bytes) => check(&bytes),
            Reading::Noise => {}
        }
    }
    if let Some(reply) = error_reply(bytes, Rcode::ServFail) {
        assert_eq!(reply[..2], bytes[..2]);
    }
}

fn reply(head: Head, transport: Transport) {
    let zones = Zones {
        primary: "consul".parse().expect("this is a name"),
        alternative: Some("alt.example".parse().expect("this is a name")),
        datacenter: "dc1".to_owned(),
    };
    let policy = Policy::default();
    let hidden = BTreeSet::new();
    let view = View { catalog: &CATALOG, zones: &zones, policy: &policy, hidden: &hidden, seed: 1, time: 1 };
    let mut found = answer(&view, &Question::parse(&head.name, head.kind, &zones));
    let bytes = fit(&mut found, &head, transport, &policy);
    let size = head.edns.as_ref().map(|edns| edns.size);
    let options = head.edns.as_ref().map_or(0, |edns| edns.options.len());
    assert!(bytes.len() <= bytes_max(transport, size) + options, "the answer has {} bytes", bytes.len());
    check(&bytes);
}

fn check(bytes: &[u8]) {
    let read = Message::from_vec(bytes);
    assert!(read.is_ok(), "nobody can read our answer: {read:?} {bytes:?}");
}
