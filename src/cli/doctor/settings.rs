//! Where things are on this machine: the flags say it, else the installed units, else it is as usual.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Parser as _;

use super::Args;
use crate::agent::config::{Fragment, HttpAddress, Settings as AgentSettings};
use crate::cli::bootstrap::EtcdArgs;
use crate::cli::local_agent::Checked;
use crate::cli::{Command, CommandLine, Usage, arguments};
use crate::client::{Address, Client};
use crate::hint::{causes, fault};
use crate::host::machine_id::MACHINE_ID_FILE;
use crate::host::unit_files::{self, UnitFile};
use crate::model::address::AddressSource;
use crate::model::doctor::address::Advertise;
use crate::model::doctor::command_line;
use crate::model::doctor::ports::{Needed, Protocol};
use crate::model::fleet::shell::quote;
use crate::model::names::MachineId;
use crate::model::provision::units::{self, AGENT, REGISTRATOR, RESOLVED};
use crate::model::provision::{Spec, resolved};
use crate::model::resolved::STANDARD_PORT;
use crate::registrator::SOCKET_DEFAULT;

/// Where the units keep the agent's state.
const DATA_DIR: &str = "/var/lib/corediscover";
/// The agent's ports, where nothing else is said: DNS, HTTP, RPC, gossip.
const PORTS: [u16; 4] = [8600, 8500, 8300, 8301];

/// Where things are.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    /// How the machines meet; `None` without etcd.
    pub(super) etcd: Option<EtcdArgs>,
    /// The file of the machine's id.
    pub(super) machine_id_file: PathBuf,
    /// The id, where it is given by hand.
    pub(super) machine_id: Option<MachineId>,
    /// What the agent is to tell the others.
    pub(super) advertise: Option<Advertise>,
    /// The agent's state.
    pub(super) data_dir: PathBuf,
    /// The domain, without dots at its ends.
    pub(super) domain: String,
    /// Where DNS listens.
    pub(super) dns: Vec<IpAddr>,
    /// Its port.
    pub(super) dns_port: Option<u16>,
    /// Where HTTP listens, if at addresses.
    http_listeners: Vec<SocketAddr>,
    /// Where RPC and gossip listen.
    bind: IpAddr,
    /// The port of RPC.
    server_port: u16,
    /// The port of gossip.
    gossip_port: u16,
    /// Where the agent is asked.
    pub(super) http: Address,
    /// Where Docker is.
    pub(super) docker_host: String,
    /// This program, as a shell finds it.
    pub(super) program: String,
    /// Our units that are installed.
    pub(super) units: Vec<(&'static str, UnitFile)>,
    /// Where all this came from, for people.
    pub(super) sources: Vec<String>,
}

impl Settings {
    /// Looks at flags and units.
    ///
    /// # Errors
    /// Flags that make no sense.
    pub(super) fn find(args: Args) -> anyhow::Result<Self> {
        let units = units::ALL.into_iter().filter_map(|name| Some((name, unit_files::find(name)?))).collect();
        let mut settings = Self::usual(units);
        settings.read_units();
        if let Some(host) =
            settings.unit(REGISTRATOR).and_then(|unit| command_line::variable(&unit.texts(), "DOCKER_HOST"))
        {
            settings.docker_host = host;
        }
        settings.take_flags(args)?;
        Ok(settings)
    }

