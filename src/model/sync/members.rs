//! What the leader writes about members: their nodes, the check `serfHealth`, and the service `consul` of servers.
//!
//! Gossip is the truth for life and death. Only nodes that carry `serfHealth` are judged; those that others
//! registered (`catalog/register`) are not touched. Texts and rules are Consul's (`reconcileMember`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::plan::batches;
use super::rows::agent_node;
use crate::model::catalog::{
    CONSUL_SERVICE, Catalog, Check, Command, Deregistration, Key, NodeRegistration, NodeRow, Registration,
    SERF_HEALTH, Service, Status, key_of,
};
use crate::model::membership::{Member, MemberStatus};

const SERF_HEALTH_NAME: &str = "Serf Health Status";
const ALIVE: &str = "Agent alive and reachable";
const DEAD: &str = "Agent not live or unreachable";
/// Role of servers in the tags of a member.
const SERVER_ROLE: &str = "consul";
/// RPC port of a server that does not say.
const SERVER_PORT: u16 = 8300;
/// How long a node that gossip has never told this leader of is left alone: after a restart of all machines it
/// takes a moment until everybody has been heard.
pub const UNHEARD_GRACE: Duration = Duration::from_secs(10);
/// How long such a node is then kept as dead (Consul's `reconnect_timeout`, as for failed members).
const UNHEARD_KEPT: Duration = Duration::from_hours(72);

/// What the leader knows of the cluster.
#[derive(Debug, Clone, Copy)]
pub struct LeaderView<'a> {
    /// The members as gossip has them, the leader included.
    pub members: &'a [Member],
    /// Nodes (catalog keys) that were members at some time since this agent started. One of them that gossip has
    /// forgotten is gone for good; one that was never heard of may only be late.
    pub heard: &'a BTreeSet<Key>,
    /// The leader's own name.
    pub own_name: &'a str,
    /// The leader's datacenter.
    pub datacenter: &'a str,
    /// How long it has been leading.
    pub leading_for: Duration,
}

/// The commands that make the catalog say what gossip knows; none when it does already (I7).
///
/// Members of another datacenter or another cluster are not looked at, and the leader never removes itself.
pub fn plan_members(view: &LeaderView<'_>, catalog: &Catalog) -> Vec<Command> {
    let mut commands = Vec::new();
    let mut known: BTreeSet<Key> = BTreeSet::from([key_of(view.own_name)]);
    for member in view.members {
        known.insert(key_of(&member.name));
        if is_foreign(member, view, catalog) {
            continue;
        }
        let row = catalog.node(&member.name);
        match member.status {
            MemberStatus::Alive => commands.extend(alive(member, view.datacenter, row)),
            MemberStatus::Failed => commands.extend(judged(member, row).and_then(dead)),
            MemberStatus::Left if member.name != view.own_name => {
                commands.extend(judged(member, row).map(gone));
            }
            MemberStatus::Left | MemberStatus::Leaving | MemberStatus::None => {}
        }
    }
    for row in catalog.nodes().filter(|row| row.checks.get(SERF_HEALTH).is_some()) {
        let key = key_of(&row.node.node);
        if known.contains(&key) {
            continue;
        }
        if view.heard.contains(&key) || view.leading_for >= UNHEARD_KEPT {
            commands.push(gone(row));
        } else if view.leading_for >= UNHEARD_GRACE {
            commands.extend(dead(row));
        }
    }
    batches(commands)
}

/// The nodes (catalog keys) of members that gossip has found dead, without `own_name`.
pub fn dead_nodes(members: &[Member], own_name: &str) -> BTreeSet<Key> {
    let dead = members.iter().filter(|member| member.status == MemberStatus::Failed);
    dead.filter(|member| member.name != own_name).map(|member| key_of(&member.name)).collect()
}

fn tag<'a>(member: &'a Member, name: &str) -> &'a str {
    member.tags.get(name).map(String::as_str).unwrap_or_default()
}

fn is_foreign(member: &Member, view: &LeaderView<'_>, catalog: &Catalog) -> bool {
    let (datacenter, cluster) = (tag(member, "dc"), tag(member, "cluster"));
    let is_of_other_cluster =
        catalog.cluster().is_some_and(|own| !cluster.is_empty() && cluster != own.as_str());
    (!datacenter.is_empty() && datacenter != view.datacenter) || is_of_other_cluster
}

/// The member's node, if the leader judges it: it carries `serfHealth`, and no other agent has taken its name.
fn judged<'a>(member: &Member, row: Option<&'a NodeRow>) -> Option<&'a NodeRow> {
    row.filter(|row| row.checks.get(SERF_HEALTH).is_some() && is_id_of(member, row))
}

