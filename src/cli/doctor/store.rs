//! What etcd says: each endpoint by itself, and what is below the prefix.

use std::net::IpAddr;
use std::time::Duration;

use super::settings::Settings;
use crate::bootstrap::version::Space;
use crate::bootstrap::{Answered, Examined, ask_each};
use crate::cli::bootstrap::{EtcdArgs, etcd};
use crate::hint::causes;
use crate::host::{interfaces, unit_files};
use crate::model::doctor::clock::Other;
use crate::model::doctor::etcd::{Endpoint, Facts, Spaces};
use crate::model::election::View;
use crate::model::fleet::shell::quote;
use crate::model::provision::endpoint::Endpoint as Url;

/// How long etcd may take for everything.
const ANSWER_WAIT: Duration = Duration::from_secs(20);
/// How long other members of etcd may take to tell the time.
const CLOCK_WAIT: Duration = Duration::from_secs(5);
/// etcd's units, by their age: of CoreOS, of its successors, of Debian.
const UNITS: [&str; 3] = ["etcd2.service", "etcd-member.service", "etcd.service"];

/// What etcd says.
#[derive(Debug)]
pub(super) struct Store {
    args: Option<EtcdArgs>,
    /// Where the machines meet, without a slash at the end.
    pub(super) prefix: String,
    answered: Vec<Answered>,
    examined: Result<Examined, String>,
    clocks: Vec<Other>,
}

/// Asks it for everything.
pub(super) async fn ask(settings: &Settings) -> Store {
    let Some(args) = settings.etcd.clone() else { return Store::none("no etcd is named") };
    let (urls, tls) = match etcd(&args) {
        Ok((_, urls, tls)) => (urls, tls),
        Err(error) => return Store::none(&causes(&error)),
    };
    let answered = ask_each(&urls, tls.as_ref()).await;
    let examined = examine(&args, &answered).await;
    let mut clocks: Vec<Other> = answered.iter().filter(|one| !is_here(&one.url)).filter_map(clock).collect();
    if clocks.is_empty()
        && let Ok(examined) = &examined
    {
        // The etcd that is asked is on this machine; the others of its cluster have clocks of their own.
        let members: Vec<String> = examined.members.iter().filter(|url| !is_here(url)).cloned().collect();
        let asking = ask_each(&members, tls.as_ref());
        // Without an answer there is nothing to compare with.
        let others = tokio::time::timeout(CLOCK_WAIT, asking).await.unwrap_or_default();
        clocks = others.iter().filter_map(clock).collect();
    }
    Store {
        prefix: args.prefix.trim_end_matches('/').to_owned(),
        args: Some(args),
        answered,
        examined,
        clocks,
    }
}

/// Looks at the keys through the endpoints that answer: what one of them has, all have.
async fn examine(args: &EtcdArgs, answered: &[Answered]) -> Result<Examined, String> {
    let answers = |endpoint: &&Url| {
        let url = endpoint.to_string();
        answered.iter().any(|one| one.version.is_ok() && one.url == url)
    };
    let alive: Vec<Url> = args.etcd.iter().filter(answers).cloned().collect();
    if alive.is_empty() {
        return Err("no etcd answers".to_owned());
    }
    let (store, ..) = etcd(&EtcdArgs { etcd: alive, ..args.clone() }).map_err(|error| causes(&error))?;
    match tokio::time::timeout(ANSWER_WAIT, store.examine()).await {
        Ok(examined) => examined.map_err(|error| causes(&error)),
        Err(_) => Err(format!("no answer within {ANSWER_WAIT:?}")),
    }
}

fn clock(answered: &Answered) -> Option<Other> {
    Some(Other { name: answered.url.clone(), ahead_seconds: answered.ahead_seconds? })
}

/// Whether a URL leads to this machine.
fn is_here(url: &str) -> bool {
    let rest = url.rsplit("://").next().unwrap_or(url).trim_end_matches('/');
    let host = rest.rsplit_once(':').map_or(rest, |(host, _)| host).trim_matches(['[', ']']);
    match host.parse::<IpAddr>() {
        Ok(ip) if ip.is_loopback() || ip.is_unspecified() => true,
        // Without the list, every address counts as another machine's.
        Ok(ip) => interfaces::addresses().is_ok_and(|own| own.iter().any(|(_, address)| *address == ip)),
        Err(_) => host == "localhost" || crate::host::name().is_ok_and(|name| name == host),
    }
}

impl Store {
    fn none(why: &str) -> Self {
        Self {
            args: None,
            prefix: String::new(),
            answered: Vec::new(),
            examined: Err(why.to_owned()),
            clocks: Vec::new(),
        }
    }

    /// What the machines have written, or why that is not known.
    pub(super) fn view(&self) -> Result<View, String> {
        self.examined.as_ref().map(|examined| examined.view.clone()).map_err(Clone::clone)
    }

    /// What other machines' clocks say.
    pub(super) fn clocks(&self) -> Vec<Other> {
        self.clocks.clone()
    }

    /// For the judgement of etcd itself.
    pub(super) fn facts(&self) -> Facts {
        let endpoint = |answered: &Answered| Endpoint {
            here: is_here(&answered.url),
            url: answered.url.clone(),
            version: answered.version.clone(),
        };
        Facts {
            endpoints: self.answered.iter().map(endpoint).collect(),
            spaces: self.examined.as_ref().map(|examined| self.spaces(examined)).map_err(Clone::clone),
            unit: UNITS.into_iter().find(|unit| unit_files::find(unit).is_some()).map(str::to_owned),
        }
    }

    fn spaces(&self, examined: &Examined) -> Spaces {
        let foreign = examined.other.as_ref().and_then(|view| match &view.certificate {
            Some((certificate, _)) => {
                Some(format!("the birth certificate of cluster {}", certificate.cluster_id))
            }
            None if view.claims.is_empty() => None,
            None => Some(format!("the claims of {} machines", view.claims.len())),
        });
        let other = if examined.space == Space::V3 { Space::V2 } else { Space::V3 };
        let formed = examined.view.certificate.as_ref().is_some_and(|(certificate, _)| certificate.formed);
        Spaces {
            used: examined.space.to_string(),
            foreign,
            removal: format!("{} {}/cluster", self.etcdctl(other), self.prefix),
            formed,
        }
    }

    /// The command that removes a key; the key follows.
    pub(super) fn remove(&self) -> String {
        self.etcdctl(self.examined.as_ref().map_or(Space::V3, |examined| examined.space))
    }

    fn etcdctl(&self, space: Space) -> String {
        let Some(args) = &self.args else { return String::new() };
        let (version, verb, flags) = match space {
            Space::V2 => (2, "rm", ["--ca-file", "--cert-file", "--key-file"]),
            Space::V3 => (3, "del", ["--cacert", "--cert", "--key"]),
        };
        let files = [&args.etcd_ca, &args.etcd_cert, &args.etcd_key];
        let files = flags.into_iter().zip(files).filter_map(|(flag, file)| {
            Some(format!(" {flag}={}", quote(&file.as_ref()?.display().to_string())))
        });
        let files: String = files.collect();
        let endpoints = quote(&args.endpoints().join(","));
        format!("ETCDCTL_API={version} etcdctl --endpoints={endpoints}{files} {verb}")
    }
}
