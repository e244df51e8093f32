//! From one container to its services: which ports, what name, id, tags and address.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use super::checks::{Target, check_of};
use super::facts::{Binding, Facts, NetworkMode, Port, Protocol, State};
use super::metadata::{Metadata, names_a_service};
use super::service::{META_CONTAINER, META_OWNER, Service, Wanted};

/// Consul's limits for metadata: pairs, and bytes of a key and of a value.
const META_PAIRS_MAX: usize = 64;
const META_KEY_BYTES_MAX: usize = 128;
const META_VALUE_BYTES_MAX: usize = 512;
/// Consul's own prefix; a registration that uses it is refused.
const META_RESERVED_PREFIX: &str = "consul-";

/// What the user and the machine say about all containers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// First part of every id.
    pub hostname: String,
    /// Written into the metadata of every service: who may remove it again.
    pub owner: String,
    /// `-ip`: the address of every published port.
    pub forced_address: Option<String>,
    /// Where published ports are reached unless something better is known.
    pub machine_address: Option<String>,
    /// `-internal`: the container's own address and port.
    pub internal: bool,
    /// `-explicit`: only containers that name a service.
    pub explicit: bool,
    /// `-useIpFromLabel`: the label that holds the address.
    pub address_label: Option<String>,
    /// `-tags`: tags for every service.
    pub tags: Vec<String>,
    /// Where the original should be followed even though it surprises.
    pub compat: Compat,
}

/// Behaviour of the original that must be asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compat {
    /// Tags of each list in reverse order.
    pub tags_reversed: bool,
    /// In a user-defined network, the container's address together with the machine's port.
    pub network_address: bool,
}

/// The services of one container, and what should be said about it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    /// In the order of the ports.
    pub services: Vec<Wanted>,
    /// Why something is missing.
    pub remarks: Vec<Remark>,
}

/// Why a port is not registered, or not entirely as the user wrote it. The first words are the original's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remark {
    /// The container has no port at all.
    NoPorts,
    /// The port is exposed, but the machine does not offer it.
    NotPublished(Port),
    /// `SERVICE_IGNORE`.
    Asked(Port),
    /// `-explicit`, and no name is given.
    NotNamed,
    /// The only address is one that others cannot reach.
    Unreachable {
        /// The port.
        port: Port,
        /// The address; empty if there is none at all.
        address: String,
    },
    /// `-internal`, and the container is in no network.
    NoOwnAddress(Port),
    /// Another service has the same id.
    SameId {
        /// The port that is left out.
        port: Port,
        /// The id.
        id: String,
    },
    /// A key does not fit into the metadata; the service is registered without it.
    Meta {
        /// The key.
        key: String,
        /// Why not.
        reason: &'static str,
    },
    /// `SERVICE_IGNORE=false`: the original would ignore the port, we do not.
    NotIgnored(Port),
}

impl Remark {
    /// Whether something is not registered because of this.
    pub fn is_ignored(&self) -> bool {
        !matches!(self, Self::Meta { .. } | Self::NotIgnored(_))
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPorts => f.write_str("no published ports"),
            Self::NotPublished(port) => write!(f, "port {} not published on host", port.number),
            Self::Asked(port) => write!(f, "service on port {}", port.number),
            Self::NotNamed => f.write_str("no SERVICE_NAME, and -explicit was given"),
            Self::Unreachable { port, address } if address.is_empty() => {
                write!(f, "port {port} has no address; give this machine's with -ip")
            }
            Self::Unreachable { port, address } => write!(
                f,
                "port {port} is at {address}, which no other machine can reach; publish it elsewhere or give \
                 this machine's address with -ip"
            ),
            Self::NoOwnAddress(port) => write!(f, "port {port}: the container has no address of its own"),
            Self::SameId { port, id } => write!(f, "port {port}: another service has the id {id}"),
            Self::Meta { key, reason } => write!(f, "metadata `{key}` is left out: {reason}"),
            Self::NotIgnored(port) => {
                write!(
                    f,
                    "port {port} is registered: SERVICE_IGNORE says no (gliderlabs/registrator would not)"
                )
            }
        }
    }
}