    pub(super) fn usual(units: Vec<(&'static str, UnitFile)>) -> Self {
        let [dns, http, server, gossip] = PORTS;
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Self {
            etcd: None,
            machine_id_file: MACHINE_ID_FILE.into(),
            machine_id: None,
            advertise: None,
            data_dir: DATA_DIR.into(),
            domain: "consul".to_owned(),
            dns: vec![loopback],
            dns_port: Some(dns),
            http_listeners: vec![SocketAddr::new(loopback, http)],
            bind: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            server_port: server,
            gossip_port: gossip,
            http: Address::default(),
            docker_host: format!("unix://{SOCKET_DEFAULT}"),
            program: program(),
            units,
            sources: Vec::new(),
        }
    }

    fn unit(&self, name: &str) -> Option<&UnitFile> {
        self.units.iter().find(|(known, _)| *known == name).map(|(_, unit)| unit)
    }

    /// Whether this unit is installed.
    pub(super) fn has_unit(&self, name: &str) -> bool {
        self.unit(name).is_some()
    }

    /// The file of a unit.
    pub(super) fn file_of(&self, name: &str) -> Option<&Path> {
        self.unit(name).map(|unit| unit.path.as_path())
    }

    /// Whether our unit is to make the resolver answer containers.
    pub(super) fn serves_containers(&self) -> bool {
        let commands = self.unit(RESOLVED).map(|unit| command_line::commands(&unit.texts()));
        let mut commands = commands.unwrap_or_default().into_iter();
        commands.any(|command| {
            command.option == "ExecStart" && command.words.iter().any(|word| word == "--docker")
        })
    }

    /// What the agent is started with says where everything is; without its unit, that of the resolver says something.
    pub(super) fn read_units(&mut self) {
        let Some(unit) = self.unit(AGENT).cloned() else {
            let resolved = self.unit(RESOLVED).map(|unit| command_line::commands(&unit.texts()));
            for command in resolved.into_iter().flatten().filter(|command| command.option == "ExecStart") {
                self.read_resolved(&command.words);
            }
            self.sources.push(format!("{AGENT} is not installed: as usual, unless flags say otherwise"));
            return;
        };
        let path = unit.path.display();
        let commands = command_line::commands(&unit.texts());
        let start = commands.into_iter().find(|command| command.option == "ExecStart");
        let source = match start.with_context(|| format!("{path} has no ExecStart")) {
            Ok(start) => self.read_command(start.words).map(|()| match unit.drop_ins.len() {
                0 => format!("from {path}"),
                count => format!("from {path} and {count} drop-ins"),
            }),
            Err(error) => Err(error),
        };
        self.sources.push(source.unwrap_or_else(|error| {
            format!("{path} is not understood ({}): as usual, unless flags say otherwise", causes(&error))
        }));
    }

    /// What is not understood there stays as usual.
    fn read_resolved(&mut self, words: &[String]) {
        for pair in words.windows(2) {
            let [flag, value] = pair else { continue };
            match (flag.as_str(), value.parse(), value.parse()) {
                ("--domain", _, _) => self.domain.clone_from(value),
                ("--dns-port", Ok(port), _) => self.dns_port = Some(port),
                ("--address", _, Ok(address)) => self.dns = vec![address],
                _ => (),
            }
        }
    }

    fn read_command(&mut self, words: Vec<String>) -> anyhow::Result<()> {
        let words = arguments::normalise(words.into_iter().map(Into::into).collect())?;
        let line = CommandLine::try_parse_from(words).map_err(|error| {
            let text = error.to_string();
            anyhow::anyhow!("{}", text.lines().next().unwrap_or_default())
        })?;
        // What the machine's address is decides nothing here, and must not fail here.
        let anywhere = || Some(Ipv4Addr::LOCALHOST.to_string());
        match line.command {
            Command::Bootstrap(args) => {
                let decided = Fragment {
                    data_dir: Some(args.data_dir.clone()),
                    advertise_addr: anywhere(),
                    ..Fragment::default()
                };
                self.take_agent(&Checked::new(&args.agent_flags, decided)?.settings);
                self.data_dir = args.data_dir;
                self.etcd = Some(args.etcd).filter(|etcd| !etcd.etcd.is_empty());
                self.machine_id = args.machine_id;
                self.machine_id_file = args.machine_id_file.unwrap_or_else(|| MACHINE_ID_FILE.into());
                let interface = args.interface.map(|name| format!("interface:{name}"));
                self.advertise = args.advertise.or(interface).map(|text| advertise(&text)).transpose()?;
            }
            Command::Agent(args) => {
                let own = args.clone().settings(Fragment::default());
                let settings = match own {
                    Ok(settings) => {
                        self.advertise = Some(Advertise::Fixed(settings.advertise));
                        settings
                    }
                    Err(_) => {
                        args.settings(Fragment { advertise_addr: anywhere(), ..Fragment::default() })?
                    }
                };
                self.take_agent(&settings);
            }
            _ => anyhow::bail!("its ExecStart runs neither `bootstrap` nor `agent`"),
        }
        Ok(())
    }

    fn take_agent(&mut self, agent: &AgentSettings) {
        if let Some(data_dir) = &agent.data_dir {
            self.data_dir.clone_from(data_dir);
        }
        self.domain.clone_from(&agent.domain);
        self.dns.clone_from(&agent.dns);
        self.dns_port = agent.ports.dns;
        self.bind = agent.bind;
        self.server_port = agent.ports.server;
        self.gossip_port = agent.ports.serf_lan;
        let port = agent.ports.http;
        let listeners = agent.http.iter().filter_map(|address| match address {
            HttpAddress::Ip(ip) => Some(SocketAddr::new(*ip, port?)),
            HttpAddress::Unix(_) => None,
        });
        self.http_listeners = listeners.collect();
        let socket = agent.http.iter().find_map(|address| match address {
            HttpAddress::Unix(path) => Some(Address::Unix(path.clone())),
            HttpAddress::Ip(_) => None,
        });
        let local = |address: &SocketAddr| SocketAddr::new(reachable(address.ip()), address.port());
        let best = self.http_listeners.iter().map(local).max_by_key(|address| address.ip().is_loopback());
        let best = best.map(|address| Address::Http { host: host_of(address.ip()), port: address.port() });
        if let Some(address) = best.or(socket) {
            self.http = address;
        }
    }

    fn take_flags(&mut self, args: Args) -> anyhow::Result<()> {
        let mut said = Vec::new();
        if !args.etcd.etcd.is_empty() {
            self.etcd = Some(args.etcd);
            said.push("--etcd");
        }
        if let Some(path) = args.machine_id_file {
            self.machine_id_file = path;
            said.push("--machine-id-file");
        }
        if let Some(text) = args.advertise {
            self.advertise = Some(advertise(&text).map_err(|error| error.context(Usage("--advertise")))?);
            said.push("--advertise");
        }
        if let Some(path) = args.data_dir {
            self.data_dir = path;
            said.push("--data-dir");
        }
        if let Some(domain) = args.domain {
            domain.trim_matches('.').clone_into(&mut self.domain);
            said.push("--domain");
        }
        if let Some(port) = args.dns_port {
            self.dns_port = Some(port);
            said.push("--dns-port");
        }
        if let Some(text) = args.http_addr.filter(|text| !text.is_empty()) {
            self.http = text.parse().map_err(|error| {
                fault(error, "for example `--http-addr 127.0.0.1:8500`").context(Usage("--http-addr"))
            })?;
            if let Address::Http { host, port } = &self.http
                && let Ok(ip) = host.trim_matches(['[', ']']).parse()
            {
                self.http_listeners = vec![SocketAddr::new(ip, *port)];
            }
            said.push("--http-addr");
        }
        if let Some(host) = args.docker_host.filter(|host| !host.is_empty()) {
            self.docker_host = host;
            said.push("--docker-host");
        }
        if !said.is_empty() {
            self.sources.push(format!("{} from the command line or its environment", said.join(", ")));
        }
        Ok(())
    }

    /// Asks the agent.
    pub(super) fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::new(self.http.clone(), None)?)
    }

    /// Where DNS is asked: on loopback if it listens there.
    pub(super) fn dns_target(&self) -> Option<SocketAddr> {
        let best = self.dns.iter().copied().map(reachable).max_by_key(IpAddr::is_loopback);
        Some(SocketAddr::new(best?, self.dns_port?))
    }

    /// The ports that the agent needs. `plain`: the resolver can ask port 53 alone.
    pub(super) fn needed_ports(&self, plain: bool) -> Vec<Needed> {
        let need = |what, protocol, address, port| Needed { what, protocol, address, port };
        let mut needed = vec![
            need("RPC", Protocol::Tcp, self.bind, self.server_port),
            need("gossip", Protocol::Tcp, self.bind, self.gossip_port),
            need("gossip", Protocol::Udp, self.bind, self.gossip_port),
        ];
        let http = self.http_listeners.iter();
        needed.extend(http.map(|address| need("HTTP", Protocol::Tcp, address.ip(), address.port())));
        let plain = plain.then_some(STANDARD_PORT).filter(|port| self.dns_port != Some(*port));
        for port in self.dns_port.into_iter().chain(plain) {
            for address in &self.dns {
                needed.push(need("DNS", Protocol::Tcp, *address, port));
                needed.push(need("DNS", Protocol::Udp, *address, port));
            }
        }
        needed
    }

    /// The flags of `resolved apply` that differ from its defaults, with a blank before each.
    pub(super) fn resolved_flags(&self) -> String {
        // What the command would refuse is not given to it.
        let target = self.dns_target();
        resolved::flags(&Spec {
            domain: self.domain.parse().unwrap_or_default(),
            client: target.iter().map(SocketAddr::ip).collect(),
            dns_port: target.and_then(|target| target.port().to_string().parse().ok()).unwrap_or_default(),
            ..Spec::default()
        })
    }

    /// The file of the etcd key, if there is one.
    pub(super) fn etcd_key(&self) -> Option<&Path> {
        self.etcd.as_ref()?.etcd_key.as_deref()
    }
}

