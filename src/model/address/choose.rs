//! The choice itself.

use std::fmt;
use std::net::IpAddr;

use super::variables::{Kind, meaning};
use super::{AddressSource, Facts, InterfaceAddress, Objection, is_container_interface, objection, template};

/// What became of a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is the address.
    Chosen,
    /// Others could use it; it was not wanted.
    PassedOver,
    /// Others could not use it.
    Refused(Objection),
}

/// One address that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Considered {
    /// The address, or the text in the place of one.
    pub address: String,
    /// The interface, or the variable and its file.
    pub origin: String,
    /// What became of it.
    pub verdict: Verdict,
}

impl fmt::Display for Considered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = if self.address.is_empty() { "(empty)" } else { &self.address };
        write!(f, "{address} ({}): ", self.origin)?;
        match &self.verdict {
            Verdict::Chosen => f.write_str("chosen"),
            Verdict::PassedOver => f.write_str("usable, not wanted"),
            Verdict::Refused(objection) => objection.fmt(f),
        }
    }
}

/// The address, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The address.
    pub address: IpAddr,
    /// Where it was found, for a person: `COREOS_PRIVATE_IPV4 in /etc/environment`.
    pub reason: String,
    /// What an operator should look at all the same.
    pub warning: Option<String>,
    /// Everything that was looked at.
    pub considered: Vec<Considered>,
}

/// No address can be told to others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What was wanted and not found.
    pub reason: String,
    /// What to do.
    pub advice: String,
    /// Everything that was looked at.
    pub considered: Vec<Considered>,
}

impl std::error::Error for Refusal {}

/// The reason, and each candidate with what speaks against it on a line of its own.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        if self.considered.is_empty() {
            f.write_str("; this machine has no address at all")?;
        }
        self.considered.iter().try_for_each(|candidate| write!(f, "\n    {candidate}"))
    }
}

/// Chooses the address that a machine with these facts tells the others.
///
/// # Errors
/// When no address is usable, or none is more right than another.
pub fn choose(source: &AddressSource, facts: &Facts) -> Result<Choice, Refusal> {
    let mut search = Search { facts, considered: Vec::new() };
    let found = match source {
        AddressSource::Private => search.written(Kind::Private, false),
        AddressSource::Public => search.written(Kind::Public, false),
        AddressSource::Auto => search.automatic(),
        AddressSource::Interface(name) => search.interface(name),
        AddressSource::Template(text) => search.template(text),
    };
    search.rest();
    match found {
        Ok(Found { address, reason, warning }) => {
            Ok(Choice { address, reason, warning, considered: search.considered })
        }
        Err(Missing { reason, advice }) => Err(Refusal { reason, advice, considered: search.considered }),
    }
}

/// The one private IPv4 address of this machine, as Consul chooses when nothing is said. Of several, where Consul gives up,
/// the one of the default route: a machine in two networks has no other way to be reached from elsewhere.
///
/// # Errors
/// With Consul's texts.
pub fn choose_private(facts: &Facts) -> Result<Choice, Refusal> {
    let wanted = |address: &IpAddr| matches!(address, IpAddr::V4(v4) if v4.is_private());
    only(
        facts,
        wanted,
        "the only private IPv4 address",
        "No private IPv4 address found",
        "Multiple private IPv4 addresses found. Please configure one with 'bind' and/or 'advertise'.",
        facts.default_v4,
    )
}

/// The one public IPv6 address of this machine: what Consul advertises when it listens on `::`.
///
/// # Errors
/// With Consul's texts.
pub fn choose_public_v6(facts: &Facts) -> Result<Choice, Refusal> {
    let wanted = |address: &IpAddr| matches!(address, IpAddr::V6(v6) if !v6.is_unique_local());
    only(
        facts,
        wanted,
        "the only public IPv6 address",
        "No public IPv6 address found",
        "Multiple public IPv6 addresses found. Please configure one with 'bind' and/or 'advertise'.",
        facts.default_v6,
    )
}

