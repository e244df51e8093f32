//! Why `fleet up` does nothing to any machine.

use std::net::IpAddr;

use crate::model::names::ClusterId;

/// Why nothing is done to any machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// They would wait for each other for ever.
    #[error("{machines} machines cannot hold {servers} servers: name more machines, or give fewer --servers")]
    FewMachines {
        /// How many there are.
        machines: usize,
        /// How many of them were to be servers.
        servers: u8,
    },
    /// One cannot be told from the other.
    #[error("{one} and {other} have the same {what}: give each machine its own ({how})")]
    Alike {
        /// One machine.
        one: String,
        /// The other.
        other: String,
        /// What is the same.
        what: &'static str,
        /// How that is changed.
        how: &'static str,
    },
    /// No address at which all others could reach it is known.
    #[error(
        "it is not clear at which address the other machines reach {0}: say it in the file of --machines, \
         as in `{0} advertise=10.0.0.1`"
    )]
    Address(String),
    /// Somebody else's.
    #[error(
        "{0} has an agent that `fleet up` did not set up: leave that machine out, or remove its \
         corediscover-agent.service first"
    )]
    Foreign(String),
    /// They cannot be one.
    #[error("{one} belongs to cluster {first}, {other} to cluster {second}: clusters cannot be merged")]
    Clusters {
        /// One machine.
        one: String,
        /// Its cluster.
        first: ClusterId,
        /// The other.
        other: String,
        /// Its cluster.
        second: ClusterId,
    },
    /// Its data directory is of a cluster, but no unit is there.
    #[error(
        "{name} has data of cluster {cluster} and no agent: leave that machine out, or remove \
         /var/lib/private/corediscover on it if nobody needs what it holds"
    )]
    Data {
        /// The machine.
        name: String,
        /// The cluster.
        cluster: ClusterId,
    },
    /// Its agent would bring the machines that it remembers together with these.
    #[error(
        "{name} has data of a cluster with other machines ({}), none of which is named here: name one of them too, \
         leave {name} out, or remove /var/lib/private/corediscover on it if nobody needs what it holds",
        .others.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )]
    Strangers {
        /// The machine.
        name: String,
        /// Those that it remembers.
        others: Vec<IpAddr>,
    },
    /// The user asks for a setting that a member does not have.
    #[error(
        "{name} is a member and was set up with {flag} {has}, not {asked}: `fleet up` changes no settings of members. \
         {how}"
    )]
    Settled {
        /// The machine.
        name: String,
        /// The flag that asks for something else.
        flag: &'static str,
        /// What the machine has.
        has: String,
        /// What is asked for.
        asked: String,
        /// What can be done about it.
        how: String,
    },
}
