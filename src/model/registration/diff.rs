//! What must change at the agent so that it knows exactly what Docker runs.
//!
//! The result is a list of independent commands: each may fail and be computed again, none needs another to have
//! worked, and when the agent knows everything the list is empty.

use std::collections::{BTreeMap, BTreeSet};

use super::checks::{CheckStatus, health_check_id, user_check_id};
use super::service::{META_CONTAINER, META_OWNER, Service, Wanted};

/// What people read at the check that hides a paused container; it also tells our pause from an operator's
/// maintenance, which stays.
pub const PAUSED_REASON: &str = "the container is paused";
/// Id of the agent's check while a service is in maintenance (Consul's).
const MAINTENANCE_CHECK_PREFIX: &str = "_service_maintenance:";

/// A service as the agent knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegisteredService {
    /// Name.
    pub name: String,
    /// Tags, in order.
    pub tags: Vec<String>,
    /// Address.
    pub address: String,
    /// Port.
    pub port: u16,
    /// Metadata; always empty at agents older than Consul 1.0.
    pub meta: BTreeMap<String, String>,
}

/// A check as the agent knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegisteredCheck {
    /// `passing`, `warning` or `critical`.
    pub status: String,
    /// Remark of whoever made it.
    pub notes: String,
}

/// Everything registered at one agent, by id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registered {
    /// Services.
    pub services: BTreeMap<String, RegisteredService>,
    /// Checks.
    pub checks: BTreeMap<String, RegisteredCheck>,
}

/// Which registered services are ours to remove.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ownership {
    /// The owner that marks our services.
    pub owner: String,
    /// First part of the ids that the original would have given on this machine.
    pub hostname: String,
    /// `-cleanup`: also remove what the original left behind; it marked nothing, so the form of the id decides.
    pub cleanup: bool,
    /// Containers that exist but offer nothing now, by short id: their services stay as they are.
    pub kept_containers: BTreeSet<String>,
    /// Names of the containers that run: their services are never taken for left behind.
    pub running_names: BTreeSet<String>,
}

/// One change at the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Register, or replace what has the same id.
    Register(Box<Wanted>),
    /// Remove.
    Deregister {
        /// Service id.
        id: String,
        /// Short id of the container it was for; `None` if it was left behind by the original.
        container: Option<String>,
    },
    /// Tell what the HEALTHCHECK says.
    UpdateCheck {
        /// Check id.
        id: String,
        /// Its status.
        status: CheckStatus,
        /// What the probe printed.
        output: String,
    },
    /// Remove a check that a former registration of ours had and this one does not. Never done by replacing all
    /// checks, which would end an operator's maintenance and remove checks that others have added.
    RemoveCheck {
        /// Check id.
        id: String,
    },
    /// Hide a paused container.
    Pause {
        /// Service id.
        id: String,
    },
    /// Show it again.
    Resume {
        /// Service id.
        id: String,
    },
}

/// The commands that turn `registered` into `wanted`.
///
/// `sent` is what this process has registered before, by id: checks cannot be read back, so a service that was
/// never sent is sent once even if it looks right. With `refresh` the state of every HEALTHCHECK is repeated, so
/// that the agent goes on believing it.
pub fn diff(
    wanted: &BTreeMap<String, Wanted>,
    registered: &Registered,
    sent: &BTreeMap<String, Service>,
    ownership: &Ownership,
    refresh: bool,
) -> Vec<Command> {
    let mut commands = Vec::new();
    for (id, service) in &registered.services {
        if !wanted.contains_key(id)
            && let Some(command) = removal(id, service, sent.get(id), ownership)
        {
            commands.push(command);
        }
    }
    for (id, wanted) in wanted {
        let held = registered.services.get(id);
        if held.is_some_and(|held| sent.contains_key(id) && is_of_another(held, ownership)) {
            continue;
        }
        let is_right = held.is_some_and(|held| {
            let has_health_check = registered.checks.contains_key(&health_check_id(id));
            sent.get(id) == Some(&wanted.service)
                && looks_right(held, wanted)
                && (has_health_check || wanted.health.is_none())
        });
        if !is_right {
            commands.push(Command::Register(Box::new(wanted.clone())));
        }
        state_commands(id, wanted, held.is_some(), registered, refresh, &mut commands);
    }
    commands
}

