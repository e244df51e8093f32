//! The settings of servers: how their cluster is born, what is done when one dies, when they leave.

use std::net::{IpAddr, ToSocketAddrs as _};
use std::time::Duration;

use anyhow::bail;

use super::Settings;
use crate::hint::{WithHint as _, fault};
use crate::host::interfaces;
use crate::model::sync::servers::{Mode, SERVERS_MAX};
use crate::tasks::StopRequest;

/// How long a server must have been dead before it is replaced: a machine has rebooted within that time.
const REPLACE_AFTER: Duration = Duration::from_secs(30);
/// Less would replace servers that are only restarted.
const REPLACE_AFTER_MIN: Duration = Duration::from_secs(1);

impl Settings {
    /// Whether the agent leaves the cluster when it is asked to stop, as the server or client that it is then.
    pub fn leaves_on(&self, request: StopRequest, server: bool) -> bool {
        let said = match request {
            StopRequest::Interrupt => self.leave_on_interrupt,
            StopRequest::Terminate => self.leave_on_terminate,
        };
        said.unwrap_or(!server)
    }
}

/// Whether this machine is one of `named`: by the address that it tells the others, by any other address of it, or by its
/// host name.
///
/// # Errors
/// When a name's address is not known on a machine that has never met its cluster (`is_new`): it could be a server, and as
/// a client it would wait for a birth that needs it.
pub(super) fn is_named(
    named: &[String],
    server: Option<bool>,
    advertise: IpAddr,
    hostname: &str,
    is_new: bool,
    warnings: &mut Vec<String>,
) -> anyhow::Result<bool> {
    if server.is_some() {
        return Err(fault(
            "-server and -server-at both say whether this machine is a server",
            "-server-at is for flags that are the same on all machines; give one of the two",
        ));
    }
    let own: Vec<IpAddr> = interfaces::addresses()?.into_iter().map(|(_, address)| address).collect();
    let is_own = |address: IpAddr| address == advertise || own.contains(&address);
    let mut found = false;
    let mut unknown = Vec::new();
    for name in named {
        if name.parse::<IpAddr>().is_ok_and(is_own) || name.eq_ignore_ascii_case(hostname) {
            found = true;
        } else if name.parse::<IpAddr>().is_err() {
            match (name.as_str(), 0).to_socket_addrs() {
                // Debian gives a machine's own name an address like 127.0.1.1 in /etc/hosts, which no interface has.
                Ok(mut addresses) => {
                    found |= addresses.any(|address| is_own(address.ip()) || address.ip().is_loopback());
                }
                Err(error) => unknown.push((name, error)),
            }
        }
    }
    for (name, error) in unknown.iter().filter(|_| !found) {
        if is_new {
            return Err(fault(
                format!("-server-at {name}: its address is not known, so this machine may be it: {error}"),
                "correct the name, or start again when it can be looked up: units do so by themselves",
            ));
        }
        warnings.push(format!(
            "-server-at {name}: taken for another machine, as its address is not known: {error}"
        ));
    }
    Ok(found)
}

pub(super) fn birth(
    bootstrap: Option<bool>,
    expect: Option<i64>,
    server: bool,
    dev: bool,
    warnings: &mut Vec<String>,
) -> anyhow::Result<(bool, Option<usize>)> {
    let bootstrap = bootstrap.unwrap_or(dev);
    let expect = expect.unwrap_or(0);
    if expect < 0 {
        bail!("bootstrap_expect cannot be {expect}. Must be greater than or equal to zero");
    }
    if expect > i64::from(SERVERS_MAX) {
        return Err(fault(
            format!("bootstrap_expect cannot be {expect}. Must be at most {SERVERS_MAX}"),
            "3 or 5 servers are usual; all other machines join as clients",
        ));
    }
    if expect > 0 && dev {
        bail!("'bootstrap_expect > 0' not allowed in dev mode");
    }
    if expect > 0 && !server {
        return Err(fault("'bootstrap_expect > 0' requires 'server = true'", "add -server"));
    }
    if bootstrap && !server {
        return Err(fault("'bootstrap = true' requires 'server = true'", "add -server"));
    }
    if expect > 0 && bootstrap {
        bail!("'bootstrap_expect > 0' and 'bootstrap = true' are mutually exclusive");
    }
    match expect {
        0 => Ok((bootstrap, None)),
        1 => {
            warnings.push("BootstrapExpect is set to 1; this is the same as Bootstrap mode.".to_owned());
            Ok((true, None))
        }
        2 => {
            warnings.push(
                "bootstrap_expect = 2: A cluster with 2 servers will provide no failure tolerance. See https://www.consul.io/docs/internals/consensus.html#deployment-table".to_owned(),
            );
            Ok((false, Some(2)))
        }
        even if even % 2 == 0 => {
            warnings.push(
                "bootstrap_expect is even number: A cluster with an even number of servers does not achieve optimum fault tolerance. See https://www.consul.io/docs/internals/consensus.html#deployment-table".to_owned(),
            );
            Ok((false, usize::try_from(even).ok()))
        }
        odd => Ok((false, usize::try_from(odd).ok())),
    }
}

pub(super) fn replace_mode(text: Option<&str>) -> anyhow::Result<Mode> {
    text.unwrap_or("auto")
        .parse::<Mode>()
        .map_err(|error| anyhow::anyhow!("replace: {error}"))
        .hint("auto replaces dead servers, propose only says what would be done, off does neither")
}

pub(super) fn replace_after(duration: Option<Duration>) -> anyhow::Result<Duration> {
    let duration = duration.unwrap_or(REPLACE_AFTER);
    if duration < REPLACE_AFTER_MIN {
        return Err(fault(
            format!("replace_after cannot be {duration:?}"),
            format!(
                "at least {REPLACE_AFTER_MIN:?}: a restart or a short pause must not cost a server its place"
            ),
        ));
    }
    Ok(duration)
}