fn is_id_of(member: &Member, row: &NodeRow) -> bool {
    let id = tag(member, "id");
    id.is_empty() || row.node.id.is_empty() || row.node.id == id
}

/// A node that is there keeps its address and metadata: they are its own agent's to write.
fn alive(member: &Member, datacenter: &str, row: Option<&NodeRow>) -> Vec<Command> {
    let mut commands = Vec::new();
    let replaced = row.filter(|row| !is_id_of(member, row));
    if let Some(row) = replaced {
        // Gossip lets another agent have a name only when the one before is dead, or at the same address.
        commands.push(gone(row));
    }
    let row = row.filter(|_| replaced.is_none());
    let id = tag(member, "id");
    let skip_node_update = row.is_some_and(|row| row.node.id == id || id.is_empty());
    let node = match row {
        Some(row) => NodeRegistration { id: id.to_owned(), ..present(row) },
        None => agent_node(id, &member.name, member.address, datacenter, &BTreeMap::new()),
    };
    let is_server = tag(member, "role") == SERVER_ROLE;
    let service_there = row.and_then(|row| row.services.get(CONSUL_SERVICE));
    let service = is_server.then(|| server_service(member)).filter(|wanted| {
        service_there.is_none_or(|there| {
            let indexes = (there.create_index, there.modify_index);
            Service { create_index: indexes.0, modify_index: indexes.1, ..wanted.clone() } != **there
        })
    });
    if !is_server && service_there.is_some() {
        commands.push(Command::Deregister(Deregistration {
            node: member.name.clone(),
            service_id: Some(CONSUL_SERVICE.to_owned()),
            check_id: None,
        }));
    }
    let checks: Vec<Check> = serf_health(row, Status::Passing, ALIVE).into_iter().collect();
    if !skip_node_update || service.is_some() || !checks.is_empty() {
        let registration = Registration { node, skip_node_update, service, checks };
        commands.push(Command::Register(Box::new(registration)));
    }
    commands
}

fn dead(row: &NodeRow) -> Option<Command> {
    let check = serf_health(Some(row), Status::Critical, DEAD)?;
    Some(Command::Register(Box::new(Registration {
        node: present(row),
        skip_node_update: true,
        service: None,
        checks: vec![check],
    })))
}

fn gone(row: &NodeRow) -> Command {
    Command::Deregister(Deregistration { node: row.node.node.clone(), ..Deregistration::default() })
}

/// The check to write, unless the node has it so.
fn serf_health(row: Option<&NodeRow>, status: Status, output: &str) -> Option<Check> {
    let is_there = row.and_then(|row| row.checks.get(SERF_HEALTH)).is_some_and(|there| {
        there.status == status
            && there.output == output
            && there.name == SERF_HEALTH_NAME
            && there.is_node_level()
    });
    (!is_there).then(|| Check {
        check_id: SERF_HEALTH.to_owned(),
        name: SERF_HEALTH_NAME.to_owned(),
        status,
        output: output.to_owned(),
        ..Check::default()
    })
}

pub(super) fn present(row: &NodeRow) -> NodeRegistration {
    let node = &row.node;
    NodeRegistration {
        id: node.id.clone(),
        node: node.node.clone(),
        address: node.address.clone(),
        datacenter: node.datacenter.clone(),
        tagged_addresses: node.tagged_addresses.clone(),
        meta: node.meta.clone(),
    }
}

