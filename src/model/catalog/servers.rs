//! What the log says about servers beside raft's own configuration: how many are wanted, which machine is to become
//! one, which were replaced. So every leader goes on where the one before stopped, and every agent reads its role.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Catalog, Changes};
use crate::model::names::ClusterId;

/// Raft ids of former servers that are remembered, 8 bytes each: years of replacements.
pub(super) const RETIRED_MAX: usize = 256;
/// Predecessors that are remembered: nobody recovers a cluster that often, and 36 bytes each.
const PREDECESSORS_MAX: usize = 64;
/// Changes that are remembered for people and for pacing: more than any hour may hold.
pub(super) const HISTORY_MAX: usize = 16;

/// The servers' part of the catalog.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerTable {
    /// How many servers the cluster was born with; 0 until its leader has said so.
    pub born: u32,
    /// How many an operator wants.
    pub wanted: Option<u32>,
    /// The machine that is to become a server now; one at a time.
    pub nomination: Option<Nomination>,
    /// Raft ids that are servers no more; the youngest last.
    pub retired: Vec<u64>,
    /// What was carried out; the youngest last.
    pub history: Vec<Swap>,
    /// Why the last nomination came to nothing, until one succeeds.
    pub failure: Option<String>,
    /// Consul's autopilot settings.
    pub autopilot: Autopilot,
    /// How often the cluster was recovered after its quorum was lost for good.
    pub epoch: u64,
    /// The clusters that this one is the successor of; the youngest last.
    pub predecessors: Vec<ClusterId>,
}

/// A machine is asked to become a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nomination {
    /// The log index of the nomination: names it for ever.
    pub serial: u64,
    /// The machine's node name.
    pub node: String,
    /// Which life of its disk.
    pub incarnation: String,
    /// What for.
    pub purpose: Purpose,
}

/// What a machine becomes a server for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// There are to be more servers.
    Grow,
    /// It takes the place of another.
    Replace {
        /// Raft id of the other.
        id: u64,
        /// Its node name.
        node: String,
        /// Why it goes.
        why: Departure,
    },
}

/// Why a server goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Departure {
    /// It died and stayed dead.
    Dead,
    /// It said that it is about to leave.
    Leaving,
    /// An operator said so.
    Ordered,
}

impl fmt::Display for Departure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dead => "it is dead",
            Self::Leaving => "it leaves",
            Self::Ordered => "an operator ordered it",
        })
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Grow => f.write_str("one more server"),
            Self::Replace { node, why, .. } => write!(f, "in the place of {node}: {why}"),
        }
    }
}

/// A nomination that was fulfilled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swap {
    /// The new server's node name.
    pub node: String,
    /// What for.
    pub purpose: Purpose,
    /// When, in seconds since 1970, by the clock of the leader of then.
    pub at: u64,
}

/// Consul's autopilot settings. Those that mean nothing here are kept for whoever reads them back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Autopilot {
    /// Replace dead servers; without it replacements are only proposed.
    pub cleanup_dead_servers: bool,
    /// A server that the leader has not heard for longer counts as not healthy; milliseconds.
    pub last_contact_threshold_ms: u64,
    /// A server that misses more entries counts as not healthy.
    pub max_trailing_logs: u64,
    /// Never have fewer servers than this.
    pub min_quorum: u64,
    /// Kept only; milliseconds.
    pub server_stabilization_time_ms: u64,
    /// Kept only.
    pub redundancy_zone_tag: String,
    /// Kept only.
    pub disable_upgrade_migration: bool,
    /// Kept only.
    pub upgrade_version_tag: String,
    /// Log index of the first setting.
    pub create_index: u64,
    /// Log index of the last one.
    pub modify_index: u64,
}

impl Default for Autopilot {
    /// Consul's defaults.
    fn default() -> Self {
        Self {
            cleanup_dead_servers: true,
            last_contact_threshold_ms: 200,
            max_trailing_logs: 250,
            min_quorum: 0,
            server_stabilization_time_ms: 10_000,
            redundancy_zone_tag: String::new(),
            disable_upgrade_migration: false,
            upgrade_version_tag: String::new(),
            create_index: 0,
            modify_index: 0,
        }
    }
}

