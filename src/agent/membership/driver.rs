//! The task that owns the state machine: tells it what happens, does what it says.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::streams::{Report, Streams};
use crate::host::net::Datagrams;
use crate::model::membership::{
    Change, DATAGRAM_BYTES_MAX, Event, Input, JoinFailure, Member, Output, Swim, Tags,
};

/// Datagrams read before other things get their turn.
const DATAGRAMS_PER_TURN: usize = 128;
/// Least time between two warnings about a socket that does not work, so that a broken network does not fill the log.
const WARNING_INTERVAL: Duration = Duration::from_secs(30);

/// What handles ask for.
#[derive(Debug)]
pub(super) enum Command {
    Join { to: SocketAddr, reply: oneshot::Sender<Result<(), JoinFailure>> },
    Leave { reply: oneshot::Sender<()> },
    ForceLeave { name: String, prune: bool, reply: oneshot::Sender<()> },
    SetTags { tags: Tags, reply: oneshot::Sender<()> },
}

/// The state machine and its sockets.
pub(super) struct Driver {
    swim: Swim,
    started: Instant,
    udp: Datagrams,
    streams: Streams,
    members: watch::Sender<Arc<Vec<Member>>>,
    joins: BTreeMap<u64, oneshot::Sender<Result<(), JoinFailure>>>,
    questions: BTreeMap<u64, oneshot::Sender<Option<Vec<u8>>>>,
    leavers: Vec<oneshot::Sender<()>>,
    last_number: u64,
    warned: Option<Instant>,
}

impl Driver {
    pub(super) fn new(
        swim: Swim,
        udp: Datagrams,
        streams: Streams,
        members: watch::Sender<Arc<Vec<Member>>>,
    ) -> Self {
        Self {
            swim,
            started: Instant::now(),
            udp,
            streams,
            members,
            joins: BTreeMap::new(),
            questions: BTreeMap::new(),
            leavers: Vec::new(),
            last_number: 0,
            warned: None,
        }
    }

    /// Runs until `stop`, without leaving: who wants to leave does so before.
    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut reports: mpsc::Receiver<Report>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        loop {
            let deadline = self.started + self.swim.next_deadline();
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                Some(report) = reports.recv() => self.report(report),
                Some(command) = commands.recv() => self.command(command),
                () = sleep_until(deadline) => {
                    // Answers that have come already count, however late we are.
                    self.read_datagrams();
                    while let Ok(report) = reports.try_recv() {
                        self.report(report);
                    }
                    self.step(Input::Tick);
                }
                // Last, so that a flood of datagrams does not keep anything else waiting.
                ready = self.udp.readable() => match ready {
                    Ok(()) => self.read_datagrams(),
                    Err(error) => self.warn_socket("cannot wait for gossip", &error),
                },
            }
        }
    }

    fn read_datagrams(&mut self) {
        // One byte more than allowed, so that a longer datagram is seen to be too long.
        let mut buffer = [0; DATAGRAM_BYTES_MAX + 1];
        for _ in 0..DATAGRAMS_PER_TURN {
            match self.udp.try_receive(&mut buffer) {
                Ok((length, from)) => {
                    self.step(Input::Datagram { from, bytes: buffer[..length].to_vec() });
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    self.warn_socket("cannot read gossip", &error);
                    return;
                }
            }
        }
    }

    fn report(&mut self, report: Report) {
        match report {
            Report::Request { bytes, reply } => {
                let stream = self.next_number();
                self.questions.insert(stream, reply);
                self.step(Input::StreamRequest { stream, bytes });
            }
            Report::Progress(input) => self.step(input),
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Join { to, reply } => {
                let request = self.next_number();
                self.joins.insert(request, reply);
                self.step(Input::Join { request, to });
            }
            Command::Leave { reply } => {
                self.leavers.push(reply);
                self.step(Input::Leave);
            }
            Command::ForceLeave { name, prune, reply } => {
                self.step(Input::ForceLeave { name, prune });
                answer(reply, ());
            }
            Command::SetTags { tags, reply } => {
                self.step(Input::SetTags(tags));
                answer(reply, ());
            }
        }
    }

    fn step(&mut self, input: Input) {
        let outputs = self.swim.step(self.started.elapsed(), input);
        let mut changed = false;
        for output in outputs {
            match output {
                Output::Datagram { to, bytes } => self.send(to, &bytes),
                Output::Exchange { exchange, to, bytes, timeout } => {
                    self.streams.begin(exchange, to, bytes, timeout);
                }
                Output::Reply { stream, bytes } => {
                    if let Some(reply) = self.questions.remove(&stream) {
                        answer(reply, bytes);
                    }
                }
                Output::Event(event) => {
                    // Whoever waits for the end of a join must see its members.
                    if !matches!(event, Event::Member { .. }) && std::mem::take(&mut changed) {
                        self.publish();
                    }
                    changed |= self.event(event);
                }
            }
        }
        if changed {
            self.publish();
        }
    }

    fn publish(&self) {
        self.members.send_replace(Arc::new(self.swim.members()));
    }

    /// True when the list of members is another one now.
    fn event(&mut self, event: Event) -> bool {
        match event {
            Event::Member { change, member } => {
                log_change(change, &member);
                // A suspicion is no fact yet, and its end only puts things back.
                !matches!(change, Change::Suspected | Change::Cleared)
            }
            Event::JoinEnded { request, result } => {
                if let Some(reply) = self.joins.remove(&request) {
                    answer(reply, result);
                }
                false
            }
            Event::LeaveEnded => {
                self.leavers.drain(..).for_each(|reply| answer(reply, ()));
                false
            }
            Event::Refused { name, address, refusal } => {
                warn!(member = name, %address, "a member is not let in: {refusal}");
                false
            }
        }
    }

    fn send(&mut self, to: SocketAddr, bytes: &[u8]) {
        // A datagram that cannot be sent at once is lost, as the network may lose any; the protocol expects it.
        if let Err(error) = self.udp.try_send(bytes, to)
            && error.kind() != std::io::ErrorKind::WouldBlock
        {
            self.warn_socket(&format!("cannot send gossip to {to}"), &error);
        }
    }

    fn warn_socket(&mut self, what: &str, error: &std::io::Error) {
        let quiet = self.warned.is_some_and(|at| at.elapsed() < WARNING_INTERVAL);
        if quiet {
            debug!(%error, "{what}");
        } else {
            self.warned = Some(Instant::now());
            warn!(%error, "{what}");
        }
    }

    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }
}

/// Answers a caller that may have stopped waiting.
fn answer<T>(reply: oneshot::Sender<T>, value: T) {
    if reply.send(value).is_err() {
        debug!("nobody waits for this answer of gossip any more");
    }
}

fn log_change(change: Change, member: &Member) {
    let Member { name, address, incarnation, .. } = member;
    match change {
        Change::Joined => info!(member = name, %address, "member joined"),
        Change::Left => info!(member = name, %address, "member left"),
        Change::Failed => warn!(member = name, %address, "member failed"),
        Change::Reaped => info!(member = name, %address, "member forgotten"),
        Change::Updated | Change::Leaving | Change::Suspected | Change::Cleared => {
            debug!(member = name, %address, incarnation, ?change, "member changed");
        }
    }
}
