//! The network as agents use it: this machine's, or (in tests) a simulated one that fails in every way a network can.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};

#[cfg(test)]
use crate::simulation::network as simulated;

/// How long a connection on which nothing comes or goes is left alone before the kernel asks whether the other side is
/// still there: a machine that has lost its power says nothing, and an idle connection to it would stand for ever.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// How often it is asked again.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// How long what was sent, probes included, may be unanswered before the kernel ends the connection: longer than a cable
/// takes to be put back.
const UNANSWERED_MAX: Duration = Duration::from_secs(30);

/// A place on a network.
#[derive(Debug, Clone, Default)]
pub enum Network {
    /// This machine.
    #[default]
    Host,
    /// A machine of a simulation.
    #[cfg(test)]
    Simulated(simulated::Host),
}

impl Network {
    /// Listens for connections.
    ///
    /// # Errors
    /// As the operating system says, like all others here.
    pub async fn listen(&self, at: SocketAddr) -> io::Result<Listener> {
        match self {
            Self::Host => TcpListener::bind(at).await.map(Listener::Host),
            #[cfg(test)]
            Self::Simulated(host) => host.listen(at).map(Listener::Simulated),
        }
    }

    /// Connects, from the address `from` if that is one; small writes are not held back, and who is gone for
    /// half a minute is given up.
    ///
    /// # Errors
    /// As the operating system says. It may take minutes to say so.
    pub async fn connect(&self, from: Option<IpAddr>, to: SocketAddr) -> io::Result<Stream> {
        match self {
            Self::Host => {
                let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
                if let Some(from) =
                    from.filter(|from| !from.is_unspecified() && from.is_ipv4() == to.is_ipv4())
                {
                    socket.bind(SocketAddr::new(from, 0))?;
                }
                let stream = socket.connect(to).await?;
                prepare(&stream)?;
                Ok(Stream::Host(stream))
            }
            #[cfg(test)]
            Self::Simulated(host) => host.connect(to).await.map(Stream::Simulated),
        }
    }

    /// Opens a socket for datagrams.
    ///
    /// # Errors
    /// As the operating system says.
    pub async fn datagrams(&self, at: SocketAddr) -> io::Result<Datagrams> {
        match self {
            Self::Host => UdpSocket::bind(at).await.map(Datagrams::Host),
            #[cfg(test)]
            Self::Simulated(host) => host.datagrams(at).map(Datagrams::Simulated),
        }
    }
}

/// What all connections between agents have: small writes go at once, and the kernel notices that the other side is gone.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(SILENCE_MAX).with_interval(PROBE_INTERVAL);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(UNANSWERED_MAX))
}

/// Takes connections in.
#[derive(Debug)]
pub enum Listener {
    /// On this machine.
    Host(TcpListener),
    /// In a simulation.
    #[cfg(test)]
    Simulated(simulated::Listener),
}

impl Listener {
    /// The next connection, and who connects; as [`Network::connect`] makes them.
    ///
    /// # Errors
    /// As the operating system says.
    pub async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        match self {
            Self::Host(listener) => {
                let (stream, from) = listener.accept().await?;
                prepare(&stream)?;
                Ok((Stream::Host(stream), from))
            }
            #[cfg(test)]
            Self::Simulated(listener) => {
                let (stream, from) = listener.accept().await;
                Ok((Stream::Simulated(stream), from))
            }
        }
    }

    /// The address as bound (a port of 0 was replaced).
    ///
    /// # Errors
    /// As the operating system says.
    pub fn address(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Host(listener) => listener.local_addr(),
            #[cfg(test)]
            Self::Simulated(listener) => Ok(listener.address()),
        }
    }
}

/// A socket for datagrams.
#[derive(Debug)]
pub enum Datagrams {
    /// On this machine.
    Host(UdpSocket),
    /// In a simulation.
    #[cfg(test)]
    Simulated(simulated::Datagrams),
}

impl Datagrams {
    /// Waits until one has come.
    ///
    /// # Errors
    /// As the operating system says.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Host(socket) => socket.readable().await,
            #[cfg(test)]
            Self::Simulated(socket) => {
                socket.readable().await;
                Ok(())
            }
        }
    }

    /// Takes one that has come.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; else as the operating system says.
    pub fn try_receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        match self {
            Self::Host(socket) => socket.try_recv_from(buffer),
            #[cfg(test)]
            Self::Simulated(socket) => socket.try_receive(buffer),
        }
    }

    /// Sends one, which may get lost.
    ///
    /// # Errors
    /// `WouldBlock` when too many wait to be sent; else as the operating system says.
    pub fn try_send(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        match self {
            Self::Host(socket) => socket.try_send_to(bytes, to).map(drop),
            #[cfg(test)]
            Self::Simulated(socket) => {
                socket.send(bytes, to);
                Ok(())
            }
        }
    }
}

/// A connection.
#[derive(Debug)]
pub enum Stream {
    /// Of this machine.
    Host(TcpStream),
    /// Of a simulation.
    #[cfg(test)]
    Simulated(simulated::Stream),
}

impl Stream {
    /// Its two directions, for two tasks.
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Self::Host(stream) => {
                let (reading, writing) = stream.into_split();
                (ReadHalf::Host(reading), WriteHalf::Host(writing))
            }
            #[cfg(test)]
            Self::Simulated(stream) => {
                (ReadHalf::Simulated(stream.reading), WriteHalf::Simulated(stream.writing))
            }
        }
    }
}

/// What comes in.
#[derive(Debug)]
pub enum ReadHalf {
    /// On this machine.
    Host(OwnedReadHalf),
    /// In a simulation.
    #[cfg(test)]
    Simulated(simulated::Reading),
}

impl AsyncRead for ReadHalf {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Host(half) => Pin::new(half).poll_read(cx, buffer),
            #[cfg(test)]
            Self::Simulated(half) => Pin::new(half).poll_read(cx, buffer),
        }
    }
}

/// What goes out.
#[derive(Debug)]
pub enum WriteHalf {
    /// On this machine.
    Host(OwnedWriteHalf),
    /// In a simulation.
    #[cfg(test)]
    Simulated(simulated::Writing),
}

impl AsyncWrite for WriteHalf {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Host(half) => Pin::new(half).poll_write(cx, bytes),
            #[cfg(test)]
            Self::Simulated(half) => Pin::new(half).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Host(half) => Pin::new(half).poll_flush(cx),
            #[cfg(test)]
            Self::Simulated(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Host(half) => Pin::new(half).poll_shutdown(cx),
            #[cfg(test)]
            Self::Simulated(half) => Pin::new(half).poll_shutdown(cx),
        }
    }
}
