//! TCP checks: a connection that is made and closed again.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::model::catalog::Status;
use crate::model::health::{Failure, tcp_failure, tcp_success};

/// Connects to `host:port`.
pub(super) async fn ask(address: &str, timeout: Duration) -> (Status, String) {
    let has_port = address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if !has_port {
        return (Status::Critical, tcp_failure(address, &Failure::MissingPort));
    }
    match tokio::time::timeout(timeout, connect(address)).await {
        Ok(Ok(())) => (Status::Passing, tcp_success(address)),
        Ok(Err((address, failure))) => (Status::Critical, tcp_failure(&address, &failure)),
        Err(_) => (Status::Critical, tcp_failure(address, &Failure::TimedOut)),
    }
}

/// Fails with the address that was tried first, which may be one that a name stands for.
async fn connect(address: &str) -> Result<(), (String, Failure)> {
    let found: Vec<SocketAddr> = match tokio::net::lookup_host(address).await {
        Ok(found) => found.collect(),
        Err(_) => Vec::new(),
    };
    let Some(first) = found.first() else { return Err((address.to_owned(), Failure::NoSuchHost)) };
    match TcpStream::connect(&found[..]).await {
        Ok(_connection) => Ok(()),
        Err(error) => Err((first.to_string(), failure(&error))),
    }
}

/// What an error of the operating system means.
fn failure(error: &std::io::Error) -> Failure {
    match error.kind() {
        ErrorKind::ConnectionRefused => Failure::Refused,
        ErrorKind::TimedOut => Failure::TimedOut,
        _ => Failure::Other(error.to_string()),
    }
}
