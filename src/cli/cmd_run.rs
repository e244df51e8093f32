//! `corediscover cmd:run`: the docker line that starts an agent container, to be used as `$(… cmd:run 10.0.0.1 -d)`.

use std::net::IpAddr;

use super::{EXIT_FINE, Output, Usage, block_on};
use crate::hint::{WithHint as _, fault};
use crate::host::docker_bridge;
use crate::model::provision::binary::parse_image;
use crate::model::provision::docker_run::{DockerRun, NAME_DEFAULT, RunSpec, parse_expect};
use crate::model::provision::spec::SERVERS_DEFAULT;

/// How to call it.
const USAGE: &str = "corediscover cmd:run [OPTIONS] ADVERTISE[::JOIN[::client]] [DOCKER ARGUMENTS…]";

/// What to do when nobody knows where containers reach this machine.
const BRIDGE_HINT: &str = "give the address with --bridge-ip, for example `--bridge-ip 172.17.0.1`";

/// Arguments of `cmd:run`.
#[derive(clap::Args)]
#[command(override_usage = USAGE)]
pub(crate) struct Args {
    /// The image to run.
    #[arg(long, value_name = "NAME", default_value = crate::model::provision::docker_run::IMAGE_DEFAULT, value_parser = parse_image)]
    image: String,
    /// How many servers to wait for; without it the variable EXPECT says so, else 3.
    #[arg(long, value_name = "N")]
    expect: Option<String>,
    /// Where containers reach this machine; DNS is published there. Without it, Docker is asked.
    #[arg(long, value_name = "ADDRESS")]
    bridge_ip: Option<IpAddr>,
    /// Name of the container.
    #[arg(long, value_name = "NAME", default_value = NAME_DEFAULT)]
    name: String,
    /// Host name of the container; without it, `$HOSTNAME` of the shell that runs the line (bash sets it, dash does not).
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// `ADVERTISE[::JOIN[::client]]`, then arguments for `docker run`. IPv6 addresses in brackets.
    #[arg(value_name = "SPEC", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(args: Args, output: &mut Output) -> anyhow::Result<u8> {
    let (spec, arguments) = args.words.split_first().ok_or_else(|| fault("the address is missing", USAGE))?;
    let usage = |error: anyhow::Error| error.context(Usage("there is no docker line for this"));
    let spec: RunSpec = spec.parse().hint(format_args!("usage: {USAGE}")).map_err(usage)?;
    let expect = args.expect.or_else(|| std::env::var("EXPECT").ok().filter(|text| !text.is_empty()));
    let expect = match expect {
        Some(text) => parse_expect(&text).hint(format_args!("usage: {USAGE}")).map_err(usage)?,
        None => u32::from(SERVERS_DEFAULT),
    };
    let bridge = match args.bridge_ip {
        Some(address) => address,
        None => block_on(bridge_address())?,
    };
    let run = DockerRun {
        spec,
        bridge,
        expect,
        image: args.image,
        name: args.name,
        hostname: args.hostname,
        arguments: arguments.to_vec(),
    };
    let line =
        run.line().hint("put the value into a file, and give docker the file (--env-file)").map_err(usage)?;
    output.data(&line)?;
    Ok(EXIT_FINE)
}

/// The engine's answer where there is one, else what the kernel knows: in a container there rarely is an engine.
async fn bridge_address() -> anyhow::Result<IpAddr> {
    let asked = match crate::registrator::bridge_address().await {
        Ok(Some(address)) => return Ok(address),
        Ok(None) => anyhow::anyhow!("Docker's default bridge has no address"),
        // Whoever names an engine means that one.
        Err(error) if std::env::var_os("DOCKER_HOST").is_some() => return Err(error).hint(BRIDGE_HINT),
        Err(error) => error,
    };
    match docker_bridge::address()? {
        Some(address) => Ok(IpAddr::V4(address)),
        None => {
            Err(asked
                .context("there is no address to publish DNS on: no docker0 interface, no default route"))
            .hint(BRIDGE_HINT)
        }
    }
}
