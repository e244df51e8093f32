//! One client that wants all DNS connections (RFC 7766): it gets its share, and the others are answered.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::{is_open, with_a_stranger};
use crate::support::eventually;
use crate::support::machine::PATIENCE;
use crate::support::netns::beside;
use crate::support::resolver::addresses_over_tcp;

/// Connections of one client address.
const PER_CLIENT: usize = 128;
/// How many more it wants.
const EXCESS: usize = 40;
/// Questions that others ask meanwhile, each on a connection of its own.
const ASKED: usize = 20;
/// How long each may take.
const ANSWERED: Duration = Duration::from_secs(2);
/// A name that the server itself stands for.
const NAME: &str = "consul.service.consul";

/// Connects and asks; None when the connection was closed without an answer.
fn asked(server: SocketAddr) -> Option<(TcpStream, BTreeSet<Ipv4Addr>)> {
    let mut stream = TcpStream::connect(server).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let found = addresses_over_tcp(&mut stream, NAME)?;
    Some((stream, found))
}

#[test]
fn one_client_gets_its_share_of_dns_connections_and_others_are_answered_meanwhile() {
    let _turn = beside();
    let (machine, network) = with_a_stranger();
    let server = machine.socket(8600);
    let all = BTreeSet::from([machine.address]);
    let _others = network.enter();
    eventually(PATIENCE, "its name is found", || (asked(server)?.1 == all).then_some(()));
    let mut held: Vec<TcpStream> = {
        let _bad = network.enter_machine(1);
        let wanted = (0..PER_CLIENT + EXCESS).map(|_| asked(server));
        wanted.flatten().map(|(stream, _)| stream).collect()
    };
    assert_eq!(held.len(), PER_CLIENT, "it gets its share and no more");
    for _ in 0..ASKED {
        let began = Instant::now();
        let (_, found) = asked(server).expect("another client is answered");
        assert_eq!(found, all);
        assert!(began.elapsed() < ANSWERED, "{:?}", began.elapsed());
        // A connection that is used stands.
        for stream in &mut held {
            assert_eq!(addresses_over_tcp(stream, NAME).as_ref(), Some(&all));
        }
    }
    assert_eq!(machine.dig(&[NAME]), [machine.address.to_string()], "nor does UDP suffer");
    // Who is silent loses its connections, and its places are free again.
    eventually(PATIENCE, "silent connections are closed", || {
        held.iter().all(|stream| !is_open(stream)).then_some(())
    });
    let _bad = network.enter_machine(1);
    eventually(PATIENCE, "the one who wanted all is answered", || (asked(server)?.1 == all).then_some(()));
}