/// A change of the [`ServerTable`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ServersCommand {
    /// How many servers the cluster was born with; counts once.
    Born {
        /// The number.
        servers: u32,
    },
    /// An operator wants this many.
    Want {
        /// The number.
        servers: u32,
    },
    /// A machine is to become a server; nothing if one is nominated already.
    Nominate {
        /// Its node name.
        node: String,
        /// Which life of its disk.
        incarnation: String,
        /// What for.
        purpose: Purpose,
    },
    /// The nomination is over; nothing if it is not the present one.
    Settle {
        /// Which.
        serial: u64,
        /// Raft ids that are servers no more.
        retire: Vec<u64>,
        /// When it was fulfilled, or why not.
        outcome: Settlement,
    },
    /// A server is to be one no more.
    Retire {
        /// Its raft id.
        id: u64,
    },
    /// Autopilot settings; their indexes are filled in.
    Configure {
        /// The settings.
        autopilot: Autopilot,
        /// Only when the settings have this index.
        if_index: Option<u64>,
    },
}

/// How a nomination ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Settlement {
    /// The machine is a voter.
    Fulfilled {
        /// When, in seconds since 1970.
        at: u64,
    },
    /// It came to nothing.
    Withdrawn {
        /// Why.
        why: String,
    },
}

impl fmt::Display for ServersCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Born { servers } => write!(f, "born with {servers} servers"),
            Self::Want { servers } => write!(f, "want {servers} servers"),
            Self::Nominate { node, purpose, .. } => write!(f, "nominate {node}, {purpose}"),
            Self::Settle { serial, .. } => write!(f, "settle nomination {serial}"),
            Self::Retire { id } => write!(f, "retire server {id:016x}"),
            Self::Configure { .. } => f.write_str("autopilot settings"),
        }
    }
}

impl Catalog {
    /// The servers' part.
    pub fn servers(&self) -> &ServerTable {
        &self.servers
    }

    /// The same state as the first one of a successor: another cluster, after this one's quorum was lost for good.
    /// `voters` is how many voted last: it shall have as many again, also when the quorum was lost before the leader had
    /// said how many were born.
    #[must_use]
    pub fn succeeded_by(&self, cluster: ClusterId, voters: u32) -> Self {
        let mut table = ServerTable::clone(&self.servers);
        if table.born <= 1 {
            // Also where it was begun alone and grew by those who joined it.
            table.born = table.born.max(voters);
        }
        table.epoch += 1;
        table.predecessors.extend(self.cluster.clone());
        let surplus = table.predecessors.len().saturating_sub(PREDECESSORS_MAX);
        table.predecessors.drain(..surplus);
        table.nomination = None;
        Self { cluster: Some(cluster), servers: Arc::new(table), ..self.clone() }
    }

    /// Applies a command; whether it did anything.
    pub(super) fn apply_servers(
        &mut self,
        index: u64,
        command: &ServersCommand,
        changes: &mut Changes,
    ) -> bool {
        let mut table = ServerTable::clone(&self.servers);
        let done = table.apply(index, command);
        if table != *self.servers {
            self.servers = Arc::new(table);
            changes.servers = true;
        }
        done
    }
}

impl ServerTable {
    fn apply(&mut self, index: u64, command: &ServersCommand) -> bool {
        match command {
            ServersCommand::Born { servers } => {
                let first = self.born == 0;
                if first {
                    self.born = *servers;
                }
                first
            }
            ServersCommand::Want { servers } => {
                self.wanted = Some(*servers);
                true
            }
            ServersCommand::Nominate { node, incarnation, purpose } => {
                let free = self.nomination.is_none();
                if free {
                    self.nomination = Some(Nomination {
                        serial: index,
                        node: node.clone(),
                        incarnation: incarnation.clone(),
                        purpose: purpose.clone(),
                    });
                }
                free
            }
            ServersCommand::Settle { serial, retire, outcome } => self.settle(*serial, retire, outcome),
            ServersCommand::Retire { id } => {
                self.retire(*id);
                true
            }
            ServersCommand::Configure { autopilot, if_index } => {
                let now = self.autopilot.modify_index;
                if if_index.is_some_and(|wanted| wanted != now) {
                    return false;
                }
                let create_index = if now == 0 { index } else { self.autopilot.create_index };
                let settings = Autopilot { create_index, modify_index: now, ..autopilot.clone() };
                if settings != self.autopilot {
                    self.autopilot = Autopilot { modify_index: index, ..settings };
                }
                true
            }
        }
    }

