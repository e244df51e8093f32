//! The ceiling for HTTP reads: a hyper server that answers everything with the same bytes.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::place::{Place, eventually};
use super::process::Running;

/// Port of the server: that of the agent's API.
const PORT: u16 = 8500;

/// Serves the bytes of `file` at `address` until it is killed.
pub(crate) fn serve(address: &str, file: &str) -> Result<()> {
    let body = Bytes::from(std::fs::read(file)?);
    let address: Ipv4Addr = address.parse()?;
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().context("cannot start a runtime")?;
        runtime.block_on(async {
            let listener = TcpListener::bind((address, PORT)).await?;
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let body = body.clone();
                connections.spawn(async move {
                    let service = service_fn(move |_| {
                        let body = Full::new(body.clone());
                        async { Ok::<_, Infallible>(Response::new(body)) }
                    });
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
                });
            }
        })
    })
    .join()
    .unwrap_or_else(|_| Err(anyhow::anyhow!("the echo server ended")))
}

/// Starts an echo server of `body` in a process of its own.
pub(crate) async fn start(place: &Place, body: &[u8]) -> Result<(Ipv4Addr, Running)> {
    let (address, file) = (place.address(), place.file("body", body)?);
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["echo", &address.to_string()]).arg(file);
    let process = Running::start(&mut command, &place.folder("echo")?.join("log"))?;
    eventually("the echo server listens", async || TcpStream::connect((address, PORT)).await.ok()).await?;
    Ok((address, process))
}