/// The service of a server, with the metadata that Consul's servers have.
fn server_service(member: &Member) -> Service {
    let version = tag(member, "build").split(':').next().unwrap_or_default();
    let meta = [
        ("non_voter", "false"),
        ("raft_version", "3"),
        ("read_replica", "false"),
        ("serf_protocol_current", "2"),
        ("serf_protocol_max", "5"),
        ("serf_protocol_min", "1"),
        ("version", version),
    ];
    Service {
        id: CONSUL_SERVICE.to_owned(),
        name: CONSUL_SERVICE.to_owned(),
        port: tag(member, "port").parse().unwrap_or(SERVER_PORT),
        meta: meta.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        ..Service::default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::Duration;

    use super::{LeaderView, dead_nodes, plan_members};
    use crate::model::catalog::{
        Catalog, Check, Command, NodeRegistration, Registration, SERF_HEALTH, Service, Status, key_of,
    };
    use crate::model::membership::{Member, MemberStatus};
    use crate::model::names::ClusterId;

    fn member(name: &str, role: &str, status: MemberStatus) -> Member {
        let tags = [
            ("role", role),
            ("dc", "dc1"),
            ("id", &format!("id-{name}")),
            ("port", "8300"),
            ("build", "1.21.4:abc"),
        ];
        Member {
            name: name.to_owned(),
            address: "10.0.0.7".parse().unwrap(),
            port: 8301,
            tags: tags.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            status,
            incarnation: 1,
        }
    }

    struct Cluster {
        catalog: Catalog,
        members: Vec<Member>,
        heard: BTreeSet<std::sync::Arc<str>>,
        leading_for: Duration,
    }

    /// `leader` is a server that leads; `web` is a client.
    fn cluster() -> Cluster {
        let members =
            vec![member("leader", "consul", MemberStatus::Alive), member("web", "node", MemberStatus::Alive)];
        let mut cluster = Cluster {
            catalog: Catalog::default(),
            members,
            heard: BTreeSet::new(),
            leading_for: Duration::from_mins(1),
        };
        cluster.reconcile();
        cluster
    }

    impl Cluster {
        fn plan(&mut self) -> Vec<Command> {
            self.heard.extend(self.members.iter().map(|member| key_of(&member.name)));
            let view = LeaderView {
                members: &self.members,
                heard: &self.heard,
                own_name: "leader",
                datacenter: "dc1",
                leading_for: self.leading_for,
            };
            plan_members(&view, &self.catalog)
        }

        /// Writes what is planned, until there is nothing more; tells whether there was something.
        #[track_caller]
        fn reconcile(&mut self) -> bool {
            let commands = self.plan();
            for command in &commands {
                self.catalog.apply(self.catalog.index() + 1, command).result.unwrap();
            }
            assert_eq!(self.plan(), [], "what was written is enough");
            !commands.is_empty()
        }

        fn set(&mut self, name: &str, status: MemberStatus) {
            self.members.iter_mut().find(|member| member.name == name).unwrap().status = status;
        }

        fn health(&self, name: &str) -> Option<(Status, &str)> {
            let check = self.catalog.node(name)?.checks.get(SERF_HEALTH)?;
            Some((check.status, &check.output))
        }

        fn register(&mut self, registration: Registration) {
            let command = Command::Register(Box::new(registration));
            self.catalog.apply(self.catalog.index() + 1, &command).result.unwrap();
        }
    }

    const ALIVE: Option<(Status, &str)> = Some((Status::Passing, "Agent alive and reachable"));
    const DEAD: Option<(Status, &str)> = Some((Status::Critical, "Agent not live or unreachable"));

    #[test]
    fn living_members_are_nodes_and_servers_have_the_service_consul() {
        let cluster = cluster();
        assert_eq!((cluster.health("leader"), cluster.health("web")), (ALIVE, ALIVE));
        let leader = cluster.catalog.node("leader").unwrap();
        assert_eq!((leader.node.id.as_str(), leader.node.address.as_str()), ("id-leader", "10.0.0.7"));
        assert_eq!(leader.node.tagged_addresses.as_ref().unwrap()["wan_ipv4"], "10.0.0.7");
        assert_eq!(leader.checks.get(SERF_HEALTH).unwrap().name, "Serf Health Status");
        let consul = &leader.services["consul"];
        assert_eq!((consul.port, consul.meta["version"].as_str()), (8300, "1.21.4"));
        assert!(cluster.catalog.node("web").unwrap().services.is_empty());
    }

    #[test]
    fn a_failed_member_is_critical_until_it_returns_and_one_that_left_goes() {
        let mut cluster = cluster();
        cluster.set("web", MemberStatus::Failed);
        assert!(cluster.reconcile());
        assert_eq!(cluster.health("web"), DEAD);
        cluster.set("web", MemberStatus::Alive);
        assert!(cluster.reconcile());
        assert_eq!(cluster.health("web"), ALIVE);
        cluster.set("web", MemberStatus::Leaving);
        assert!(!cluster.reconcile());
        cluster.set("web", MemberStatus::Left);
        assert!(cluster.reconcile());
        assert!(cluster.catalog.node("web").is_none());
        cluster.set("web", MemberStatus::Failed);
        assert!(!cluster.reconcile(), "a dead member without a node gets none");
    }

    #[test]
    fn the_leader_never_removes_itself() {
        let mut cluster = cluster();
        cluster.set("leader", MemberStatus::Left);
        assert!(!cluster.reconcile());
        cluster.members.clear();
        assert!(cluster.reconcile());
        assert_eq!((cluster.health("leader"), cluster.health("web")), (ALIVE, None));
    }

    #[test]
    fn a_node_that_gossip_has_forgotten_goes_and_one_never_heard_of_is_dead_first() {
        let mut cluster = cluster();
        cluster.members.truncate(1);
        assert!(cluster.reconcile(), "pruned or reaped");
        assert!(cluster.catalog.node("web").is_none());

        let mut cluster = self::cluster();
        cluster.members.truncate(1);
        cluster.heard.clear();
        cluster.leading_for = Duration::from_secs(9);
        assert!(!cluster.reconcile(), "it may be late");
        cluster.leading_for = Duration::from_secs(10);
        assert!(cluster.reconcile());
        assert_eq!(cluster.health("web"), DEAD);
        cluster.leading_for = Duration::from_hours(72);
        assert!(cluster.reconcile());
        assert!(cluster.catalog.node("web").is_none());
    }

    #[test]
    fn nodes_without_serf_health_and_other_clusters_are_not_touched() {
        let mut cluster = cluster();
        let node = NodeRegistration {
            node: "printer".to_owned(),
            address: "10.0.0.9".to_owned(),
            ..NodeRegistration::default()
        };
        cluster.register(Registration { node, ..Registration::default() });
        assert!(!cluster.reconcile());

        let id = "6a1c2f0e-3b52-4a41-9d0c-8a7be0f6f5a1";
        let born = Command::ClusterBorn { cluster_id: id.parse::<ClusterId>().unwrap() };
        cluster.catalog.apply(cluster.catalog.index() + 1, &born).result.unwrap();
        let mut stranger = member("stranger", "node", MemberStatus::Alive);
        stranger.tags.insert("cluster".to_owned(), "another".to_owned());
        let mut remote = member("remote", "node", MemberStatus::Alive);
        remote.tags.insert("dc".to_owned(), "dc2".to_owned());
        cluster.members.extend([stranger, remote]);
        assert!(!cluster.reconcile());
        cluster.members[1].tags.insert("cluster".to_owned(), id.to_owned());
        cluster.set("web", MemberStatus::Failed);
        assert!(cluster.reconcile());
    }

    #[test]
    fn what_the_agent_says_of_its_node_stays() {
        let mut cluster = cluster();
        let mut node = super::present(cluster.catalog.node("web").unwrap());
        node.address = "192.168.1.1".to_owned();
        node.meta = Some(BTreeMap::from([("rack".to_owned(), "7".to_owned())]));
        cluster.register(Registration { node, ..Registration::default() });
        cluster.set("web", MemberStatus::Failed);
        cluster.reconcile();
        cluster.set("web", MemberStatus::Alive);
        cluster.reconcile();
        let node = &cluster.catalog.node("web").unwrap().node;
        assert_eq!(
            (node.address.as_str(), node.meta.as_ref().unwrap()["rack"].as_str()),
            ("192.168.1.1", "7")
        );
    }

    #[test]
    fn an_agent_that_lost_its_disk_takes_its_name_again() {
        let mut cluster = cluster();
        let web = Service { id: "web".to_owned(), name: "web".to_owned(), ..Service::default() };
        let node = super::present(cluster.catalog.node("web").unwrap());
        cluster.register(Registration { node, service: Some(web), ..Registration::default() });
        cluster.members[1].tags.insert("id".to_owned(), "id-new".to_owned());
        assert!(cluster.reconcile());
        let row = cluster.catalog.node("web").unwrap();
        assert_eq!((row.node.id.as_str(), row.services.len()), ("id-new", 0));
        assert_eq!(cluster.health("web"), ALIVE);
    }

    #[test]
    fn a_server_that_became_a_client_is_no_consul_instance() {
        let mut cluster = cluster();
        cluster.members[0].tags.insert("role".to_owned(), "node".to_owned());
        cluster.reconcile();
        assert!(cluster.catalog.service("consul").is_none());
    }

    #[test]
    fn damaged_rows_are_put_right() {
        let mut cluster = cluster();
        let node = super::present(cluster.catalog.node("leader").unwrap());
        let consul =
            Service { id: "consul".to_owned(), name: "consul".to_owned(), port: 1, ..Service::default() };
        let check = Check { check_id: SERF_HEALTH.to_owned(), ..Check::default() };
        cluster.register(Registration {
            node,
            service: Some(consul),
            checks: vec![check],
            skip_node_update: true,
        });
        assert!(cluster.reconcile());
        assert_eq!(cluster.catalog.node("leader").unwrap().services["consul"].port, 8300);
        assert_eq!(cluster.health("leader"), ALIVE);
    }

    #[test]
    fn dead_nodes_are_failed_members_by_key() {
        let members =
            [member("Web", "node", MemberStatus::Failed), member("me", "node", MemberStatus::Failed)];
        let dead: Vec<_> = dead_nodes(&members, "me").into_iter().collect();
        assert_eq!(dead, [key_of("web")]);
    }
}
