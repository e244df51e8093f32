//! Connections whose requests must not take for ever to come.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::agent::places::Place;

/// A connection on which a request's head must be complete in time, once it has begun: whoever sends it byte by byte
/// ("slow loris") would hold a place for ever.
pub(super) struct Hurried<S> {
    stream: S,
    place: Arc<Place>,
    allowed: Duration,
    /// The end of the time for the head after so many requests.
    deadline: Option<(u64, Pin<Box<Sleep>>)>,
}

impl<S> Hurried<S> {
    pub(super) fn new(stream: S, place: Arc<Place>, allowed: Duration) -> Self {
        Self { stream, place, allowed, deadline: None }
    }

    /// Whether the time for the head is over.
    fn is_late(&mut self, context: &mut Context<'_>, something_came: bool) -> bool {
        let requests = self.place.requests();
        if self.place.is_busy() || self.deadline.as_ref().is_some_and(|(of, _)| *of != requests) {
            // What comes now is a body, which has a deadline of its own, or the next head.
            self.deadline = None;
        }
        if something_came && self.deadline.is_none() && !self.place.is_busy() {
            self.deadline = Some((requests, Box::pin(sleep(self.allowed))));
        }
        self.deadline.as_mut().is_some_and(|(_, end)| end.as_mut().poll(context).is_ready())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Hurried<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        if this.is_late(context, buffer.filled().len() > before) {
            return Poll::Ready(Err(std::io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Hurried<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