/// Ids that we registered and that another registrator, still alive, has taken since. Fighting for them would
/// never end, so they are left to it.
pub fn taken<'a>(
    registered: &'a Registered,
    sent: &'a BTreeMap<String, Service>,
    ownership: &'a Ownership,
) -> impl Iterator<Item = &'a str> {
    registered
        .services
        .iter()
        .filter(|(id, held)| sent.contains_key(*id) && is_of_another(held, ownership))
        .map(|(id, _)| id.as_str())
}

fn is_of_another(held: &RegisteredService, ownership: &Ownership) -> bool {
    held.meta.get(META_OWNER).is_some_and(|owner| *owner != ownership.owner)
}

fn removal(
    id: &str,
    held: &RegisteredService,
    sent: Option<&Service>,
    ownership: &Ownership,
) -> Option<Command> {
    // An agent older than metadata cannot show the mark; what this process has sent is ours all the same.
    let ours = match held.meta.get(META_OWNER) {
        Some(owner) => (*owner == ownership.owner).then_some(&held.meta),
        None => sent.map(|sent| &sent.meta),
    };
    if let Some(meta) = ours {
        let container = meta.get(META_CONTAINER).cloned().unwrap_or_default();
        let is_kept = ownership.kept_containers.contains(&container);
        return (!is_kept).then(|| Command::Deregister { id: id.to_owned(), container: Some(container) });
    }
    let is_unmarked = !held.meta.contains_key(META_OWNER);
    let name = container_name_of(id, &ownership.hostname).filter(|_| is_unmarked && ownership.cleanup)?;
    let is_left_behind = !ownership.running_names.contains(name);
    is_left_behind.then(|| Command::Deregister { id: id.to_owned(), container: None })
}

/// The container's name in an id that the original made on this machine: `hostname:name:port[:udp]`.
fn container_name_of<'a>(id: &'a str, hostname: &str) -> Option<&'a str> {
    let rest = id.strip_prefix(hostname)?.strip_prefix(':')?;
    let rest = rest.strip_suffix(":udp").unwrap_or(rest);
    let (name, port) = rest.rsplit_once(':')?;
    let is_name = name.len() > 1
        && name.as_bytes()[0].is_ascii_alphanumeric()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    (is_name && is_port).then_some(name)
}

fn looks_right(held: &RegisteredService, wanted: &Wanted) -> bool {
    let service = &wanted.service;
    // An agent older than metadata cannot show any.
    let is_meta_right = held.meta == service.meta || held.meta.is_empty();
    is_meta_right
        && held.name == service.name
        && held.tags == service.tags
        && held.address == service.address
        && held.port == service.port
}

