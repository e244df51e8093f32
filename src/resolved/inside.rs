//! A question from inside a container that runs: by a thread that enters its network, and nothing else of it.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context as _, bail};

use super::network::Network;
use super::state::{Lookup, ask};
use crate::model::resolved::{LINK_ADDRESS, STANDARD_PORT};

/// What a container got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The first server in its `resolv.conf`.
    pub server: IpAddr,
    /// What that says.
    pub answer: Lookup,
    /// What our resolver says itself, where a server of Docker's inside asks it and brought nothing.
    pub behind: Option<Lookup>,
}

/// Asks, as the container with this process does, the first server in its `resolv.conf`. In networks that users made that is
/// one of Docker's, at an address of the container's loopback: it asks ours, from the container's network too.
///
/// # Errors
/// When this is not root, or the container has ended.
pub fn ask_inside(pid: u32, name: &str) -> anyhow::Result<Asked> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let path = process.join("root/etc/resolv.conf");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let Some(server) = first_server(&text) else { bail!("{} names no server", path.display()) };
    let name = name.to_owned();
    let network = Network::open(&process.join("ns/net"))?;
    network.within(move || {
        let answer = ask((server, STANDARD_PORT).into(), &name);
        let behind = (server.is_loopback() && answer != Lookup::Found)
            .then(|| ask((LINK_ADDRESS, STANDARD_PORT).into(), &name));
        Ok(Asked { server, answer, behind })
    })
}

fn first_server(text: &str) -> Option<IpAddr> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        if words.next() == Some("nameserver") { words.next()?.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::first_server;

    #[test]
    fn the_first_server_is_the_one_that_programs_ask() {
        let text = "# made by Docker\nsearch x\nnameserver 169.254.53.1\nnameserver 8.8.8.8\n";
        assert_eq!(first_server(text).unwrap().to_string(), "169.254.53.1");
        assert_eq!(first_server("search x\n"), None);
    }
}
