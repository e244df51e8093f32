//! Before a successor is founded: everybody who is left is asked whether that may be.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::Roles;
use super::parts::RunningServer;
use super::promise::OwnAttempt;
use super::succession::{ANSWER_WAIT, Lineage};
use super::switch::Recovery;
use crate::agent::consensus::LogEnd;
use crate::agent::handle::{Consensus as _, ConsensusStatus};
use crate::agent::rpc::messages::{PromiseAnswer, PromiseQuestion};
use crate::agent::rpc::{Connection, Method, RemoteError, RpcError, decode, encode};
use crate::host::outside::blocking;
use crate::model::membership::MemberStatus;
use crate::model::names::ClusterId;
use crate::model::sync::servers::{ServerMember, TAG_CLUSTER, TAG_EPOCH};

/// What an operator may do about one who is silent.
const ADVICE_SILENT: &str =
    "try again in a moment; if it never answers, stop its agent or insist with -force";

/// A server of our cluster that answers.
struct Survivor {
    address: SocketAddr,
    connection: Connection,
    status: ConsensusStatus,
}

impl Survivor {
    fn name(&self) -> &str {
        &self.connection.peer().name
    }
}

impl Roles {
    /// Why the order must not be carried out here and now. Afterwards, whoever answered lets this server do it.
    pub(super) async fn may_recover(
        &self,
        server: &RunningServer,
        recovery: &Recovery,
        attempt: &OwnAttempt<'_>,
    ) -> Result<(), String> {
        let named = &recovery.cluster;
        let Some(own) = self.cluster() else { return Err("the cluster was never born".to_owned()) };
        if own != *named {
            return Err(format!("this machine is in cluster {own}, not in {named}"));
        }
        if self.machine.settings.data_dir.is_none() {
            return Err("this server keeps nothing on disk".to_owned());
        }
        let mine = server.server.status().await;
        if server.server.is_in_touch() {
            let leader = mine.leader_name.as_deref().unwrap_or("a server");
            return Err(format!(
                "the cluster has a leader: there is nothing to recover; if {leader}, which leads, has lost its quorum, \
                 recover there"
            ));
        }
        #[cfg(test)]
        if crate::simulation::mutants::is(crate::simulation::mutants::Mutant::RecoveredTwice) {
            return Ok(());
        }
        let survivors = self.survivors(server, &own, recovery.force).await?;
        if let Some(ahead) = survivors.iter().find(|other| is_ahead(&other.status, &mine)) {
            return Err(format!(
                "the log of the server at {} is more up to date ({} against {}): recover there",
                ahead.address,
                last_entry(&ahead.status),
                last_entry(&mine)
            ));
        }
        let outcome = self.gather_promises(&survivors, recovery, server.server.log_state().committed).await;
        for survivor in &survivors {
            survivor.connection.close();
        }
        outcome?;
        attempt.settle().map_err(|first| {
            format!("{first} is recovering the cluster at the same time and goes first: this server joins it")
        })
    }

    /// All servers of our cluster that answer. An error: there may be one that founded a successor.
    async fn survivors(
        &self,
        server: &RunningServer,
        own: &ClusterId,
        force: bool,
    ) -> Result<Vec<Survivor>, String> {
        // Gossip may have lost sight of a survivor, and raft's configuration may have it at an old address.
        let (known, _) = server.server.configuration();
        let known = known.iter().filter(|other| other.id != server.identity.node());
        let mut others: BTreeSet<SocketAddr> = known.filter_map(|other| other.address.parse().ok()).collect();
        let alive: BTreeSet<SocketAddr> = self.other_servers().into_iter().collect();
        others.extend(&alive);
        if let Some(later) = self.later_client(own).filter(|_| !force) {
            return Err(format!(
                "{later} is in a cluster that was recovered more often: it may be the successor of {own}, which this \
                 server will join; {ADVICE_SILENT}"
            ));
        }
        let mut survivors = Vec::new();
        for address in others {
            match self.ask_status(address, server).await {
                // Our own address may be one that a lost server had before.
                Ok((connection, _)) if connection.peer().node == server.identity.node() => connection.close(),
                Ok((connection, status)) => survivors.push(Survivor { address, connection, status }),
                Err(RpcError::Refused(_)) => self.look_at_stranger(address, own, force).await?,
                // One that has just founded a successor opens its port again.
                Err(error) if alive.contains(&address) && !force => {
                    return Err(format!(
                        "the server at {address} lives and tells nothing ({error}): it may be recovering the cluster; \
                         {ADVICE_SILENT}"
                    ));
                }
                Err(error) => tracing::info!(%address, %error, "a server tells nothing"),
            }
        }
        Ok(survivors)
    }

