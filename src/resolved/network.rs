//! Networks of containers, of one that runs or of nobody: a thread enters them, and nothing else of a container.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::Context as _;
use nix::sched::{CloneFlags, unshare};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::hint::WithHint as _;

/// This thread's network.
const OWN: &str = "/proc/thread-self/ns/net";

/// A network; the kernel keeps it as long as somebody holds this, or a process runs in it.
#[derive(Debug)]
pub(super) struct Network(File);

impl Network {
    /// That of a process.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        File::open(path).with_context(|| format!("cannot open {}", path.display())).map(Self)
    }

    /// One with nothing in it but loopback, which is down.
    pub(super) fn empty() -> anyhow::Result<Self> {
        on_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .context("cannot make a network of its own")
                .hint("run this as root; a unit needs CAP_SYS_ADMIN and RestrictNamespaces=net for it")?;
            Self::open(Path::new(OWN))
        })
    }

    /// What a call gives that runs in it; programs that it starts run there too.
    pub(super) fn within<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let network = self.0.try_clone().context("cannot hold the container's network")?;
        on_a_thread(move || {
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
                .context("cannot enter the container's network")
                .hint("run this as root")?;
            call()
        })
    }
}

/// The network is the thread's alone, and goes with it.
fn on_a_thread<T: Send + 'static>(
    call: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let thread = std::thread::Builder::new()
        .name("inside".to_owned())
        .spawn(call)
        .context("cannot start a thread for the container's network")?;
    thread.join().map_err(|_| anyhow::anyhow!("the question in the container's network broke"))?
}
