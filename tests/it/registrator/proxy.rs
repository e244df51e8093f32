//! A unix socket in front of Docker's that can be cut, as when the engine restarts.

use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

#[derive(Default)]
struct State {
    is_cut: bool,
    streams: Vec<UnixStream>,
}

/// Forwards every connection until it is cut.
pub(crate) struct SocketProxy {
    folder: tempfile::TempDir,
    state: Arc<Mutex<State>>,
}

impl SocketProxy {
    /// Forwards to the socket at `target`.
    pub(crate) fn start(target: &'static str) -> Self {
        let proxy = Self { folder: tempfile::tempdir().unwrap(), state: Arc::default() };
        let listener = UnixListener::bind(proxy.path()).unwrap();
        let state = Arc::clone(&proxy.state);
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.unwrap();
                let mut state = state.lock();
                if state.is_cut {
                    continue;
                }
                let far = UnixStream::connect(target).unwrap();
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    state.streams.push(from.try_clone().unwrap());
                    std::thread::spawn(move || {
                        // Either end may be gone by now; then the other follows.
                        drop(std::io::copy(&mut from, &mut to));
                        drop(to.shutdown(Shutdown::Write));
                    });
                }
            }
        });
        proxy
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    /// The value of `DOCKER_HOST`.
    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.path().display())
    }

    /// Ends all connections and accepts no more.
    pub(crate) fn cut(&self) {
        let mut state = self.state.lock();
        state.is_cut = true;
        for stream in state.streams.drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
    }

    /// Accepts connections again.
    pub(crate) fn mend(&self) {
        self.state.lock().is_cut = false;
    }
}