    /// A client of a cluster that was recovered more often than ours: its servers may be out of reach just now.
    fn later_client(&self, own: &ClusterId) -> Option<String> {
        let epoch = self.machine.replica.load().servers().epoch;
        let members = self.gossip.members();
        let mut clients = members.iter().filter(|member| {
            let theirs = member.tags.get(TAG_EPOCH).and_then(|text| text.parse::<u64>().ok());
            let other = member.tags.get(TAG_CLUSTER).is_some_and(|cluster| cluster != own.as_str());
            let alive = member.status == MemberStatus::Alive && ServerMember::of(member).is_none();
            alive && other && theirs.is_some_and(|theirs| theirs > epoch)
        });
        clients.next().map(|member| member.name.clone())
    }

    async fn ask_status(
        &self,
        address: SocketAddr,
        server: &RunningServer,
    ) -> Result<(Connection, ConsensusStatus), RpcError> {
        let connection = Connection::open(address, &server.identity, &self.machine.spawner).await?;
        let answer = connection.call(Method::Status, bytes::Bytes::new(), ANSWER_WAIT).await?;
        let status = decode(&answer)?;
        Ok((connection, status))
    }

    /// Whether a server of another cluster may be one of a successor of ours.
    async fn look_at_stranger(
        &self,
        address: SocketAddr,
        own: &ClusterId,
        force: bool,
    ) -> Result<(), String> {
        let asker = self.machine.identity(0, None);
        if let Ok(connection) = Connection::open(address, &asker, &self.machine.spawner).await {
            connection.close();
            let catalog = self.machine.replica.load();
            let before = &catalog.servers().predecessors;
            if connection.peer().cluster.as_ref().is_some_and(|theirs| before.contains(theirs)) {
                tracing::info!(%address, "a server of a cluster that ours has succeeded");
                return Ok(());
            }
        }
        let silent = match self.ask_lineage(address).await {
            Ok(Lineage { cluster, predecessors, .. }) if predecessors.contains(own) => {
                return Err(format!(
                    "the cluster was already recovered as {cluster}, which the server at {address} is in: this server \
                     will join it"
                ));
            }
            Ok(Lineage { cluster, .. }) => {
                tracing::info!(%address, %cluster, "a server of another cluster, which is no successor of ours");
                return Ok(());
            }
            Err(error) => format!("{error:#}"),
        };
        if force {
            return Ok(());
        }
        Err(format!(
            "the server at {address} is in another cluster and does not say whether that is the successor of {own} \
             ({silent}); {ADVICE_SILENT}"
        ))
    }

    /// Asks all of them not to found a successor themselves.
    async fn gather_promises(
        &self,
        survivors: &[Survivor],
        recovery: &Recovery,
        committed: LogEnd,
    ) -> Result<(), String> {
        let mut granted = BTreeSet::new();
        let mut taken = Vec::new();
        for survivor in survivors {
            match self.ask_promise(survivor, recovery, false).await? {
                None => {
                    granted.insert(survivor.name());
                }
                Some(founder) => taken.push((survivor, founder)),
            }
        }
        let (promises, cluster) = (self.machine.promises.clone(), recovery.cluster.clone());
        let made = blocking(move || promises.made(&cluster, committed)).await.flatten();
        let own = made.map_err(|error| crate::hint::causes(&error))?;
        let binding = |founder: &str| !recovery.force && !granted.contains(founder);
        let all = own.iter().map(|founder| (self.machine.settings.node_name.as_str(), founder));
        let mut all = all.chain(taken.iter().map(|(survivor, founder)| (survivor.name(), founder)));
        if let Some((who, founder)) = all.find(|(_, founder)| binding(founder)) {
            return Err(format!(
                "{who} has promised that {founder} may recover the cluster: order it there again; if {founder} is lost \
                 for good, insist with -force"
            ));
        }
        // Whoever it was promised to has given way.
        for (survivor, founder) in &taken {
            if self.ask_promise(survivor, recovery, true).await?.is_some() {
                return Err(format!("{} keeps its promise to {founder}: try again", survivor.name()));
            }
        }
        Ok(())
    }

