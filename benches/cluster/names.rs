//! The DNS peers: Knot and Unbound with the same records, run from here and not as the system's services.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::Result;
use tokio::net::TcpStream;

use super::place::{Place, eventually};
use super::process::Running;

/// High, so that no service of the system is in the way.
pub(crate) const PORT: u16 = 5300;

/// A name server and where it listens (port [`PORT`]).
pub(crate) struct NameServer {
    pub(crate) name: &'static str,
    pub(crate) address: Ipv4Addr,
    pub(crate) process: Running,
}

/// Three instances of `web`: A records, and SRV records that point to the nodes.
fn records() -> Vec<(String, String)> {
    let mut records = Vec::new();
    for number in 1..=3 {
        records.push(("web.service.consul.".to_owned(), format!("A 10.1.0.{number}")));
        records
            .push(("web.service.consul.".to_owned(), format!("SRV 1 1 8080 node-{number}.node.dc1.consul.")));
        records.push((format!("node-{number}.node.dc1.consul."), format!("A 10.1.0.{number}")));
    }
    records
}

/// Starts both peers; returns when they listen.
pub(crate) async fn peers(place: &Place) -> Result<Vec<NameServer>> {
    let peers = vec![knot(place)?, unbound(place)?];
    for peer in &peers {
        let listens = async || TcpStream::connect((peer.address, PORT)).await.ok();
        let said = |error: anyhow::Error| error.context(format!("{}: {}", peer.name, peer.process.said()));
        eventually("a name server listens", listens).await.map_err(said)?;
    }
    Ok(peers)
}

fn knot(place: &Place) -> Result<NameServer> {
    let (folder, address) = (place.folder("knot")?, place.address());
    let mut zone = String::from(
        "$TTL 0\nconsul. SOA ns.consul. hostmaster.consul. 1 3600 600 86400 0\nconsul. NS ns.consul.\n\
         ns.consul. A 10.1.0.1\n",
    );
    for (name, data) in records() {
        writeln!(zone, "{name} {data}")?;
    }
    let zone = place.file("consul.zone", zone.as_bytes())?;
    let cores = std::thread::available_parallelism()?;
    let configuration = format!(
        "server:\n    listen: {address}@{PORT}\n    rundir: {folder}\n    udp-workers: {cores}\n\
         log:\n  - target: stderr\n    any: warning\n\
         database:\n    storage: {folder}\n\
         zone:\n  - domain: consul.\n    storage: {folder}\n    file: {zone}\n",
        folder = folder.display(),
        zone = zone.display(),
    );
    let configuration = place.file("knot.conf", configuration.as_bytes())?;
    let mut command = Command::new("knotd");
    command.arg("-c").arg(configuration);
    let process = Running::start(&mut command, &folder.join("log"))?;
    Ok(NameServer { name: "Knot", address, process })
}

fn unbound(place: &Place) -> Result<NameServer> {
    let (folder, address) = (place.folder("unbound")?, place.address());
    let cores = std::thread::available_parallelism()?;
    let mut configuration = format!(
        "server:\n  interface: {address}\n  port: {PORT}\n  do-daemonize: no\n  num-threads: {cores}\n  \
         so-reuseport: yes\n  username: \"\"\n  chroot: \"\"\n  directory: \"{}\"\n  pidfile: \"\"\n  \
         use-syslog: no\n  access-control: 127.0.0.0/8 allow\n  local-zone: \"consul.\" static\n",
        folder.display(),
    );
    for (name, data) in records() {
        writeln!(configuration, "  local-data: \"{name} 0 IN {data}\"")?;
    }
    configuration.push_str("remote-control:\n  control-enable: no\n");
    let configuration = place.file("unbound.conf", configuration.as_bytes())?;
    let mut command = Command::new("unbound");
    command.arg("-d").arg("-c").arg(configuration);
    let process = Running::start(&mut command, &folder.join("log"))?;
    Ok(NameServer { name: "Unbound", address, process })
}
