//! Connections of the simulated network: two pipes with a delay, that stall while their direction is cut, and that break
//! when the process at one end is gone.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::network::Net;
use super::running;

/// Bytes under way in one direction of a connection; then its writer waits.
const WINDOW_BYTES: usize = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Closed,
    Reset,
}

/// One direction of a connection.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) from: (IpAddr, u64),
    pub(super) to: (IpAddr, u64),
    flow: Mutex<Flow>,
}

#[derive(Debug, Default)]
struct Flow {
    chunks: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    last: Option<Instant>,
    end: Option<(Instant, End)>,
    /// Nobody reads any more.
    refused: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    pub(super) fn new(from: (IpAddr, u64), to: (IpAddr, u64)) -> Arc<Self> {
        Arc::new(Self { from, to, flow: Mutex::default() })
    }

    pub(super) fn end(&self, at: Instant, end: End) {
        let mut flow = self.flow.lock();
        let at = flow.last.map_or(at, |last| last.max(at));
        if flow.end.is_none_or(|(_, before)| before == End::Closed && end == End::Reset) {
            flow.end = Some((at, end));
        }
        drop(flow);
        self.wake();
    }

    pub(super) fn refuse(&self) {
        self.flow.lock().refused = true;
        self.wake();
    }

    pub(super) fn wake(&self) {
        let mut flow = self.flow.lock();
        let (reader, writer) = (flow.reader.take(), flow.writer.take());
        drop(flow);
        reader.into_iter().chain(writer).for_each(Waker::wake);
    }
}

/// A connection.
#[derive(Debug)]
pub struct Stream {
    pub(crate) reading: Reading,
    pub(crate) writing: Writing,
}

impl Stream {
    pub(super) fn new(net: &Net, outward: &Arc<Pipe>, inward: &Arc<Pipe>) -> Self {
        Self {
            reading: Reading { net: net.clone(), pipe: Arc::clone(inward), alarm: None },
            writing: Writing { net: net.clone(), pipe: Arc::clone(outward) },
        }
    }
}

/// What comes in.
#[derive(Debug)]
pub struct Reading {
    net: Net,
    pipe: Arc<Pipe>,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl AsyncRead for Reading {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let cut = this.net.is_cut(this.pipe.from.0, this.pipe.to.0);
        let mut flow = this.pipe.flow.lock();
        let now = Instant::now();
        let due = flow.chunks.front().map(|(at, _)| *at).or(flow.end.map(|(at, _)| at));
        match due {
            Some(at) if at <= now && !cut => {}
            Some(at) if !cut => {
                flow.reader = Some(cx.waker().clone());
                drop(flow);
                let alarm = this.alarm.insert(Box::pin(tokio::time::sleep_until(at)));
                if alarm.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            _ => {
                flow.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        if let Some((at, mut bytes)) = flow.chunks.pop_front() {
            let piece = bytes.split_to(bytes.len().min(buffer.remaining()));
            buffer.put_slice(&piece);
            flow.bytes -= piece.len();
            if !bytes.is_empty() {
                flow.chunks.push_front((at, bytes));
            }
            let writer = flow.writer.take();
            drop(flow);
            writer.into_iter().for_each(Waker::wake);
            return Poll::Ready(Ok(()));
        }
        match flow.end {
            Some((_, End::Reset)) => Poll::Ready(Err(ErrorKind::ConnectionReset.into())),
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        // A process that vanished says nothing more.
        if self.net.life(self.pipe.to.0).life == self.pipe.to.1 {
            self.pipe.refuse();
        }
    }
}

/// What goes out.
#[derive(Debug)]
pub struct Writing {
    net: Net,
    pipe: Arc<Pipe>,
}

impl AsyncWrite for Writing {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let pipe = &self.pipe;
        let theirs = self.net.life(pipe.to.0);
        let replaced = theirs.up && theirs.life != pipe.to.1;
        let delay = self.net.delay();
        let mut flow = pipe.flow.lock();
        if flow.refused || (replaced && !self.net.is_cut(pipe.from.0, pipe.to.0)) {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        }
        if flow.bytes >= WINDOW_BYTES {
            flow.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let at = flow.last.map_or(Instant::now() + delay, |last| last.max(Instant::now() + delay));
        flow.last = Some(at);
        flow.bytes += bytes.len();
        flow.chunks.push_back((at, Bytes::copy_from_slice(bytes)));
        let reader = flow.reader.take();
        drop(flow);
        reader.into_iter().for_each(Waker::wake);
        running::note((3, pipe.from.0, pipe.to.0, bytes.len()));
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.close();
        Poll::Ready(Ok(()))
    }
}

impl Writing {
    fn close(&self) {
        if self.net.life(self.pipe.from.0).life == self.pipe.from.1 {
            let delay = self.net.delay();
            self.pipe.end(Instant::now() + delay, End::Closed);
        }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.close();
    }
}