fn only(
    facts: &Facts,
    wanted: impl Fn(&IpAddr) -> bool,
    reason: &str,
    none: &str,
    several: &str,
    default: Option<IpAddr>,
) -> Result<Choice, Refusal> {
    let mut usable: Vec<IpAddr> = facts.addresses.iter().map(|entry| entry.address).collect();
    usable.retain(|address| wanted(address) && objection(*address, facts).is_none());
    usable.sort_unstable();
    usable.dedup();
    let mut search = Search { facts, considered: Vec::new() };
    let advice = "give the address at which the other machines reach this one with -advertise".to_owned();
    let found = match (usable.as_slice(), default.filter(|address| usable.contains(address))) {
        ([address], _) => Ok((*address, reason.to_owned(), None)),
        ([], _) => Err(none),
        (_, Some(address)) => {
            let list = usable.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let warning = format!(
                "of the addresses {list} the one of the default route is advertised: {address}; -advertise chooses another"
            );
            Ok((address, "of several the one of the default route".to_owned(), Some(warning)))
        }
        _ => Err(several),
    };
    if let Ok((address, ..)) = &found {
        search.settle(*address);
    }
    search.rest();
    match found {
        Ok((address, reason, warning)) => {
            Ok(Choice { address, reason, warning, considered: search.considered })
        }
        Err(reason) => Err(Refusal { reason: reason.to_owned(), advice, considered: search.considered }),
    }
}

struct Found {
    address: IpAddr,
    reason: String,
    warning: Option<String>,
}

struct Missing {
    reason: String,
    advice: String,
}

impl Missing {
    fn new(reason: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { reason: reason.into(), advice: advice.into() }
    }
}

struct Search<'a> {
    facts: &'a Facts,
    considered: Vec<Considered>,
}

