//! What `up` shows: the table when it changes, and commands to try.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::super::Output;
use super::super::status::Status;

/// The last state shown, so that only changes are printed.
pub(super) struct Screen {
    json: bool,
    last: String,
}

impl Screen {
    /// Nothing shown yet.
    pub(super) fn new(json: bool) -> Self {
        Self { json, last: String::new() }
    }

    /// Prints the state if it is another than before.
    pub(super) fn show(&mut self, output: &mut Output, status: &Status) -> anyhow::Result<()> {
        let text = if self.json { serde_json::to_string(status)? + "\n" } else { status.text()? };
        if text != self.last {
            let gap = if self.last.is_empty() || self.json { "" } else { "\n" };
            output.data(&format!("{gap}{text}"))?;
            self.last = text;
        }
        Ok(())
    }

    /// Prints what to type next; every line works when pasted into another terminal.
    pub(super) fn next_commands(
        &self,
        output: &mut Output,
        addresses: &[Ipv4Addr],
        docker: bool,
        after: Duration,
    ) -> anyhow::Result<()> {
        if self.json {
            return Ok(());
        }
        let (Some(first), Some(last)) = (addresses.first(), addresses.last()) else { return Ok(()) };
        let program = std::env::current_exe()
            .map_or_else(|_| "corediscover".to_owned(), |path| path.display().to_string());
        let container = if docker {
            format!("docker run -d -P redis    # then: dig @{last} -p 8600 redis.service.consul\n  ")
        } else {
            String::new()
        };
        output.data(&format!(
            "\nReady after {:.1} s. Try, in another terminal:\n\n  \
             curl -X PUT -d '{{\"Name\": \"web\", \"Port\": 80}}' http://{first}:8500/v1/agent/service/register\n  \
             dig @{last} -p 8600 web.service.consul SRV\n  \
             {container}{program} members -http-addr {last}:8500\n  \
             {program} status -http-addr {last}:8500\n\n\
             Ctrl-C stops the cluster.\n",
            after.as_secs_f64()
        ))
    }
}
