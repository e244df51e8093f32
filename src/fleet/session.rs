//! A connection to one machine: TCP with a limit, the host key compared, a key that lets us in.

use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use socket2::{SockRef, TcpKeepalive};
use ssh2::Session;

use super::host_key;
use super::login::{Keys, log_in};
use crate::hint::{WithHint as _, fault};
use crate::model::fleet::machines::Target;

/// Silence after which the kernel asks whether the machine is still there.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(15);
/// How long it may leave that, or what was sent, unanswered before the connection is given up.
const UNANSWERED_MAX: Duration = Duration::from_secs(30);

/// A look at a machine may take this many times what connecting may take: it starts some processes for each unit.
const LOOK_TIMES: u32 = 6;

/// How all machines are reached.
pub struct Settings {
    /// Who to log in as where the machine's name does not say it.
    pub user: String,
    /// The keys to log in with.
    pub keys: Keys,
    /// Where known host keys are.
    pub known_hosts: PathBuf,
    /// Whether keys of hosts that are not known are added to them.
    pub accept_new: bool,
    /// How long each of these may take: connecting, the handshake, the login.
    pub timeout: Duration,
}

/// A connection to a machine that let us in.
pub struct Connection {
    pub(super) session: Session,
    pub(super) socket: TcpStream,
    /// The address that was connected to.
    pub address: IpAddr,
    /// Who we are there.
    pub user: String,
    /// How long a program may take there that only looks.
    pub(super) patience: Duration,
}

impl Connection {
    /// Connects and logs in.
    ///
    /// # Errors
    /// Says what did not work, and what to do about it.
    pub fn open(target: &Target, settings: &Settings) -> anyhow::Result<Self> {
        let (socket, address) = connect(target, settings.timeout)?;
        let mut session = Session::new().context("the SSH library does not start")?;
        // 0 would be for ever.
        session.set_timeout(u32::try_from(settings.timeout.as_millis()).unwrap_or(u32::MAX).max(1));
        session.set_tcp_stream(socket.try_clone().context("cannot share the connection")?);
        let known = host_key::KnownFile::read(&settings.known_hosts)?;
        if target.checks_host_key {
            known.prefer_known_kind(&session, target)?;
        }
        session
            .handshake()
            .with_context(|| format!("{address} does not speak SSH with us"))
            .hint("is it sshd that listens there? A machine that boots may need a moment; --timeout gives it more time")?;
        if target.checks_host_key {
            known.check(&session, target, settings.accept_new)?;
        }
        let user = target.user.clone().unwrap_or_else(|| settings.user.clone());
        log_in(&session, target, &user, &settings.keys)?;
        let patience = settings.timeout.saturating_mul(LOOK_TIMES);
        Ok(Self { session, socket, address: address.ip(), user, patience })
    }
}

fn connect(target: &Target, timeout: Duration) -> anyhow::Result<(TcpStream, SocketAddr)> {
    let addresses = (target.host.as_str(), target.port)
        .to_socket_addrs()
        .with_context(|| format!("`{}` has no address", target.host))
        .hint("is the name right? An address works too")?;
    let mut last = None;
    for address in addresses {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => {
                keep_alive(&stream).context("cannot set the connection up")?;
                return Ok((stream, address));
            }
            Err(error) => last = Some((address, error)),
        }
    }
    let Some((address, error)) = last else {
        return Err(fault(format!("`{}` has no address", target.host), "is the name right?"));
    };
    Err(error).with_context(|| format!("cannot connect to {address}")).hint(
        "is the machine on, does sshd listen on that port, does a firewall let us through? --timeout waits longer",
    )
}

/// A machine whose power is cut says nothing more: without this, we would wait for ever.
fn keep_alive(stream: &TcpStream) -> std::io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    socket
        .set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_AFTER))?;
    socket.set_tcp_user_timeout(Some(UNANSWERED_MAX))
}