/// The services of all containers by id, and the remarks with the containers' short ids. Of two services with the
/// same id, that of the container started last is taken; in one container, that of the first port.
pub fn wanted(containers: &[Facts], rules: &Rules) -> (BTreeMap<String, Wanted>, BTreeSet<(String, Remark)>) {
    let mut services: BTreeMap<String, (Port, Wanted)> = BTreeMap::new();
    let mut remarks = BTreeSet::new();
    for facts in containers {
        let (found, said) = read_with_ports(facts, rules);
        remarks.extend(said.into_iter().map(|remark| (facts.short_id().to_owned(), remark)));
        for (port, new) in found {
            let id = new.service.id.clone();
            let loser = match services.get(&id) {
                Some((_, held)) if !is_newer(&new, held) => Some((port, new)),
                _ => services.insert(id.clone(), (port, new)),
            };
            if let Some((port, loser)) = loser {
                remarks.insert((loser.container, Remark::SameId { port, id }));
            }
        }
    }
    (services.into_iter().map(|(id, (_, wanted))| (id, wanted)).collect(), remarks)
}

fn is_newer(new: &Wanted, held: &Wanted) -> bool {
    new.container != held.container && (&new.started_at, &new.container) > (&held.started_at, &held.container)
}

/// The services of one container. One that neither runs nor is paused has none.
pub fn read(facts: &Facts, rules: &Rules) -> Reading {
    let (services, remarks) = read_with_ports(facts, rules);
    Reading { services: services.into_iter().map(|(_, wanted)| wanted).collect(), remarks }
}

fn read_with_ports(facts: &Facts, rules: &Rules) -> (Vec<(Port, Wanted)>, Vec<Remark>) {
    let mut remarks = Vec::new();
    if !facts.state.offers_services() {
        return (Vec::new(), remarks);
    }
    if rules.explicit && !names_a_service(facts) {
        return (Vec::new(), vec![Remark::NotNamed]);
    }
    let all: BTreeSet<Port> = facts.exposed.iter().chain(facts.published.keys()).copied().collect();
    if all.is_empty() {
        return (Vec::new(), vec![Remark::NoPorts]);
    }
    let mut offered = Vec::new();
    for port in all {
        match publication(facts, port) {
            Publication::None if !rules.internal => remarks.push(Remark::NotPublished(port)),
            publication => offered.push((port, publication)),
        }
    }
    let is_group = offered.len() > 1;
    let mut services = Vec::new();
    for (port, publication) in offered {
        match service(facts, rules, port, &publication, is_group, &mut remarks) {
            Ok(wanted) => services.push((port, wanted)),
            Err(remark) => remarks.push(remark),
        }
    }
    (services, remarks)
}

/// How a port can be reached from outside the container.
enum Publication<'a> {
    /// Through the machine.
    At(&'a Binding),
    /// At an address that the container has for itself or shares, with its own port.
    Direct,
    /// Not without `-internal`.
    None,
}

fn publication(facts: &Facts, port: Port) -> Publication<'_> {
    match facts.published.get(&port) {
        // Only the first binding counts, as in the original.
        Some(bindings) => bindings.first().map_or(Publication::None, Publication::At),
        None => match facts.network {
            NetworkMode::Host | NetworkMode::Container(_) | NetworkMode::Named(_) => Publication::Direct,
            NetworkMode::Bridge | NetworkMode::None => Publication::None,
        },
    }
}

fn service(
    facts: &Facts,
    rules: &Rules,
    port: Port,
    publication: &Publication<'_>,
    is_group: bool,
    remarks: &mut Vec<Remark>,
) -> Result<Wanted, Remark> {
    let metadata = Metadata::of(facts, port);
    if let Some(value) = metadata.get("ignore") {
        if !is_no(value) {
            return Err(Remark::Asked(port));
        }
        remarks.push(Remark::NotIgnored(port));
    }
    let number = match publication {
        Publication::At(binding) if !rules.internal => binding.port,
        _ => port.number,
    };
    let address = address(facts, rules, publication);
    if address.is_empty() && rules.internal {
        return Err(Remark::NoOwnAddress(port));
    }
    if !is_reachable(&address, rules) {
        return Err(Remark::Unreachable { port, address });
    }
    let check = check_of(
        &metadata,
        Target { address: &address, port: number, exposed: port, container: facts.short_id() },
    );
    let service = Service {
        id: metadata.get("id").map_or_else(|| id(facts, rules, port), str::to_owned),
        name: name(facts, &metadata, port, is_group),
        tags: tags(&metadata, rules, port),
        port: number,
        address,
        meta: meta(facts, rules, &metadata, remarks),
        check,
        has_health: facts.health.is_some(),
    };
    Ok(Wanted {
        service,
        health: facts.health.clone(),
        paused: facts.state == State::Paused,
        container: facts.short_id().to_owned(),
        started_at: facts.started_at.clone(),
    })
}

