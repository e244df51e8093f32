//! What users write as the address of an agent, turned into socket addresses.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::hint::WithHint as _;

/// Longest wait for a name server.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// Most addresses of one name that are joined; one is enough, the others only help when some are dead.
const ADDRESSES_PER_NAME_MAX: usize = 64;

/// A host and a port as text says them.
#[derive(Debug, PartialEq, Eq)]
struct Place<'a> {
    host: &'a str,
    port: u16,
}

/// All addresses that `text` means.
pub(super) async fn resolve(text: &str, default_port: u16) -> anyhow::Result<Vec<SocketAddr>> {
    let Place { host, port } = parse(text, default_port)?;
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let lookup = tokio::time::timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host((host, port)));
    let found = lookup
        .await
        .map_err(|_| anyhow::anyhow!("no answer from the name server within {LOOKUP_TIMEOUT:?}"))
        .and_then(|found| found.map_err(anyhow::Error::from))
        .with_context(|| format!("cannot look up {host}"))?;
    let mut addresses: Vec<SocketAddr> = found.take(ADDRESSES_PER_NAME_MAX).collect();
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.is_empty() {
        bail!("{host} has no address");
    }
    Ok(addresses)
}

fn parse(text: &str, default_port: u16) -> anyhow::Result<Place<'_>> {
    let text = text.trim();
    if text.starts_with("provider=") {
        return Err(anyhow::anyhow!("cloud auto-join (`{text}`) is not supported"))
            .hint("give addresses or a DNS name that has all of them");
    }
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) =
            rest.split_once(']').with_context(|| format!("`{text}` lacks a closing bracket"))?;
        match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if rest.is_empty() => (host, None),
            None => bail!("`{text}` is not an address"),
        }
    } else {
        match text.split_once(':') {
            Some((host, port)) if !port.contains(':') => (host, Some(port)),
            // Several colons without brackets: an IPv6 address.
            Some(_) | None => (text, None),
        }
    };
    if host.is_empty() {
        bail!("`{text}` names no host");
    }
    let port = match port {
        Some(port) => port.parse().with_context(|| format!("`{port}` is not a port"))?,
        None => default_port,
    };
    Ok(Place { host, port })
}

#[cfg(test)]
mod tests {
    use super::{Place, parse, resolve};

    #[test]
    fn hosts_ports_and_brackets_are_understood() {
        let good = [
            ("10.0.0.1", "10.0.0.1", 8301),
            (" 10.0.0.1:9 ", "10.0.0.1", 9),
            ("n1.example", "n1.example", 8301),
            ("n1.example:7000", "n1.example", 7000),
            ("fd00::1", "fd00::1", 8301),
            ("[fd00::1]", "fd00::1", 8301),
            ("[fd00::1]:7000", "fd00::1", 7000),
        ];
        for (text, host, port) in good {
            assert_eq!(parse(text, 8301).unwrap(), Place { host, port }, "{text}");
        }
        for text in ["", ":8301", "[fd00::1", "[fd00::1]x", "n1:port", "n1:70000", "provider=aws tag=x"] {
            assert!(parse(text, 8301).is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn a_name_is_looked_up() {
        let found = resolve("localhost:17", 8301).await.unwrap();
        assert!(found.iter().all(|address| address.ip().is_loopback() && address.port() == 17));
    }
}
