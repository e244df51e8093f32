//! Sockets for DNS: per address several for UDP (one per worker), and one for TCP on the same port.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use anyhow::Context as _;
use socket2::{Domain, Protocol, Socket, Type};

use crate::hint::WithHint as _;

/// Most workers per address: beyond, the network card is the limit.
const WORKERS_MAX: usize = 8;
/// Bytes that the kernel keeps per UDP socket while its worker is busy: about 4,000 questions. It may give less.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
/// How long a worker waits for a question before it looks whether it should stop.
const RECEIVE_TIMEOUT: Duration = Duration::from_millis(500);
/// TCP connections that the kernel accepts before we do.
const TCP_BACKLOG: i32 = 128;
/// How often another port is tried when the one that TCP got is taken for UDP (only when none was asked for).
const FREE_PORT_ATTEMPTS_MAX: usize = 16;

/// Sockets that are bound, but not served yet.
#[derive(Debug)]
pub struct Bound {
    sockets: Vec<(SocketAddr, Vec<UdpSocket>, TcpListener)>,
}

impl Bound {
    /// The addresses, each for UDP and TCP.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().map(|(address, ..)| *address).collect()
    }

    pub(super) fn into_sockets(self) -> (Vec<UdpSocket>, Vec<TcpListener>) {
        let (udp, tcp): (Vec<_>, Vec<_>) = self.sockets.into_iter().map(|(_, udp, tcp)| (udp, tcp)).unzip();
        (udp.into_iter().flatten().collect(), tcp)
    }
}

/// Binds UDP and TCP on `port` of each address; with port 0 all get one free port.
///
/// # Errors
/// When an address is not ours or in use, or the port is privileged and we are not.
pub fn bind(addresses: &[IpAddr], port: u16) -> anyhow::Result<Bound> {
    let attempts = if port == 0 { FREE_PORT_ATTEMPTS_MAX } else { 1 };
    let mut attempt = 1;
    loop {
        match bind_all(addresses, port) {
            Err(error) if attempt < attempts && is_in_use(&error) => attempt += 1,
            result => return result,
        }
    }
}

fn is_in_use(error: &anyhow::Error) -> bool {
    let causes = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    causes.into_iter().any(|cause| cause.kind() == std::io::ErrorKind::AddrInUse)
}

fn bind_all(addresses: &[IpAddr], mut port: u16) -> anyhow::Result<Bound> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX);
    let mut sockets = Vec::new();
    for address in addresses {
        let advised = |address: SocketAddr, result: std::io::Result<Socket>| {
            result
                .hint("another DNS server may be there: see `ss -lnptu`; ports below 1024 need CAP_NET_BIND_SERVICE")
                .with_context(|| format!("cannot listen for DNS on {address}"))
        };
        // TCP first: its port is exclusive, while UDP sockets of one user may share theirs.
        let tcp_address = SocketAddr::new(*address, port);
        let tcp: TcpListener = advised(tcp_address, tcp_socket(tcp_address))?.into();
        let address = tcp.local_addr().context("cannot tell the port of DNS")?;
        port = address.port();
        let udp = (0..workers).map(|_| advised(address, udp_socket(address)).map(UdpSocket::from));
        sockets.push((address, udp.collect::<anyhow::Result<Vec<_>>>()?, tcp));
    }
    Ok(Bound { sockets })
}

fn tcp_socket(address: SocketAddr) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(TCP_BACKLOG)?;
    Ok(socket)
}

fn udp_socket(address: SocketAddr) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(true)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    socket.set_read_timeout(Some(RECEIVE_TIMEOUT))?;
    if address.ip().is_unspecified() {
        // Replies must come from the address that was asked: the kernel tells it with each datagram.
        if address.is_ipv6() {
            socket.set_recv_pktinfo_v6()?;
        } else {
            socket.set_pktinfo_v4()?;
        }
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// The socket options that socket2 does not have.
trait PacketInfo {
    fn set_pktinfo_v4(&self) -> std::io::Result<()>;
    fn set_recv_pktinfo_v6(&self) -> std::io::Result<()>;
}

impl PacketInfo for Socket {
    fn set_pktinfo_v4(&self) -> std::io::Result<()> {
        nix::sys::socket::setsockopt(self, nix::sys::socket::sockopt::Ipv4PacketInfo, &true)
            .map_err(Into::into)
    }

    fn set_recv_pktinfo_v6(&self) -> std::io::Result<()> {
        nix::sys::socket::setsockopt(self, nix::sys::socket::sockopt::Ipv6RecvPacketInfo, &true)
            .map_err(Into::into)
    }
}
