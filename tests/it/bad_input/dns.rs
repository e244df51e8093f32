//! Noise on the ports of DNS, gossip and RPC.

use std::io::Write as _;
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use super::{nothing_is_lost, server};
use crate::support::machine::{Machine, PATIENCE};
use crate::support::{eventually, loopback};

/// Datagrams of noise.
const NOISE: usize = 2000;

/// Numbers that look random and are the same each time.
struct Noise(u64);

impl Noise {
    fn byte(&mut self) -> u8 {
        // Knuth's MMIX generator; the high bits are good enough.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0.to_be_bytes()[0]
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.byte()).collect()
    }
}

/// A question with this name in wire format.
fn question(name: &[u8]) -> Vec<u8> {
    [&[0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], name, &[0, 1, 0, 1]].concat()
}

#[test]
fn dns_garbage_is_refused_or_ignored_and_good_questions_are_answered() {
    let machine = server();
    let socket = UdpSocket::bind((loopback(), 0)).unwrap();
    socket.connect(machine.socket(8600)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let good = question(b"\x06before\x07service\x06consul\0");

    // Each is answered with FORMERR or not at all; then a good question is answered.
    let label = |length: u8| [&[length][..], &vec![b'a'; usize::from(length)]].concat();
    let long_name = [label(63).repeat(5), vec![0]].concat();
    let bad: Vec<Vec<u8>> = vec![
        vec![],
        vec![0],
        good[..11].to_vec(),
        good[..12].to_vec(),
        good[..20].to_vec(),
        good[..good.len() - 1].to_vec(),
        question(b"\xc0\x0c"),
        question(b"\x01a\xc0\x0c"),
        question(b"\xc0\xff"),
        question(b"\xff\xff\xff"),
        question(b"\x3fshort\0"),
        question(&long_name),
        [&[0x12, 0x34, 1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff][..], &good[12..]].concat(),
        [&[0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 2][..], &good[12..], b"\0\0\x29\x04\xd0\0\0\0\0\0\xff"]
            .concat(),
        // An answer, which nobody asked for.
        [&[0x12, 0x34, 0x81, 0x80][..], &good[4..]].concat(),
        vec![0xff; 1500],
        vec![0; 4000],
    ];
    for datagram in &bad {
        socket.send(datagram).unwrap();
    }
    let mut noise = Noise(7);
    for _ in 0..NOISE {
        let length = usize::from(noise.byte()) + usize::from(noise.byte());
        let mut datagram = noise.bytes(length);
        if let Some(flags) = datagram.get_mut(2..4) {
            // Half of it looks like a question at least.
            if noise.byte() < 128 {
                flags.copy_from_slice(&[1, 0]);
            }
        }
        socket.send(&datagram).unwrap();
    }
    let mut marked = good.clone();
    marked[..2].copy_from_slice(&[0xbe, 0xef]);
    let mut reply = [0; 4096];
    let answered = eventually(PATIENCE, "the good question behind the noise is answered", || {
        // Some of the noise may have got FORMERR; a full queue may have dropped the question.
        socket.send(&marked).unwrap();
        let length = socket.recv(&mut reply).unwrap();
        (reply[..2] == [0xbe, 0xef] && length > 12).then_some(length)
    });
    assert_eq!((reply[3] & 15, reply[7], answered > marked.len()), (0, 1, true), "{:?}", &reply[..answered]);
    for name in [&b"\xc0\x0c"[..], b"\x01a\xc0\x0c", b"\xc0\xff"] {
        let answer = alone(&machine, &question(name));
        assert!(answer.is_none_or(|code| code == 1), "{name:?}: {answer:?}");
    }
    let (updates, notify) =
        ([&good[..2], &[0x28, 0], &good[4..]].concat(), [&good[..2], &[0x20, 0], &good[4..]].concat());
    for other in [updates, notify] {
        assert!(matches!(alone(&machine, &other), Some(4 | 5)), "NOTIMP or REFUSED");
    }

    // TCP: huge lengths that never come, half a length, nothing, noise, and closing in the middle.
    let mut open = Vec::new();
    for start in [&b"\xff\xff"[..], b"\x00", b"", b"\x00\x1d\x12\x34", b"\x00\x00", b"\x00\x05hello"]
        .iter()
        .cycle()
        .take(90)
    {
        let mut stream = TcpStream::connect(machine.socket(8600)).unwrap();
        stream.write_all(start).unwrap();
        open.push(stream);
    }
    let mut stream = TcpStream::connect(machine.socket(8600)).unwrap();
    stream.write_all(&[&[0xff, 0xff][..], &noise.bytes(65_535)].concat()).unwrap();
    nothing_is_lost(&machine);
    assert_eq!(machine.dig(&["+tcp", "before.service.consul"]), [machine.address.to_string()]);
    drop(open);

    // Noise for gossip and for the servers' port.
    let gossip = machine.socket(8301);
    for length in [0, 1, 7, 100, 1400, 9000] {
        for _ in 0..20 {
            socket.send_to(&noise.bytes(length), gossip).unwrap();
        }
    }
    for port in [8300, 8301] {
        let mut kept = Vec::new();
        for start in [
            noise.bytes(3),
            noise.bytes(5000),
            vec![0xff; 64],
            vec![0; 64],
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        ] {
            let mut stream = TcpStream::connect(machine.socket(port)).unwrap();
            let _closed_early = stream.write_all(&start).is_err();
            kept.push(stream);
        }
        nothing_is_lost(&machine);
    }
    let members = machine.get("/v1/agent/members").unwrap();
    assert_eq!(members.as_array().unwrap().len(), 1, "{members}");
    assert!(!machine.log().contains("panicked"), "{}", machine.log());
}

/// The response code for one datagram, or nothing when it is ignored: a good question behind it is answered first.
fn alone(machine: &Machine, datagram: &[u8]) -> Option<u8> {
    let socket = UdpSocket::bind((loopback(), 0)).unwrap();
    socket.connect(machine.socket(8600)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut marked = question(b"\x06before\x07service\x06consul\0");
    marked[..2].copy_from_slice(&[0xbe, 0xef]);
    socket.send(datagram).unwrap();
    let mut reply = [0; 4096];
    // One socket's datagrams go to one worker, which may answer the unusual one later than the usual.
    socket.send(&marked).unwrap();
    let mut code = None;
    for wait in [PATIENCE, Duration::from_millis(500)] {
        socket.set_read_timeout(Some(wait)).unwrap();
        let Ok(length) = socket.recv(&mut reply) else { break };
        if length > 4 && reply[..2] != [0xbe, 0xef] {
            code = Some(reply[3] & 15);
        }
    }
    code
}