    /// `None`: it is promised. Else who it was promised to before.
    async fn ask_promise(
        &self,
        survivor: &Survivor,
        recovery: &Recovery,
        released: bool,
    ) -> Result<Option<String>, String> {
        let released = released || recovery.force;
        let question = PromiseQuestion { cluster: recovery.cluster.clone(), released };
        let asked = async {
            let body = encode(&question)?;
            let answer = survivor.connection.call(Method::Promise, body, ANSWER_WAIT).await?;
            Ok::<_, RpcError>(decode::<PromiseAnswer>(&answer)?)
        };
        let (name, address) = (survivor.name(), survivor.address);
        match asked.await {
            Ok(PromiseAnswer::Promised) => Ok(None),
            Ok(PromiseAnswer::Taken { founder }) => Ok(Some(founder)),
            Ok(PromiseAnswer::Recovering) => Err(format!(
                "{name} at {address} is recovering the cluster at the same time: this server joins it"
            )),
            Ok(PromiseAnswer::InTouch) => {
                Err(format!("{name} at {address} hears a leader of the cluster: there is nothing to recover"))
            }
            // A server of a version before this one promises nothing.
            Err(RpcError::Remote(RemoteError::Unavailable(why))) => {
                tracing::warn!(name, %address, why, "a survivor cannot promise not to recover the cluster");
                Ok(None)
            }
            Err(error) if recovery.force => {
                tracing::warn!(name, %address, %error, "a survivor has not promised not to recover the cluster");
                Ok(None)
            }
            Err(error) => Err(format!(
                "{name} at {address} has not promised to leave the recovery to this server ({error}); {ADVICE_SILENT}"
            )),
        }
    }
}

/// Whether `theirs` may hold what was acknowledged and is missing in `mine`. As raft compares logs: the later last term
/// wins whatever the lengths are, because entries of an older term behind it were never acknowledged.
fn is_ahead(theirs: &ConsensusStatus, mine: &ConsensusStatus) -> bool {
    match (theirs.last_log_term, mine.last_log_term) {
        (Some(their_term), Some(my_term)) => {
            (their_term, theirs.last_log_index) > (my_term, mine.last_log_index)
        }
        // A server of the first release tells its index only.
        _ => theirs.last_log_index > mine.last_log_index,
    }
}

fn last_entry(status: &ConsensusStatus) -> String {
    let index = status.last_log_index;
    status
        .last_log_term
        .map_or_else(|| format!("index {index}"), |term| format!("term {term}, index {index}"))
}

#[cfg(test)]
mod tests {
    use super::{is_ahead, last_entry};
    use crate::agent::handle::{ConsensusState, ConsensusStatus};

    fn log(term: Option<u64>, index: u64) -> ConsensusStatus {
        ConsensusStatus {
            state: ConsensusState::Follower,
            term: 9,
            leader_address: None,
            leader_name: None,
            last_log_index: index,
            last_log_term: term,
            commit_index: 0,
            applied_index: 0,
            peers: Vec::new(),
            storage: None,
        }
    }

    #[test]
    fn of_two_survivors_the_one_with_the_later_last_term_is_ahead_however_long_the_other_log_is() {
        let (longer, later) = (log(Some(2), 500), log(Some(3), 100));
        assert!(is_ahead(&later, &longer) && !is_ahead(&longer, &later));
        assert!(is_ahead(&log(Some(3), 101), &later) && !is_ahead(&later, &log(Some(3), 101)));
        assert!(!is_ahead(&later, &later), "either may be recovered");
        assert_eq!(last_entry(&later), "term 3, index 100");
    }

    #[test]
    fn a_survivor_that_tells_no_term_is_compared_by_its_index() {
        let old = log(None, 200);
        assert!(is_ahead(&old, &log(Some(7), 100)) && is_ahead(&log(Some(1), 300), &old));
        assert!(!is_ahead(&old, &log(Some(1), 200)));
        assert_eq!(last_entry(&old), "index 200");
    }
}