    fn settle(&mut self, serial: u64, retire: &[u64], outcome: &Settlement) -> bool {
        let Some(nomination) = self.nomination.take_if(|nomination| nomination.serial == serial) else {
            return false;
        };
        for id in retire {
            self.retire(*id);
        }
        match outcome {
            Settlement::Fulfilled { at } => {
                self.history.push(Swap { node: nomination.node, purpose: nomination.purpose, at: *at });
                let surplus = self.history.len().saturating_sub(HISTORY_MAX);
                self.history.drain(..surplus);
                self.failure = None;
            }
            Settlement::Withdrawn { why } => {
                self.failure = Some(format!("{} did not become a server: {why}", nomination.node));
            }
        }
        true
    }

    fn retire(&mut self, id: u64) {
        if !self.retired.contains(&id) {
            self.retired.push(id);
            let surplus = self.retired.len().saturating_sub(RETIRED_MAX);
            self.retired.drain(..surplus);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Autopilot, Departure, HISTORY_MAX, Purpose, RETIRED_MAX, ServerTable, ServersCommand, Settlement,
    };
    use crate::model::catalog::{Catalog, Command, Depth};
    use crate::model::names::ClusterId;

    fn nominate(node: &str) -> ServersCommand {
        let purpose = Purpose::Replace { id: 7, node: "old".into(), why: Departure::Dead };
        ServersCommand::Nominate { node: node.into(), incarnation: format!("i-{node}"), purpose }
    }

    #[test]
    fn one_machine_is_nominated_at_a_time_and_only_its_own_end_settles_it() {
        let mut table = ServerTable::default();
        assert!(table.apply(5, &nominate("a")));
        assert!(!table.apply(6, &nominate("b")), "one at a time");
        let settle = |serial| ServersCommand::Settle {
            serial,
            retire: vec![7],
            outcome: Settlement::Fulfilled { at: 100 },
        };
        assert!(!table.apply(7, &settle(4)), "that was another nomination");
        assert!(table.apply(8, &settle(5)));
        assert_eq!((table.nomination, table.retired, table.history.len()), (None, vec![7], 1));
    }

    #[test]
    fn a_successor_shall_have_as_many_servers_as_were_born_or_else_as_voted_last() {
        let successor = |catalog: &Catalog| catalog.succeeded_by(ClusterId::from_random(2), 3).servers().born;
        let mut catalog = Catalog::default();
        assert_eq!(successor(&catalog), 3, "the quorum was lost before the leader had said it");
        let mut alone = Catalog::default();
        drop(alone.apply(1, &Command::Servers(ServersCommand::Born { servers: 1 })));
        assert_eq!(successor(&alone), 3, "it was begun alone and had grown");
        drop(catalog.apply(1, &Command::Servers(ServersCommand::Born { servers: 5 })));
        assert_eq!(successor(&catalog), 5);
    }

    #[test]
    fn what_is_remembered_is_limited() {
        let mut table = ServerTable::default();
        for number in 0..1000_u64 {
            table.apply(number * 2 + 1, &nominate("a"));
            table.apply(
                number * 2 + 2,
                &ServersCommand::Settle {
                    serial: number * 2 + 1,
                    retire: vec![number],
                    outcome: Settlement::Fulfilled { at: number },
                },
            );
        }
        assert_eq!((table.retired.len(), table.history.len()), (RETIRED_MAX, HISTORY_MAX));
        assert_eq!((table.retired.last(), table.history.last().map(|swap| swap.at)), (Some(&999), Some(999)));
    }

    #[test]
    fn autopilot_settings_are_compared_and_swapped_and_the_same_again_change_nothing() {
        let mut catalog = Catalog::default();
        let set = |if_index| {
            let autopilot = Autopilot { cleanup_dead_servers: false, ..Autopilot::default() };
            Command::Servers(ServersCommand::Configure { autopilot, if_index })
        };
        assert!(!catalog.apply(1, &set(Some(9))).changes.servers);
        assert!(catalog.apply(2, &set(Some(0))).changes.servers);
        assert!(catalog.apply(3, &set(None)).changes.is_empty(), "I7");
        assert_eq!(catalog.servers().autopilot.modify_index, 2);
    }

    #[test]
    fn the_servers_part_is_in_every_snapshot_and_an_old_snapshot_has_none() {
        let mut catalog = Catalog::default();
        catalog.apply(1, &Command::Servers(ServersCommand::Want { servers: 5 }));
        for depth in [Depth::Full, Depth::Discovery] {
            let back = Catalog::from_bytes(&catalog.to_bytes(depth).unwrap()).unwrap();
            assert_eq!(back.servers().wanted, Some(5));
        }
    }
}
