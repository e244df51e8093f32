//! A Docker API that others reach over the network without TLS: whoever does is root.

use std::net::{IpAddr, SocketAddr};

use super::ports::Listener;
use super::{Check, Finding};
use crate::model::fleet::shell::quote;

/// The check's name.
pub const NAME: &str = "docker-tcp";
/// The port of Docker's API without TLS.
pub const PORT: u16 = 2375;
/// The engine's process.
const ENGINE: &str = "dockerd";

/// A place that says where Docker listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The file.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// What became of asking a listener for Docker's API without TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Where it listens.
    pub at: SocketAddr,
    /// It answered as Docker does; or why that is not known.
    pub answers: Result<bool, String>,
}

/// What is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The listeners that may be Docker's, and what they said.
    pub asked: Vec<Asked>,
    /// Files of Docker's settings and units.
    pub settings: Vec<Setting>,
    /// Socket units of this machine.
    pub sockets: Vec<Setting>,
}

/// The listeners that are to be asked: beyond loopback, and Docker's by their port or their process.
pub fn candidates(listeners: &[Listener]) -> Vec<SocketAddr> {
    let is_docker = |listener: &&Listener| {
        listener.port == PORT || listener.holder.as_ref().is_some_and(|holder| holder.name == ENGINE)
    };
    let open = listeners.iter().filter(is_docker).filter(|listener| {
        listener.protocol == super::ports::Protocol::Tcp && !listener.address.is_loopback()
    });
    open.map(|listener| SocketAddr::new(listener.address, listener.port)).collect()
}

/// Judges it.
pub fn judge(facts: &Facts) -> Check {
    let mut check = Check::of(NAME, Vec::new());
    for asked in &facts.asked {
        match &asked.answers {
            Ok(false) => {}
            Ok(true) => check.findings.push(Finding::error(
                format!("Docker's API is open at tcp://{}, without TLS", asked.at),
                "whoever reaches that port is root on this machine",
                fix(asked.at, facts),
            )),
            Err(why) => check = check.but_not(format!("tcp://{}: {why}", asked.at)),
        }
    }
    check
}

fn fix(at: SocketAddr, facts: &Facts) -> String {
    let port = at.port().to_string();
    let listens = |setting: &&Setting| {
        let lines = setting.text.lines().filter_map(|line| line.trim().strip_prefix("ListenStream="));
        lines.map(|value| value.rsplit(':').next().unwrap_or(value)).any(|value| value == port)
    };
    if let Some(unit) = facts.sockets.iter().find(listens).and_then(|setting| setting.path.rsplit('/').next())
    {
        return format!("systemctl disable --now {unit} && systemctl restart docker.service");
    }
    // Loopback instead, wherever it is said: the rest of the file stays as it is.
    let words = facts.settings.iter().find_map(|setting| {
        let word = tcp_words(&setting.text).into_iter().find(|word| word.ends_with(&format!(":{port}")))?;
        Some((&setting.path, word))
    });
    match words {
        Some((path, word)) => format!(
            "sed -i 's|{word}|tcp://127.0.0.1:{port}|' {} && systemctl daemon-reload && systemctl restart docker.service",
            quote(path)
        ),
        None if at.ip() == IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED) => {
            format!(
                "ip6tables -I INPUT -p tcp --dport {port} ! -i lo -j DROP && iptables -I INPUT -p tcp --dport {port} ! -i lo -j DROP"
            )
        }
        None => format!("iptables -I INPUT -p tcp --dport {port} ! -i lo -j DROP"),
    }
}

/// The words of a text that begin with `tcp://`.
fn tcp_words(text: &str) -> Vec<String> {
    let starts = text.match_indices("tcp://").map(|(at, _)| &text[at..]);
    let ends = |c: char| !(c.is_ascii_alphanumeric() || ":/.[]-".contains(c));
    starts.map(|rest| rest.split(ends).next().unwrap_or_default().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::{Asked, Facts, Setting, candidates, judge};
    use crate::model::doctor::ports::{Holder, Listener, Protocol};

    fn setting(path: &str, text: &str) -> Setting {
        Setting { path: path.to_owned(), text: text.to_owned() }
    }

    fn open(settings: Vec<Setting>, sockets: Vec<Setting>) -> String {
        let asked = vec![Asked { at: "0.0.0.0:2375".parse().unwrap(), answers: Ok(true) }];
        let found = judge(&Facts { asked, settings, sockets });
        assert_eq!(found.findings[0].symptom, "Docker's API is open at tcp://0.0.0.0:2375, without TLS");
        found.findings[0].fix.clone()
    }

    #[test]
    fn only_what_may_be_docker_beyond_loopback_is_asked() {
        let listener = |address: &str, port, name: &str| Listener {
            protocol: Protocol::Tcp,
            address: address.parse().unwrap(),
            port,
            holder: Some(Holder { pid: 1, name: name.to_owned(), program: None, unit: None }),
        };
        let listeners = [
            listener("0.0.0.0", 2375, "systemd"),
            listener("127.0.0.1", 2375, "dockerd"),
            listener("10.0.0.1", 4243, "dockerd"),
            listener("0.0.0.0", 80, "nginx"),
        ];
        let asked: Vec<String> = candidates(&listeners).iter().map(ToString::to_string).collect();
        assert_eq!(asked, ["0.0.0.0:2375", "10.0.0.1:4243"]);
    }

    #[test]
    fn the_fix_is_where_it_was_said() {
        let socket = setting("/etc/systemd/system/docker-tcp.socket", "[Socket]\nListenStream=2375\n");
        assert_eq!(
            open(Vec::new(), vec![socket]),
            "systemctl disable --now docker-tcp.socket && systemctl restart docker.service"
        );
        let daemon = setting("/etc/docker/daemon.json", r#"{"hosts": ["fd://", "tcp://0.0.0.0:2375"]}"#);
        assert!(open(vec![daemon], Vec::new()).starts_with(
            "sed -i 's|tcp://0.0.0.0:2375|tcp://127.0.0.1:2375|' /etc/docker/daemon.json && systemctl daemon-reload"
        ));
        assert!(open(Vec::new(), Vec::new()).starts_with("iptables -I INPUT"));
    }

    #[test]
    fn another_program_on_that_port_and_one_that_wants_tls_are_fine() {
        let asked = vec![Asked { at: "0.0.0.0:2375".parse().unwrap(), answers: Ok(false) }];
        assert!(judge(&Facts { asked, settings: Vec::new(), sockets: Vec::new() }).is_fine());
        let asked = vec![Asked { at: "0.0.0.0:2375".parse().unwrap(), answers: Err("no answer".to_owned()) }];
        let found = judge(&Facts { asked, settings: Vec::new(), sockets: Vec::new() });
        assert_eq!(found.not_checked, ["tcp://0.0.0.0:2375: no answer"]);
    }
}