impl Search<'_> {
    fn note(&mut self, address: impl ToString, origin: impl Into<String>, verdict: Verdict) {
        self.considered.push(Considered { address: address.to_string(), origin: origin.into(), verdict });
    }

    fn origin_of(&self, address: IpAddr) -> String {
        self.facts
            .interface_of(address)
            .map_or_else(|| "no interface".to_owned(), |entry| entry.interface.clone())
    }

    fn settle(&mut self, address: IpAddr) {
        self.note(address, self.origin_of(address), Verdict::Chosen);
    }

    /// The address of an interface, unless something speaks against it.
    fn usable(&mut self, address: IpAddr, reason: String) -> Option<Found> {
        if let Some(objection) = objection(address, self.facts) {
            self.note(address, self.origin_of(address), Verdict::Refused(objection));
            return None;
        }
        self.settle(address);
        Some(Found { address, reason, warning: None })
    }

    /// What a file says. With `here`, only an address that an interface has.
    fn written(&mut self, kind: Kind, here: bool) -> Result<Found, Missing> {
        let mut said: Vec<(usize, usize, String, &str)> = Vec::new();
        for (position, (path, variables)) in self.facts.files.iter().enumerate() {
            for variable in variables.iter().flatten() {
                if let Some((_, rank)) = meaning(&variable.name).filter(|(of, _)| *of == kind) {
                    said.push((position, rank, format!("{} in {path}", variable.name), &variable.value));
                }
            }
        }
        said.sort();
        let mut found = None;
        for (_, _, origin, value) in said {
            let parsed = value.parse::<IpAddr>().ok();
            let is_here = parsed.is_some_and(|address| self.facts.interface_of(address).is_some());
            let objection = match parsed {
                None => Some(Objection::NoAddress),
                Some(_) if here && !is_here => Some(Objection::Elsewhere),
                Some(address) => objection(address, self.facts),
            };
            let verdict = match (objection, parsed) {
                (Some(objection), _) => Verdict::Refused(objection),
                (None, Some(address)) if found.is_none() => {
                    // A public address is often the router's; a private one is the machine's own.
                    let warning = (kind == Kind::Private && !is_here).then(|| {
                        format!("{origin} says {address}, but no interface of this machine has that address")
                    });
                    found = Some(Found { address, reason: origin.clone(), warning });
                    Verdict::Chosen
                }
                _ => Verdict::PassedOver,
            };
            self.note(value, origin, verdict);
        }
        found.ok_or_else(|| {
            let (word, other) = match kind {
                Kind::Private => ("private", "`auto`"),
                Kind::Public => ("public", "`{{ GetPublicIP }}`"),
            };
            let name = if kind == Kind::Private { "COREOS_PRIVATE_IPV4" } else { "COREOS_PUBLIC_IPV4" };
            let files = self.facts.files.iter().map(|(path, variables)| match variables {
                Some(_) => path.clone(),
                None => format!("{path} (not there)"),
            });
            let files = files.collect::<Vec<_>>().join(", ");
            Missing::new(
                format!("no usable {word} address is written in {files}"),
                format!(
                    "write {name}=ADDRESS into /etc/environment, start coreos-metadata.service or afterburn.service on \
                     machines of a cloud, or say {other}"
                ),
            )
        })
    }

    fn automatic(&mut self) -> Result<Found, Missing> {
        if let Ok(found) = self.written(Kind::Private, true) {
            return Ok(found);
        }
        let routes = [("IPv4", self.facts.default_v4), ("IPv6", self.facts.default_v6)];
        for (family, address) in routes {
            let Some(address) = address else { continue };
            let reason = format!("the address towards the default route of {family}");
            if let Some(found) = self.usable(address, reason) {
                return Ok(found);
            }
        }
        // No way out is no reason for doubt where there is one address only.
        for family in [IpAddr::is_ipv4, IpAddr::is_ipv6] {
            let mut usable: Vec<IpAddr> = self.facts.addresses.iter().map(|entry| entry.address).collect();
            usable.retain(|address| family(address) && objection(*address, self.facts).is_none());
            usable.sort_unstable();
            usable.dedup();
            if let [address] = usable[..] {
                let reason = "the only address that other machines can use (there is no default route)";
                return self.usable(address, reason.to_owned()).ok_or_else(Self::no_default_route);
            }
            if !usable.is_empty() {
                return Err(Missing::new(
                    "there is no default route, and several addresses that other machines could use",
                    "name the interface: `interface:NAME`; or give the address itself",
                ));
            }
        }
        Err(Self::no_default_route())
    }

    fn no_default_route() -> Missing {
        Missing::new(
            "this machine has no address that other machines can use",
            "wait for the network (network-online.target), or give the address itself",
        )
    }

    fn interface(&mut self, name: &str) -> Result<Found, Missing> {
        let mut own: Vec<&InterfaceAddress> =
            self.facts.addresses.iter().filter(|entry| entry.interface == name).collect();
        if own.is_empty() {
            let mut names: Vec<&str> =
                self.facts.addresses.iter().map(|entry| entry.interface.as_str()).collect();
            names.dedup();
            return Err(Missing::new(
                format!("there is no interface {name} with an address"),
                format!("interfaces with addresses are: {}", names.join(", ")),
            ));
        }
        own.sort_by_key(|entry| (entry.address.is_ipv6(), entry.prefix));
        let addresses: Vec<IpAddr> = own.iter().map(|entry| entry.address).collect();
        for address in addresses {
            if let Some(found) = self.usable(address, format!("the first usable address of {name}")) {
                return Ok(found);
            }
        }
        Err(Missing::new(
            format!("no address of {name} can be used by other machines"),
            "name another interface; an address that is given itself is taken as it is",
        ))
    }

    fn template(&mut self, text: &str) -> Result<Found, Missing> {
        let advice = "`corediscover address '{{ … }}'` shows what a template gives";
        let result = template::expand(text, self.facts)
            .map_err(|error| Missing::new(format!("the template {text} cannot be used: {error}"), advice))?;
        let words: Vec<&str> = result.split_whitespace().collect();
        let [word] = words[..] else {
            let what = if words.is_empty() { "no address".to_owned() } else { format!("several: {result}") };
            return Err(Missing::new(
                format!("the template {text} gives {what}"),
                "`| limit 1` or `| attr \"address\"` takes the first of several",
            ));
        };
        let address = word.parse::<IpAddr>().map_err(|_| {
            Missing::new(format!("the template {text} gives `{word}`, which is no address"), advice)
        })?;
        self.usable(address, format!("the template {text}")).ok_or_else(|| {
            Missing::new(
                format!("the template {text} gives an address that other machines cannot use"),
                "an address that is given itself is taken as it is",
            )
        })
    }

    /// Notes what nobody has looked at, so that a person sees everything.
    fn rest(&mut self) {
        for entry in &self.facts.addresses {
            let (address, origin) = (entry.address.to_string(), &entry.interface);
            if self.considered.iter().any(|seen| seen.address == address && seen.origin == *origin) {
                continue;
            }
            let is_inner = is_container_interface(&entry.interface, self.facts);
            let verdict = match objection(entry.address, self.facts) {
                // Each running container brings one of these.
                Some(Objection::LinkLocal) if is_inner => continue,
                Some(objection) => Verdict::Refused(objection),
                None => Verdict::PassedOver,
            };
            self.considered.push(Considered { address, origin: origin.clone(), verdict });
        }
    }
}