fn state_commands(
    id: &str,
    wanted: &Wanted,
    was_registered: bool,
    registered: &Registered,
    refresh: bool,
    commands: &mut Vec<Command>,
) {
    let health_check_id = health_check_id(id);
    let mut remove_unless = |is_wanted: bool, check_id: String| {
        if !is_wanted && registered.checks.contains_key(&check_id) {
            commands.push(Command::RemoveCheck { id: check_id });
        }
    };
    remove_unless(wanted.health.is_some(), health_check_id.clone());
    remove_unless(wanted.service.check.is_some(), user_check_id(id));
    if let Some((status, output)) = wanted.health_report() {
        let held = was_registered.then(|| registered.checks.get(&health_check_id)).flatten();
        // A check that is not there yet comes with its status in the registration.
        if held.is_some_and(|held| refresh || held.status != status.as_str()) {
            commands.push(Command::UpdateCheck { id: health_check_id, status, output });
        }
    }
    let maintenance = registered.checks.get(&format!("{MAINTENANCE_CHECK_PREFIX}{id}"));
    match maintenance.filter(|_| was_registered) {
        None if wanted.paused => commands.push(Command::Pause { id: id.to_owned() }),
        Some(check) if !wanted.paused && check.notes == PAUSED_REASON => {
            commands.push(Command::Resume { id: id.to_owned() });
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Command, Ownership, PAUSED_REASON, Registered, RegisteredCheck, RegisteredService, diff};
    use crate::model::registration::facts::{Health, HealthStatus};
    use crate::model::registration::{Binding, Facts, Rules, Service, State, Wanted, naming};

    fn container(name: &str, state: State, health: Option<HealthStatus>) -> Facts {
        let health = health.map(|status| Health { status, output: String::new() });
        let binding = Binding { address: String::new(), port: 8000 };
        let published = [("80/tcp".parse().unwrap(), vec![binding])].into();
        let (id, name, image) = (format!("id-of-{name}"), name.to_owned(), "web:1".to_owned());
        Facts { id, name, image, state, health, published, ..Facts::default() }
    }

    fn wanted(containers: &[Facts]) -> BTreeMap<String, Wanted> {
        let rules = Rules {
            hostname: "vm".to_owned(),
            owner: "me".to_owned(),
            machine_address: Some("10.0.0.1".to_owned()),
            ..Rules::default()
        };
        naming::wanted(containers, &rules).0
    }

    fn mine() -> Ownership {
        Ownership { owner: "me".to_owned(), hostname: "vm".to_owned(), ..Ownership::default() }
    }

    fn service(owner: Option<&str>) -> RegisteredService {
        let meta = owner.map(|owner| (super::META_OWNER.to_owned(), owner.to_owned())).into_iter().collect();
        RegisteredService { meta, ..RegisteredService::default() }
    }

    /// An agent that does what it is told.
    #[derive(Default)]
    struct Agent {
        registered: Registered,
        sent: BTreeMap<String, Service>,
    }

    impl Agent {
        fn apply(&mut self, command: &Command) {
            match command {
                Command::Register(wanted) => {
                    let Service { id, name, tags, port, address, meta, .. } = wanted.service.clone();
                    let registered = RegisteredService { name, tags, address, port, meta };
                    self.registered.services.insert(id.clone(), registered);
                    if let Some((status, _)) = wanted.health_report() {
                        self.registered
                            .checks
                            .entry(super::health_check_id(&id))
                            .or_insert(check(status.as_str(), ""));
                    }
                    self.sent.insert(id, wanted.service.clone());
                }
                Command::Deregister { id, .. } => {
                    self.registered.services.remove(id);
                    self.registered.checks.retain(|check, _| !check.ends_with(id.as_str()));
                    self.sent.remove(id);
                }
                Command::UpdateCheck { id, status, .. } => {
                    self.registered.checks.insert(id.clone(), check(status.as_str(), ""));
                }
                Command::RemoveCheck { id } => {
                    self.registered.checks.remove(id);
                }
                Command::Pause { id } => {
                    let held = check("critical", PAUSED_REASON);
                    self.registered.checks.insert(format!("_service_maintenance:{id}"), held);
                }
                Command::Resume { id } => {
                    self.registered.checks.remove(&format!("_service_maintenance:{id}"));
                }
            }
        }

        fn diff(&self, wanted: &BTreeMap<String, Wanted>) -> Vec<Command> {
            diff(wanted, &self.registered, &self.sent, &mine(), false)
        }

        fn converge(&mut self, wanted: &BTreeMap<String, Wanted>) {
            for command in self.diff(wanted) {
                self.apply(&command);
            }
            assert_eq!(self.diff(wanted), [], "one round is enough");
        }
    }

    fn check(status: &str, notes: &str) -> RegisteredCheck {
        RegisteredCheck { status: status.to_owned(), notes: notes.to_owned() }
    }

    #[test]
    fn a_service_is_sent_once_even_if_it_looks_right_because_checks_cannot_be_read_back() {
        let wanted = wanted(&[container("web", State::Running, None)]);
        let mut agent = Agent::default();
        agent.converge(&wanted);
        agent.sent.clear();
        assert!(matches!(&agent.diff(&wanted)[..], [Command::Register(_)]));
    }

    #[test]
    fn services_of_others_stay_and_ours_go_whatever_their_ids_are() {
        let mut agent = Agent::default();
        for (id, owner) in
            [("by-hand", None), ("vm:left:80", None), ("theirs", Some("you")), ("mine", Some("me"))]
        {
            agent.registered.services.insert(id.to_owned(), service(owner));
        }
        agent.converge(&BTreeMap::new());
        assert_eq!(agent.registered.services.keys().collect::<Vec<_>>(), ["by-hand", "theirs", "vm:left:80"]);
    }

    #[test]
    fn with_cleanup_what_the_original_left_on_this_machine_goes_unless_its_container_runs() {
        let mut registered = Registered::default();
        for id in
            ["vm:left:80", "vm:dns:53:udp", "vm:runs:80", "other:left:80", "vm:x:80", "my-id", "vm:a b:80"]
        {
            registered.services.insert(id.to_owned(), service(None));
        }
        let ownership = Ownership { cleanup: true, running_names: ["runs".to_owned()].into(), ..mine() };
        let removed: Vec<Command> = diff(&BTreeMap::new(), &registered, &BTreeMap::new(), &ownership, false);
        let left_behind = |id: &str| Command::Deregister { id: id.to_owned(), container: None };
        assert_eq!(removed, [left_behind("vm:dns:53:udp"), left_behind("vm:left:80")]);
    }

    #[test]
    fn a_container_that_failed_keeps_its_services_when_asked_to() {
        let mut agent = Agent::default();
        agent.converge(&wanted(&[container("web", State::Running, None)]));
        let kept = Ownership { kept_containers: ["id-of-web".to_owned()].into(), ..mine() };
        assert_eq!(diff(&BTreeMap::new(), &agent.registered, &agent.sent, &kept, false), []);
    }

    #[test]
    fn an_agent_without_metadata_is_not_told_the_same_again_and_again() {
        let mut agent = Agent::default();
        let web = wanted(&[container("web", State::Running, None)]);
        agent.converge(&web);
        agent.registered.services.get_mut("vm:web:80").unwrap().meta.clear();
        assert_eq!(agent.diff(&web), []);
        agent.converge(&BTreeMap::new());
        assert!(agent.registered.services.is_empty());
    }

    #[test]
    fn what_another_registrator_has_taken_is_left_to_it() {
        let mut agent = Agent::default();
        let web = wanted(&[container("web", State::Running, None)]);
        agent.converge(&web);
        agent.registered.services.insert("vm:web:80".to_owned(), service(Some("you")));
        assert_eq!(agent.diff(&web), []);
        assert_eq!(super::taken(&agent.registered, &agent.sent, &mine()).collect::<Vec<_>>(), ["vm:web:80"]);
    }

    #[test]
    fn the_maintenance_of_an_operator_stays_and_the_health_is_repeated_on_refresh() {
        let mut agent = Agent::default();
        let web = wanted(&[container("web", State::Running, Some(HealthStatus::Healthy))]);
        agent.converge(&web);
        let maintenance = check("critical", "upgrading");
        agent.registered.checks.insert("_service_maintenance:vm:web:80".to_owned(), maintenance);
        assert_eq!(agent.diff(&web), []);
        let repeated = diff(&web, &agent.registered, &agent.sent, &mine(), true);
        assert!(matches!(&repeated[..], [Command::UpdateCheck { .. }]), "{repeated:?}");
    }

    #[test]
    fn a_check_that_is_no_longer_asked_for_goes_and_one_that_others_added_stays() {
        let mut agent = Agent::default();
        let web = wanted(&[container("web", State::Running, None)]);
        agent.converge(&web);
        for id in ["service:vm:web:80", "docker-health:vm:web:80", "added-by-hand"] {
            agent.registered.checks.insert(id.to_owned(), check("passing", ""));
        }
        agent.converge(&web);
        assert_eq!(agent.registered.checks.keys().collect::<Vec<_>>(), ["added-by-hand"]);
    }

    proptest::proptest! {
        /// From any state that stories of containers and a forgetful agent lead to, one round converges.
        #[test]
        fn every_story_converges(story in proptest::collection::vec((0_usize..3, 0_u8..6, 0_u8..8), 1..30)) {
            let names = ["a", "b", "c"];
            let mut containers: BTreeMap<usize, Facts> = BTreeMap::new();
            let mut agent = Agent::default();
            for (which, what, agents) in story {
                let (state, health) = match what {
                    0 => (State::Away, None),
                    1 => (State::Paused, None),
                    2 => (State::Running, Some(HealthStatus::Starting)),
                    3 => (State::Running, Some(HealthStatus::Healthy)),
                    4 => (State::Paused, Some(HealthStatus::Unhealthy)),
                    _ => (State::Running, None),
                };
                containers.insert(which, container(names[which], state, health));
                match agents {
                    0 => agent.registered = Registered::default(),
                    1 => agent.sent.clear(),
                    2 => agent.registered.checks.clear(),
                    _ => {}
                }
                let containers: Vec<Facts> = containers.values().cloned().collect();
                let wanted = wanted(&containers);
                agent.converge(&wanted);
                assert!(agent.registered.services.keys().eq(wanted.keys()));
            }
        }
    }
}
