//! Which addresses an agent listens on and tells the others: literal, chosen on the machine, or a template of go-sockaddr.

use std::cell::OnceCell;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use anyhow::{Context as _, bail};

use super::HttpAddress;
use super::fragment::Fragment;
use crate::hint::{WithHint as _, fault};
use crate::host::address;
use crate::model::address::{
    AddressSource, Choice, Facts, Refusal, choose, choose_private, choose_public_v6, is_container_interface,
    template,
};

/// All addresses of an agent.
pub(super) struct Addresses {
    pub(super) bind: IpAddr,
    pub(super) advertise: IpAddr,
    /// Why that one, where the machine chose it.
    pub(super) advertise_reason: Option<String>,
    pub(super) http: Vec<HttpAddress>,
    pub(super) dns: Vec<IpAddr>,
}

impl Addresses {
    /// Reads them from `fragment`; `warnings` gets what the operator should know.
    pub(super) fn of(fragment: &Fragment, dev: bool, warnings: &mut Vec<String>) -> anyhow::Result<Self> {
        let machine = Machine::default();
        let bind = machine.bind(fragment.bind_addr.as_deref(), dev)?;
        let (advertise, advertise_reason) =
            machine.advertise(fragment.advertise_addr.as_deref(), bind, warnings)?;
        let client = fragment.client_addr.as_deref().unwrap_or("127.0.0.1");
        let of = |key: &'static str, own: Option<&'_ str>| match own {
            Some(own) => (key, own.to_owned()),
            None => ("client_addr", client.to_owned()),
        };
        let (http_key, http) = of("addresses.http", fragment.addresses_http.as_deref());
        let (dns_key, dns) = of("addresses.dns", fragment.addresses_dns.as_deref());
        Ok(Self {
            bind,
            advertise,
            advertise_reason,
            http: machine.http(http_key, &http)?,
            dns: machine.dns(dns_key, &dns)?,
        })
    }
}

/// This machine, looked at when a setting needs it.
#[derive(Default)]
struct Machine(OnceCell<Facts>);

impl Machine {
    fn facts(&self) -> anyhow::Result<&Facts> {
        if let Some(facts) = self.0.get() {
            return Ok(facts);
        }
        let facts = address::facts()?;
        Ok(self.0.get_or_init(|| facts))
    }

    /// `text` with its templates replaced.
    fn expand(&self, key: &str, text: &str) -> anyhow::Result<String> {
        if !text.contains("{{") {
            return Ok(text.to_owned());
        }
        let expanded = template::expand(text, self.facts()?);
        expanded
            .with_context(|| format!("{key}: the template {text} cannot be used"))
            .hint("templates are go-sockaddr's, for example `{{ GetInterfaceIP \"eth0\" }}`")
    }

    fn bind(&self, text: Option<&str>, dev: bool) -> anyhow::Result<IpAddr> {
        let text = text.unwrap_or(if dev { "127.0.0.1" } else { "0.0.0.0" });
        if text.is_empty() {
            bail!("bind_addr cannot be empty");
        }
        if text.starts_with("unix:") {
            bail!("bind_addr cannot be a unix socket");
        }
        let expanded = self.expand("bind_addr", text)?;
        match expanded.split_whitespace().collect::<Vec<_>>()[..] {
            [] => Err(fault(
                format!("bind_addr: the template {text} gives no address"),
                "`corediscover address` lists the addresses of this machine",
            )),
            [one] => ip("bind_addr", one),
            _ => Err(fault(
                "bind_addr cannot contain multiple addresses",
                "`| limit 1` or `| attr \"address\"` takes the first of several",
            )),
        }
    }

    fn advertise(
        &self,
        text: Option<&str>,
        bind: IpAddr,
        warnings: &mut Vec<String>,
    ) -> anyhow::Result<(IpAddr, Option<String>)> {
        let mut take = |choice: Result<Choice, Refusal>| {
            let choice = choice.map_err(address::refused)?;
            warnings.extend(choice.warning);
            anyhow::Ok((choice.address, Some(choice.reason)))
        };
        let Some(text) = text.filter(|text| !text.is_empty()) else {
            return match bind {
                IpAddr::V4(v4) if v4.is_unspecified() => take(choose_private(self.facts()?)),
                IpAddr::V6(v6) if v6.is_unspecified() => take(choose_public_v6(self.facts()?)),
                bind => Ok((bind, None)),
            };
        };
        if let Ok(address) = ip("advertise_addr", text) {
            if address.is_unspecified() {
                return Err(fault(
                    "Advertise address cannot be 0.0.0.0, :: or [::]",
                    "give the address at which the other machines reach this one",
                ));
            }
            if address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST) {
                return Err(fault(
                    format!("advertise_addr: {address} is nobody's own address"),
                    "give the address at which the other machines reach this one",
                ));
            }
            warnings.extend(self.doubt(address));
            return Ok((address, None));
        }
        let source: AddressSource = text.parse().map_err(|error| {
            fault(format!("advertise_addr: {error}"), "or give an address such as 10.0.0.1")
        })?;
        take(choose(&source, self.facts()?))
    }

    /// What speaks against an address that somebody gave: it is taken all the same.
    fn doubt(&self, address: IpAddr) -> Option<String> {
        let facts = self.facts().ok()?;
        let entry = facts.interface_of(address)?;
        is_container_interface(&entry.interface, facts).then(|| {
            format!(
                "{address} is advertised, but {} is a network of containers inside this machine: other machines have \
                 one like it and will not reach this one",
                entry.interface
            )
        })
    }

    /// The words of a list of addresses, of which there is at least one.
    fn words(&self, key: &str, text: &str) -> anyhow::Result<Vec<String>> {
        let words: Vec<String> = self.expand(key, text)?.split_whitespace().map(str::to_owned).collect();
        if words.is_empty() && text.contains("{{") {
            return Err(fault(
                format!("{key}: the template {text} gives no address"),
                "`corediscover address` lists the addresses of this machine",
            ));
        }
        if words.is_empty() {
            bail!("{key} cannot be empty");
        }
        Ok(words)
    }

    fn http(&self, key: &str, text: &str) -> anyhow::Result<Vec<HttpAddress>> {
        let address = |word: &String| match word.strip_prefix("unix://") {
            Some(path) => Ok(HttpAddress::Unix(PathBuf::from(path))),
            None => ip(key, word).map(HttpAddress::Ip),
        };
        self.words(key, text)?.iter().map(address).collect()
    }

    fn dns(&self, key: &str, text: &str) -> anyhow::Result<Vec<IpAddr>> {
        // The API alone can be on a unix socket; DNS then stays on loopback.
        let address = |word: &String| {
            if word.starts_with("unix:") { Ok(Ipv4Addr::LOCALHOST.into()) } else { ip(key, word) }
        };
        self.words(key, text)?.iter().map(address).collect()
    }
}

/// An address, in brackets or not.
pub(super) fn ip(key: &str, text: &str) -> anyhow::Result<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse()
        .with_context(|| format!("{key}: `{text}` is not an IP address"))
        .hint("an address such as 10.0.0.1 or [fd00::1] is expected")
}