fn advertise(text: &str) -> anyhow::Result<Advertise> {
    if let Ok(address) = text.parse() {
        return Ok(Advertise::Fixed(address));
    }
    let source: AddressSource =
        text.parse().map_err(|error| fault(error, "or give an IP address of this machine"))?;
    Ok(Advertise::Source(source))
}

/// Where this program is: on many machines its folder is not among those that a shell looks into.
fn program() -> String {
    let path = std::env::current_exe().ok().map(|path| quote(&path.display().to_string()));
    path.unwrap_or_else(|| "corediscover".to_owned())
}

/// Where programs of this machine reach a listener.
fn reachable(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) if v4.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(v6) if v6.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        address => address,
    }
}

fn host_of(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::{Settings, Spec, UnitFile};
    use crate::model::doctor::address::Advertise;
    use crate::model::doctor::ports::Protocol;
    use crate::model::provision::units::{Manager, UnitFile as Text, unit_files};

    /// The settings of a machine that was provisioned so.
    pub(in super::super) fn of(spec: &Spec) -> Settings {
        let files = unit_files(spec, Manager::Systemd).unwrap().into_iter();
        let files = files.map(|Text { name, text }| {
            (
                name,
                UnitFile { path: format!("/etc/systemd/system/{name}").into(), text, drop_ins: Vec::new() },
            )
        });
        let mut settings = Settings::usual(files.collect());
        settings.read_units();
        settings
    }

    #[test]
    fn a_provisioned_machine_needs_no_flags() {
        let settings = of(&Spec::default());
        assert_eq!(settings.sources, ["from /etc/systemd/system/corediscover-agent.service"]);
        assert_eq!(settings.etcd.unwrap().etcd[0].to_string(), "http://127.0.0.1:2379");
        assert_eq!(settings.advertise, Some(Advertise::Source("private".parse().unwrap())));
        assert_eq!(settings.data_dir.display().to_string(), "/var/lib/corediscover");
        assert_eq!(settings.http.to_string(), "http://127.0.0.1:8500");
    }

    #[test]
    fn ports_domain_and_addresses_are_those_of_the_units() {
        let spec = Spec {
            domain: "corp.example".parse().unwrap(),
            dns_port: "53".parse().unwrap(),
            client: vec!["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()],
            ..Spec::default()
        };
        let settings = of(&spec);
        assert_eq!(settings.resolved_flags(), " --domain corp.example --address fd00::7 --dns-port 53");
        let needed = settings.needed_ports(true);
        let dns: Vec<_> = needed.iter().filter(|need| need.what == "DNS").collect();
        assert!(dns.len() == 4 && dns.iter().all(|need| need.port == 53), "{dns:?}");
        assert!(needed.iter().any(|need| need.port == 8301 && need.protocol == Protocol::Udp));
    }

    #[test]
    fn containers_are_served_where_the_unit_says_so_and_the_agent_does_not_do_it_itself() {
        assert!(of(&Spec::default()).serves_containers());
        let itself = Spec {
            dns_port: "53".parse().unwrap(),
            client: vec!["127.0.0.1".parse().unwrap(), "172.17.0.1".parse().unwrap()],
            ..Spec::default()
        };
        assert!(!of(&itself).serves_containers());
        assert!(!Settings::usual(Vec::new()).serves_containers());
    }

    #[test]
    fn a_unit_that_is_not_understood_is_said_and_everything_is_as_usual() {
        let mut settings = of(&Spec::default());
        settings.sources.clear();
        settings.units[0].1.text = "[Service]\nExecStart=/bin/true\n".to_owned();
        settings.read_units();
        assert!(settings.sources[0].contains("is not understood"), "{:?}", settings.sources);
    }
}