/// The original takes any value as yes; a person who writes `false` does not mean it.
fn is_no(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "false" | "0" | "no" | "off" | "f" | "n")
}

fn id(facts: &Facts, rules: &Rules, port: Port) -> String {
    let id = format!("{}:{}:{}", rules.hostname, facts.name, port.number);
    match port.protocol {
        Protocol::Tcp => id,
        Protocol::Udp | Protocol::Sctp => format!("{id}:{}", port.protocol.as_str()),
    }
}

fn name(facts: &Facts, metadata: &Metadata, port: Port, is_group: bool) -> String {
    let given = metadata.get("name");
    let name = given.unwrap_or_else(|| image_name(&facts.image));
    let is_for_this_port = given.is_some() && metadata.is_port_specific("name");
    if is_group && !is_for_this_port { format!("{name}-{}", port.number) } else { name.to_owned() }
}

/// The image without registry, path and tag.
fn image_name(image: &str) -> &str {
    let base = image.rsplit('/').next().unwrap_or(image);
    base.split(':').next().unwrap_or(base)
}

fn tags(metadata: &Metadata, rules: &Rules, port: Port) -> Vec<String> {
    let mut own = split_tags(metadata.get("tags").unwrap_or_default());
    let mut common = rules.tags.clone();
    if rules.compat.tags_reversed {
        own.reverse();
        common.reverse();
    }
    own.extend(common);
    if port.protocol == Protocol::Udp {
        own.push("udp".to_owned());
    }
    own
}

/// Splits a list at its commas; `\,` is a comma in a tag, empty tags are left out.
pub fn split_tags(list: &str) -> Vec<String> {
    let mut tags = vec![String::new()];
    let mut characters = list.chars().peekable();
    while let Some(character) = characters.next() {
        let tag = tags.last_mut().expect("there is always a tag being read");
        match character {
            '\\' if characters.peek() == Some(&',') => tag.extend(characters.next()),
            ',' => tags.push(String::new()),
            other => tag.push(other),
        }
    }
    tags.retain(|tag| !tag.is_empty());
    tags
}

fn address(facts: &Facts, rules: &Rules, publication: &Publication<'_>) -> String {
    let machine = || rules.forced_address.clone().or_else(|| rules.machine_address.clone());
    let own = || container_address(facts).map(str::to_owned);
    if let NetworkMode::Container(Some(address)) = &facts.network {
        return address.clone();
    }
    if let Some(address) = labelled_address(facts, rules) {
        return address;
    }
    let address = if rules.internal {
        if facts.network == NetworkMode::Host { machine() } else { own() }
    } else if let Some(forced) = &rules.forced_address {
        Some(forced.clone())
    } else {
        match publication {
            Publication::At(_) if rules.compat.network_address && is_named(facts) => own(),
            Publication::At(binding) if !is_unspecified(&binding.address) => Some(binding.address.clone()),
            Publication::Direct if is_named(facts) => own(),
            _ => machine(),
        }
    };
    address.unwrap_or_default()
}

fn is_named(facts: &Facts) -> bool {
    matches!(facts.network, NetworkMode::Named(_))
}

/// The address in the label of `-useIpFromLabel`; a prefix length is cut off.
fn labelled_address(facts: &Facts, rules: &Rules) -> Option<String> {
    let value = facts.labels.get(rules.address_label.as_ref()?)?;
    Some(value.rsplit_once('/').map_or(value.as_str(), |(address, _)| address).to_owned())
}

/// The container's address in the network it was started in, else in the first by name.
fn container_address(facts: &Facts) -> Option<&str> {
    let main = match &facts.network {
        NetworkMode::Named(name) => name,
        _ => "bridge",
    };
    facts.addresses.get(main).or_else(|| facts.addresses.values().next()).map(String::as_str)
}

fn is_unspecified(address: &str) -> bool {
    address.is_empty() || address.parse().is_ok_and(|address: IpAddr| address.is_unspecified())
}

/// Whether an address makes sense in a catalog. A loopback address does only if the user forced it, as for a
/// cluster that lives on one machine.
fn is_reachable(address: &str, rules: &Rules) -> bool {
    let is_forced = rules.forced_address.as_deref() == Some(address);
    let is_loopback = address.parse().is_ok_and(|address: IpAddr| address.to_canonical().is_loopback());
    !is_unspecified(address) && (is_forced || !is_loopback)
}

