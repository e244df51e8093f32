//! `corediscover serve-provision`: gives booting machines the binary and their user-data.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;

use super::spec_args::SpecArgs;
use super::{EXIT_FINE, Output, Usage, block_on, logging, signals};
use crate::hint::fault;
use crate::model::provision::etcd::Url;
use crate::provision_server::{self, Settings};
use crate::tasks::Tasks;

/// Arguments of `serve-provision`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where to listen: the address that machines reach, `0.0.0.0:8080` for all, `127.0.0.1:8080` for this machine alone.
    #[arg(long, value_name = "IP:PORT")]
    listen: SocketAddr,
    /// The URL at which machines reach this server, where that is another address than the one they connect to: behind a
    /// router or a proxy.
    #[arg(long, value_name = "URL")]
    url: Option<Url>,
    /// The file that machines get as the binary [default: this program].
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    #[command(flatten)]
    spec: SpecArgs,
}

/// Runs the command: prints its URL on stdout when machines can connect, then logs each request.
pub(crate) fn run(args: Args, output: &mut Output) -> anyhow::Result<u8> {
    let Some((draft, explained)) = args.spec.into_draft()? else {
        let advice = "`corediscover cloud-init --print-spec` prints one";
        return Err(fault("this command serves settings, it does not print them", advice)
            .context(Usage("--print-spec has no place here")));
    };
    let program = match args.program {
        Some(path) => path,
        None => std::env::current_exe().context("cannot find the file of this program")?,
    };
    let url = args.url.map(|url| url.as_str().trim_end_matches('/').to_owned());
    logging::start("info")?;
    let settings = Settings { listen: args.listen, url: url.clone(), program, draft, explained };
    block_on(async {
        let stop_request = signals::stop_request(signals::ignore_hangup)?;
        let bound = provision_server::bind(settings).await?;
        let address = bound.address()?;
        output.data(&format!("{}/\n", url.unwrap_or_else(|| format!("http://{address}"))))?;
        let tasks = Tasks::default();
        tasks.start("provision server", provision_server::run(bound, tasks.stop_token()));
        tasks.run_until(stop_request).await
    })?;
    Ok(EXIT_FINE)
}
