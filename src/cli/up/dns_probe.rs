//! One DNS question over UDP (RFC 1035 §4), for `up --check`: is there an A record for this name?

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::net::UdpSocket;

/// How long one question may take.
const ANSWER_WAIT: Duration = Duration::from_secs(1);
/// Port of every machine's DNS.
const PORT_DNS: u16 = 8600;
/// Largest answer without EDNS, in bytes.
const ANSWER_BYTES_MAX: usize = 512;

/// Asks the machine at `server` for the address of `name`; fails when there is none.
pub(super) async fn has_address(server: Ipv4Addr, name: &str) -> anyhow::Result<()> {
    let question = question(name);
    let asking = async {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
        socket.connect(SocketAddr::from((server, PORT_DNS))).await?;
        socket.send(&question).await?;
        let mut answer = [0; ANSWER_BYTES_MAX];
        let length = socket.recv(&mut answer).await?;
        std::io::Result::Ok(answer[..length].to_vec())
    };
    let answer = tokio::time::timeout(ANSWER_WAIT, asking)
        .await
        .with_context(|| format!("DNS at {server} does not answer"))?
        .with_context(|| format!("DNS at {server} cannot be asked"))?;
    if answer.len() < 12 {
        bail!("DNS at {server} answers {} bytes", answer.len());
    }
    let (code, answers) = (answer[3] & 0xf, u16::from_be_bytes([answer[6], answer[7]]));
    if code != 0 || answers == 0 {
        bail!("DNS at {server} does not know {name} (rcode {code}, {answers} answers)");
    }
    Ok(())
}

fn question(name: &str) -> Vec<u8> {
    // Id 1, recursion desired, one question; then the name, type A, class IN.
    let mut bytes = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.extend_from_slice(&[0, 0, 1, 0, 1]);
    bytes
}
