//! Serves the binary and user-data to booting machines over plain HTTP. Machines check the binary by its digest, which they
//! have from the user-data: whoever can change that on its way can do everything, so it belongs into a network of one's own.

mod answer;
mod program;
mod server;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;

use crate::hint::WithHint as _;
use crate::model::provision::binary::Binary;
use crate::model::provision::draft::Draft;
use crate::model::provision::etcd::Url;
use crate::model::provision::served::{BINARY_PATH, Document, documents, index};

pub use program::{Program, Snapshot};
pub use server::{Bound, bind, run};

/// What is served.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The server's URL as machines reach it, without a final slash; `None`: the address that a machine connected to.
    pub url: Option<String>,
    /// The binary's file.
    pub program: PathBuf,
    /// What the cluster's machines have in common.
    pub draft: Draft,
    /// Whether texts say why their lines are there.
    pub explained: bool,
}

/// Everything that is made of the settings and one state of the binary.
pub(crate) struct Pages {
    pub(crate) documents: Vec<Document>,
    pub(crate) index: String,
}

impl Settings {
    /// All texts, for machines that reach this server at `base`.
    ///
    /// # Errors
    /// When `base` is no URL that can stand in user-data.
    pub(crate) fn pages(&self, base: &str, digest: &str) -> anyhow::Result<Pages> {
        // With its digest: a machine that boots with what it was given before the binary was replaced gets what it wants.
        let url: Url = format!("{base}{BINARY_PATH}/{digest}")
            .parse()
            .with_context(|| format!("{base} cannot be the URL of this server"))
            .hint("give one like http://10.0.0.1:8080 with --url")?;
        let binary = Binary::Download { url, sha512: digest.to_owned() };
        let documents = documents(&self.draft, &binary, self.explained)?;
        let index = index(base, &documents, digest, self.draft.node.unwrap_or_default());
        Ok(Pages { documents, index })
    }

    /// The URL for a machine that connected to `local`. What the machine itself says (`Host`) is not believed: it would be
    /// written into what others are given by a cache.
    pub(crate) fn base(&self, local: SocketAddr) -> String {
        // A socket for both families shows IPv4 inside IPv6, and a scope means nothing to others.
        let local = SocketAddr::new(local.ip().to_canonical(), local.port());
        self.url.clone().unwrap_or_else(|| format!("http://{local}"))
    }
}