fn meta(
    facts: &Facts,
    rules: &Rules,
    metadata: &Metadata,
    remarks: &mut Vec<Remark>,
) -> BTreeMap<String, String> {
    let mut meta = BTreeMap::from([
        (META_OWNER.to_owned(), rules.owner.clone()),
        (META_CONTAINER.to_owned(), facts.short_id().to_owned()),
    ]);
    for (key, value) in metadata.iter() {
        let is_ours = matches!(key, "id" | "name" | "tags" | "ignore" | META_OWNER | META_CONTAINER);
        if is_ours || key.starts_with("check_") {
            continue;
        }
        let refused = if key.len() > META_KEY_BYTES_MAX {
            Some("a key has at most 128 characters")
        } else if !key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) {
            Some("a key has only letters, digits, `-` and `_`")
        } else if key.starts_with(META_RESERVED_PREFIX) {
            Some("`consul-` is reserved")
        } else if value.len() > META_VALUE_BYTES_MAX {
            Some("a value has at most 512 characters")
        } else if meta.len() >= META_PAIRS_MAX {
            Some("a service has at most 64 pairs")
        } else {
            None
        };
        if let Some(reason) = refused {
            let remark = Remark::Meta { key: key.to_owned(), reason };
            if !remarks.contains(&remark) {
                remarks.push(remark);
            }
            continue;
        }
        meta.insert(key.to_owned(), value.to_owned());
    }
    meta
}

#[cfg(test)]
mod tests {
    use super::{Rules, image_name, read, split_tags, wanted};
    use crate::model::registration::{Binding, Facts};

    #[test]
    fn an_image_is_named_by_its_last_element_without_tag() {
        for (image, name) in [
            ("a/b/redis:3", "redis"),
            ("localhost:5000/a/b", "b"),
            ("nginx", "nginx"),
            ("repo/x@sha256:abcd", "x@sha256"),
            ("sha256:abcd", "sha256"),
        ] {
            assert_eq!(image_name(image), name, "{image}");
        }
    }

    #[test]
    fn a_tag_may_hold_an_escaped_comma() {
        assert_eq!(split_tags(r"a,b\,c,,d\e,"), ["a", "b,c", r"d\e"]);
        assert!(split_tags("").is_empty());
    }

    fn container(id: &str, started_at: &str, service_id: &str) -> Facts {
        Facts {
            id: id.to_owned(),
            name: id.to_owned(),
            image: "web".to_owned(),
            started_at: started_at.to_owned(),
            environment: vec![format!("SERVICE_ID={service_id}")],
            published: [("80/tcp", 8000), ("81/tcp", 8001)]
                .into_iter()
                .map(|(port, number)| {
                    (port.parse().unwrap(), vec![Binding { address: String::new(), port: number }])
                })
                .collect(),
            ..Facts::default()
        }
    }

    #[test]
    fn of_two_services_with_one_id_the_container_started_last_wins_and_then_the_first_port() {
        let rules = Rules { machine_address: Some("10.0.0.1".to_owned()), ..Rules::default() };
        let containers = [container("new", "2026-01-02", "same"), container("old", "2026-01-01", "same")];
        let (services, remarks) = wanted(&containers, &rules);
        assert_eq!(services.len(), 1);
        assert_eq!((&*services["same"].container, services["same"].service.port), ("new", 8000));
        let remarks: Vec<String> = remarks.iter().map(|(id, remark)| format!("{id}: {remark}")).collect();
        assert_eq!(
            remarks,
            [
                "new: port 81/tcp: another service has the id same",
                "old: port 80/tcp: another service has the id same",
                "old: port 81/tcp: another service has the id same",
            ]
        );
    }

    proptest::proptest! {
        /// Whatever a container looks like: what is registered can be reached, has a port of its own, and the
        /// answer does not depend on anything but the facts.
        #[test]
        fn nothing_unreachable_is_ever_registered(
            binding in "(|0\\.0\\.0\\.0|::|127\\.0\\.0\\.1|10\\.0\\.0\\.9|::1|::ffff:127\\.0\\.0\\.1)",
            machine in proptest::option::of("(127\\.0\\.1\\.1|10\\.0\\.0\\.1|0\\.0\\.0\\.0|)"),
            internal: bool,
        ) {
            let mut facts = container("c", "1", "");
            for bindings in facts.published.values_mut() {
                bindings[0].address.clone_from(&binding);
            }
            let rules = Rules { machine_address: machine, internal, ..Rules::default() };
            let reading = read(&facts, &rules);
            assert_eq!(&reading, &read(&facts, &rules));
            assert_eq!(reading.services.len() + reading.remarks.len(), 2);
            for wanted in reading.services {
                assert!(wanted.service.address.starts_with("10."), "{wanted:?}");
            }
        }
    }
}
