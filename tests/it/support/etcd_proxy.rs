//! A TCP proxy before etcd that knows the steps of a birth: it stops the world at one of them, and it can make an
//! etcd look older than it is. It reads HTTP/1 requests (the v2 API) and HTTP/2 frames (the v3 API).

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::loopback;

/// What every HTTP/2 connection begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD_BYTES: usize = 9;
/// The flag of a stream's last frame.
const END_STREAM: u8 = 1;

/// A write of the birth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Claim,
    Freeze,
    /// The first machine of the list promises.
    Bind,
    /// The second one does: a majority of three.
    BindSecond,
    Form,
}

/// On which side of the write the world stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// etcd never hears of it; all else goes on.
    Before,
    /// etcd has done it, but nobody is told.
    After,
}

#[derive(Default)]
struct State {
    stop_at: Option<(Step, Moment)>,
    reached: bool,
    /// Nothing passes any more, in neither direction.
    stopped: bool,
    streams: Vec<TcpStream>,
    /// Requests that passed, as text.
    seen: Vec<String>,
}

struct Shared {
    upstream: SocketAddr,
    /// What `/version` answers instead of the truth; such an etcd has no v3 API either.
    version: Option<String>,
    state: Mutex<State>,
    changed: Condvar,
}

/// A running proxy; its threads end with their connections.
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Proxy {
    /// In front of `upstream`.
    pub(crate) fn start(upstream: SocketAddr) -> Self {
        Self::new(upstream, None)
    }

    /// The same, and the etcd seems to be of this version.
    pub(crate) fn start_as(upstream: SocketAddr, version: &str) -> Self {
        Self::new(upstream, Some(format!(r#"{{"etcdserver":"{version}","etcdcluster":"{version}"}}"#)))
    }

    fn new(upstream: SocketAddr, version: Option<String>) -> Self {
        let listener = TcpListener::bind((loopback(), 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { upstream, version, state: Mutex::default(), changed: Condvar::new() });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&accepting);
                std::thread::spawn(move || shared.serve(client));
            }
        });
        Self { address, shared }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on the world stops at this step; what was stopped before goes on until then.
    pub(crate) fn stop_at(&self, step: Step, moment: Moment) {
        self.go_on(Some((step, moment)));
    }

    /// Waits until the step was tried.
    #[track_caller]
    pub(crate) fn wait_reached(&self, deadline: Duration) {
        let state = self.shared.lock();
        let waited = self.shared.changed.wait_timeout_while(state, deadline, |state| !state.reached).unwrap();
        assert!(!waited.1.timed_out(), "the step was not reached; seen: {:#?}", waited.0.seen);
    }

    /// Ends all connections and lets new ones pass.
    pub(crate) fn open(&self) {
        self.go_on(None);
    }

    fn go_on(&self, stop_at: Option<(Step, Moment)>) {
        let mut state = self.shared.lock();
        for stream in state.streams.drain(..) {
            let _ended_already = stream.shutdown(Shutdown::Both);
        }
        state.stop_at = stop_at;
        state.reached = false;
        state.stopped = false;
    }

    /// The requests that passed, with their percent signs decoded.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.shared.lock().seen.clone()
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One connection; whatever fails ends it.
    fn serve(self: Arc<Self>, client: TcpStream) -> Option<()> {
        let upstream = TcpStream::connect(self.upstream).ok()?;
        {
            let mut state = self.lock();
            if state.stopped {
                return None;
            }
            state.streams.extend([client.try_clone().ok()?, upstream.try_clone().ok()?]);
        }
        let (mut from, mut to) = (upstream.try_clone().ok()?, client.try_clone().ok()?);
        let downward = Arc::clone(&self);
        std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(length @ 1..) = from.read(&mut buffer) {
                // What was stopped stays silent until the connection is ended.
                if !downward.lock().stopped && to.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
            let _ended_already = to.shutdown(Shutdown::Both);
        });
        let ended = self.forward(&client, &upstream);
        let _ended_already = (client.shutdown(Shutdown::Both), upstream.shutdown(Shutdown::Both));
        ended
    }

    fn forward(&self, mut client: &TcpStream, mut upstream: &TcpStream) -> Option<()> {
        let mut first = vec![0; PREFACE.len()];
        // No request is shorter than this.
        client.read_exact(&mut first).ok()?;
        if first == PREFACE {
            if self.version.is_some() {
                return None;
            }
            upstream.write_all(&first).ok()?;
            let mut half: Option<Vec<u8>> = None;
            loop {
                let mut frame = vec![0; FRAME_HEAD_BYTES];
                client.read_exact(&mut frame).ok()?;
                let length = usize::from(frame[0]) << 16 | usize::from(frame[1]) << 8 | usize::from(frame[2]);
                frame.resize(FRAME_HEAD_BYTES + length, 0);
                client.read_exact(&mut frame[FRAME_HEAD_BYTES..]).ok()?;
                let stream = |frame: &[u8]| frame[5..FRAME_HEAD_BYTES].to_vec();
                let is_last = |frame: &[u8]| frame[4] & END_STREAM != 0;
                match &half {
                    // The rest of the request that was the last to pass.
                    Some(unfinished) if *unfinished == stream(&frame) => {
                        upstream.write_all(&frame).ok()?;
                        if is_last(&frame) {
                            half = None;
                        }
                    }
                    Some(_) => {}
                    None => {
                        let last = self.pass(&frame, upstream)?;
                        half = (last && !is_last(&frame)).then(|| stream(&frame));
                    }
                }
            }
        }
        let mut request = first;
        loop {
            let end = loop {
                if let Some(end) = request.windows(4).position(|window| window == b"\r\n\r\n") {
                    break end + 4;
                }
                read_more(client, &mut request)?;
            };
            let head = String::from_utf8_lossy(&request[..end]).to_lowercase();
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next());
            let length: usize = length.map_or(0, |text| text.parse().unwrap());
            while request.len() < end + length {
                read_more(client, &mut request)?;
            }
            let rest = request.split_off(end + length);
            match &self.version {
                Some(version) if head.starts_with("get /version ") => {
                    let length = version.len();
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{version}");
                    client.write_all(answer.as_bytes()).ok()?;
                }
                _ => {
                    self.pass(&request, upstream)?;
                }
            }
            request = rest;
        }
    }

    /// Forwards one request or frame, unless the world has stopped; tells whether it was the last to pass. `None`: it is
    /// where the world stops, and nobody hears of it.
    fn pass(&self, bytes: &[u8], mut upstream: &TcpStream) -> Option<bool> {
        let text = decoded(bytes);
        let mut state = self.lock();
        if state.stopped {
            // The connection stays, as the one before it: etcd gives up what it was asked by somebody who hangs up.
            return Some(false);
        }
        let stops = state.stop_at.filter(|(wanted, _)| step_of(&text) == Some(*wanted));
        if let Some((_, Moment::Before)) = stops {
            state.reached = true;
            self.changed.notify_all();
            return None;
        }
        // Fails when the connection was ended meanwhile: then etcd has not heard of the step.
        upstream.write_all(bytes).ok()?;
        if stops.is_some() {
            state.reached = true;
            state.stopped = true;
            self.changed.notify_all();
        }
        state.seen.push(text);
        Some(stops.is_some())
    }
}

