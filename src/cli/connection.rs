//! Which agent a command asks: the options and environment that Consul's commands share.

use std::path::PathBuf;

use anyhow::Context as _;

use super::block_on;
use crate::client::{Address, Client, ClientError, Reply, Token};
use crate::hint::{WithHint as _, advise, split_answer};

/// Options of every command that asks an agent.
#[derive(clap::Args, Debug, Default)]
pub(crate) struct ConnectionArgs {
    /// Address of the agent: `host:port`, `http://host:port` or `unix:///path`.
    #[arg(long, env = "CONSUL_HTTP_ADDR", default_value = "127.0.0.1:8500")]
    pub(super) http_addr: String,
    /// File that holds the token.
    #[arg(long, env = "CONSUL_HTTP_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// Token; better in `CONSUL_HTTP_TOKEN` or a file than here, where every user of the machine sees it.
    #[arg(long, env = "CONSUL_HTTP_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Datacenter to ask.
    #[arg(long)]
    datacenter: Option<String>,
    /// Let any server answer.
    #[arg(long)]
    stale: bool,
}

impl ConnectionArgs {
    /// The client.
    pub(super) fn client(&self) -> anyhow::Result<Client> {
        let address: Address = self.http_addr.parse().hint("for example `-http-addr 127.0.0.1:8500`")?;
        let token = match &self.token_file {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read the token from {}", path.display()))?;
                Token::new(text.trim())
            }
            None => self.token.as_deref().and_then(Token::new),
        };
        Ok(Client::new(address, token)?)
    }

    /// Tells the agent to do something; `what` names the failure.
    pub(super) fn order(&self, path: &str, what: &str) -> anyhow::Result<()> {
        let client = self.client()?;
        let answer = block_on(async { Ok(client.put(path, &[], "").await.and_then(Reply::accepted)) })?;
        explain(answer, what).map(drop)
    }

    /// The query that all reads carry.
    pub(super) fn query(&self) -> Vec<(&str, &str)> {
        let mut query = Vec::new();
        if let Some(datacenter) = &self.datacenter {
            query.push(("dc", datacenter.as_str()));
        }
        if self.stale {
            query.push(("stale", ""));
        }
        query
    }
}

/// Says what could not be done, and what to do when no agent answered.
pub(super) fn explain<T>(result: Result<T, ClientError>, what: &str) -> anyhow::Result<T> {
    result.map_err(|error| {
        let unreachable = error.is_unreachable();
        if let ClientError::Status { code, body } = &error {
            let (body, advice) = split_answer(body);
            // On one line, as Consul's commands say it: scripts search for it.
            let error = ClientError::Status { code: *code, body: body.to_owned() };
            let error = anyhow::anyhow!("{what}: {error}");
            return match advice {
                Some(advice) => advise(error, advice),
                None => error,
            };
        }
        let error = anyhow::Error::new(error).context(what.to_owned());
        if unreachable {
            let advice =
                "start an agent (`corediscover agent -dev`), or name it with -http-addr or CONSUL_HTTP_ADDR";
            return advise(error, advice);
        }
        error
    })
}