fn read_more(mut from: &TcpStream, bytes: &mut Vec<u8>) -> Option<()> {
    let mut buffer = [0; 4096];
    match from.read(&mut buffer) {
        Ok(length @ 1..) => bytes.extend_from_slice(&buffer[..length]),
        _ => return None,
    }
    Some(())
}

/// Which step a request is. Both APIs carry keys and values as text; reads name the prefix alone.
fn step_of(text: &str) -> Option<Step> {
    if text.contains("/cluster") {
        return match bound_in(text)? {
            _ if text.contains("\"formed\":true") => Some(Step::Form),
            0 => Some(Step::Freeze),
            1 => Some(Step::Bind),
            2 => Some(Step::BindSecond),
            _ => None,
        };
    }
    text.contains("/machines/").then_some(Step::Claim)
}

/// How many machines have promised by the certificate in a request.
pub(crate) fn bound_in(text: &str) -> Option<usize> {
    let (_, after) = text.split_once("\"bound\":[")?;
    let (bound, _) = after.split_once(']')?;
    Some(bound.matches('"').count() / 2)
}

/// The bytes as text, with forms' percent signs decoded.
fn decoded(bytes: &[u8]) -> String {
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, after @ ..] = rest {
        let hex = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
        match after.get(..2).and_then(hex) {
            Some(byte) if *first == b'%' => {
                plain.push(byte);
                rest = &after[2..];
            }
            _ => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}
