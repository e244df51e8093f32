//! Real containers on the real engine, seen through real agents: a plain `docker run` is found on every machine, and
//! the lines that `cmd:run` prints make a cluster out of containers.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::Command;

use serde_json::Value;

use crate::image::{dig, image, members, start};
use crate::support::docker::{Container, IMAGE, docker, unique_name};
use crate::support::etcd::Etcd;
use crate::support::machine::{Machine, PATIENCE, formed, request};
use crate::support::{Running, corediscover, eventually};

/// The engine's socket.
const DOCKER_HOST: &str = "unix:///var/run/docker.sock";

/// A name of the web image that no other test uses, so that its services are this test's alone.
struct ImageName(String);

impl ImageName {
    fn new(word: &str) -> Self {
        let name = unique_name(word);
        docker(&["tag", crate::support::docker::image(), &format!("{name}:1")]);
        Self(name)
    }

    /// `docker run -d -P`, and nothing that tells of discovery.
    fn run(&self, options: &[&str]) -> Container {
        let name = unique_name("web");
        let image = format!("{}:1", self.0);
        let mut line = vec!["run", "-d", "-P", "--name", &name];
        line.extend(options);
        line.push(&image);
        let id = docker(&line);
        Container { name, id }
    }

    /// The service as catalog and DNS call it.
    fn question(&self) -> String {
        format!("{}.service.consul", self.0)
    }
}

impl Drop for ImageName {
    fn drop(&mut self) {
        // Only the name goes: the image has others.
        drop(Command::new("docker").args(["rmi", &format!("{}:1", self.0)]).output());
    }
}

/// Three machines born with etcd, and a registrator that tells the first of them about this engine's containers.
struct Cluster {
    _etcd: Etcd,
    machines: Vec<Machine>,
    registrator: Option<Running>,
}

impl Cluster {
    fn start() -> Self {
        let etcd = Etcd::start();
        let names = ["machine-1", "machine-2", "machine-3"];
        let machines: Vec<Machine> =
            names.iter().map(|name| Machine::bootstrap(name, &etcd.url(), 3).started()).collect();
        formed(&machines.iter().collect::<Vec<_>>(), 3);
        let mut cluster = Self { _etcd: etcd, machines, registrator: None };
        cluster.start_registrator();
        cluster
    }

    fn start_registrator(&mut self) {
        let address = self.machines[0].address.to_string();
        let mut command = corediscover();
        command.env("DOCKER_HOST", DOCKER_HOST);
        command.args(["registrator", "-ip", &address, &format!("consul://{address}:8500")]);
        self.registrator = Some(Running::start("registrator", &mut command));
    }

    fn kill_registrator(&mut self) {
        self.registrator.take().unwrap().kill();
    }

    /// Waits until DNS and HTTP of every machine know exactly these containers as instances of the service.
    #[track_caller]
    fn wait_for(&self, image: &ImageName, containers: &[&Container]) {
        let wanted: BTreeSet<u16> = containers.iter().map(|web| web.published_port("80/tcp")).collect();
        let address = self.machines[0].address.to_string();
        let addresses = if wanted.is_empty() { Vec::new() } else { vec![address] };
        for machine in &self.machines {
            let what = format!("{} has {wanted:?} on {}", image.0, machine.name);
            eventually(PATIENCE, &what, || {
                let a = machine.dig(&[&image.question()]);
                let srv = machine.dig(&[&image.question(), "SRV"]);
                let ports: BTreeSet<u16> =
                    srv.iter().filter_map(|line| line.split(' ').nth(2)?.parse().ok()).collect();
                let path = format!("/v1/health/service/{}?passing&stale", image.0);
                let found = machine.get(&path)?;
                let listed: Vec<u64> =
                    found.as_array()?.iter().filter_map(|row| row["Service"]["Port"].as_u64()).collect();
                let right = a == addresses
                    && ports == wanted
                    && srv.len() == wanted.len()
                    && listed.len() == wanted.len()
                    && listed.iter().all(|port| wanted.iter().any(|wanted| u64::from(*wanted) == *port));
                right.then_some(())
            });
        }
    }

    /// Ids of all instances, also those that are hidden.
    fn ids(&self, image: &ImageName) -> Vec<String> {
        let rows = self.machines[2].get(&format!("/v1/catalog/service/{}?stale", image.0)).unwrap();
        rows.as_array().unwrap().iter().map(|row| row["ServiceID"].as_str().unwrap().to_owned()).collect()
    }
}

#[test]
fn a_plain_container_is_found_on_every_machine_through_all_its_life() {
    let cluster = Cluster::start();
    let image = ImageName::new("life");
    let web = image.run(&[]);
    cluster.wait_for(&image, &[&web]);
    let place = (cluster.machines[0].address, web.published_port("80/tcp")).into();
    let answer = eventually(PATIENCE, "what DNS says can be reached", || request(place, "GET", "/", b""));
    assert_eq!(answer.0, 404, "an httpd without files");

    web.tell(&["stop", "-t", "0"]);
    cluster.wait_for(&image, &[]);
    web.tell(&["start"]);
    cluster.wait_for(&image, &[&web]);
    web.tell(&["kill"]);
    cluster.wait_for(&image, &[]);
    web.tell(&["start"]);
    cluster.wait_for(&image, &[&web]);
    web.tell(&["restart", "-t", "0"]);
    cluster.wait_for(&image, &[&web]);
    web.tell(&["pause"]);
    cluster.wait_for(&image, &[]);
    assert_eq!(cluster.ids(&image).len(), 1, "it is hidden, not forgotten");
    web.tell(&["unpause"]);
    cluster.wait_for(&image, &[&web]);

    let second = image.run(&[]);
    cluster.wait_for(&image, &[&web, &second]);
    web.tell(&["rm", "-f"]);
    cluster.wait_for(&image, &[&second]);
    assert_eq!(cluster.ids(&image).len(), 1);
}

#[test]
fn a_container_whose_healthcheck_fails_is_hidden_on_every_machine() {
    let cluster = Cluster::start();
    let image = ImageName::new("ill");
    let probe = ["--health-cmd", "test ! -f /ill", "--health-interval", "200ms", "--health-retries", "1"];
    let [web, other] = [image.run(&probe), image.run(&[])];
    cluster.wait_for(&image, &[&web, &other]);
    web.execute(&["touch", "/ill"]);
    cluster.wait_for(&image, &[&other]);
    assert_eq!(cluster.ids(&image).len(), 2, "it is hidden, not forgotten");
    web.execute(&["rm", "/ill"]);
    cluster.wait_for(&image, &[&web, &other]);
}

#[test]
fn what_changed_while_the_registrator_was_dead_is_right_on_every_machine_when_it_is_back() {
    let mut cluster = Cluster::start();
    let image = ImageName::new("missed");
    let [removed, stopped, restarted, paused] = [(); 4].map(|()| image.run(&[]));
    cluster.wait_for(&image, &[&removed, &stopped, &restarted, &paused]);
    cluster.kill_registrator();
    removed.tell(&["rm", "-f"]);
    stopped.tell(&["stop", "-t", "0"]);
    restarted.tell(&["restart", "-t", "0"]);
    paused.tell(&["pause"]);
    let new = image.run(&[]);
    cluster.start_registrator();
    cluster.wait_for(&image, &[&restarted, &new]);
    let ids = cluster.ids(&image);
    assert_eq!(ids.len(), 3, "nothing dangles, nothing is doubled: {ids:?}");
    paused.tell(&["unpause"]);
    cluster.wait_for(&image, &[&restarted, &new, &paused]);

    // Killed at once after a change, twice.
    let last = image.run(&[]);
    cluster.kill_registrator();
    cluster.start_registrator();
    new.tell(&["kill"]);
    cluster.kill_registrator();
    cluster.start_registrator();
    cluster.wait_for(&image, &[&restarted, &paused, &last]);
    assert_eq!(cluster.ids(&image).len(), 3);
}

/// Addresses of this host that containers reach, on Docker's bridge; removed when the test ends.
struct HostAddresses(Vec<Ipv4Addr>);

impl HostAddresses {
    /// Takes `count` addresses of a network that no other run has: whoever has added the first has it.
    fn take(count: u8) -> Self {
        let mut addresses = Self(Vec::new());
        let first = std::process::id().to_le_bytes()[0];
        for network in (0..=u8::MAX).map(|step| first.wrapping_add(step)) {
            if !addresses.add(Ipv4Addr::new(10, 213, network, 1)) {
                continue;
            }
            for host in 2..=count {
                assert!(addresses.add(Ipv4Addr::new(10, 213, network, host)));
            }
            return addresses;
        }
        panic!("all of 10.213.0.0/16 is in use");
    }

    fn add(&mut self, address: Ipv4Addr) -> bool {
        let added = ip(&["addr", "add", &format!("{address}/32"), "dev", "docker0"]);
        if added {
            self.0.push(address);
        }
        added
    }
}

impl Drop for HostAddresses {
    fn drop(&mut self) {
        for address in &self.0 {
            let _removed = ip(&["addr", "del", &format!("{address}/32"), "dev", "docker0"]);
        }
    }
}

fn ip(arguments: &[&str]) -> bool {
    Command::new("ip").args(arguments).output().expect("ip is installed (iproute2)").status.success()
}

/// One machine as the post of progrium/consul knows it: an address, Docker's bridge, a container.
struct DockerMachine {
    address: String,
    bridge: String,
    container: Container,
    _data: tempfile::TempDir,
}

impl DockerMachine {
    /// What a user types: `$(docker run --rm corediscover cmd:run … ADDRESS[:JOIN] -d -v FOLDER:/data)`.
    fn start(number: usize, address: &str, bridge: &str, join: &str) -> Self {
        let (name, data) = (unique_name("consul"), tempfile::tempdir().unwrap());
        let line = format!(
            "$(docker run --rm {} cmd:run --name {name} --bridge-ip {bridge} {address}{join} -d -v {}:/data)",
            image(),
            data.path().display()
        );
        // From now on there may be a container, whatever goes wrong.
        let mut container = Container { name, id: String::new() };
        let output =
            Command::new("sh").args(["-c", &line]).env("HOSTNAME", format!("node{number}")).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().clone_into(&mut container.id);
        Self { address: address.to_owned(), bridge: bridge.to_owned(), container, _data: data }
    }

    fn request(&self, method: &str, path: &str, body: &str) -> Option<Value> {
        let place = format!("{}:8500", self.address).parse().unwrap();
        let (status, _, body) = request(place, method, path, body.as_bytes())?;
        if status != 200 {
            return None;
        }
        Some(if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() })
    }

    /// Rows of `consul members` in its container.
    fn members(&self) -> BTreeSet<[String; 4]> {
        members(&self.container.name).into_iter().collect()
    }
}

impl Drop for DockerMachine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Written past the test's capture: what the agents said explains the failure.
            drop(writeln!(std::io::stderr(), "{}:\n{}", self.container.name, log(&self.container)));
        }
    }
}

fn log(container: &Container) -> String {
    let output = Command::new("docker").args(["logs", "--tail", "40", &container.name]).output().unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

fn started_by_printed_lines(addresses: &HostAddresses) -> Vec<DockerMachine> {
    let text: Vec<String> = addresses.0.iter().map(ToString::to_string).collect();
    let (own, bridges) = text.split_at(3);
    vec![
        DockerMachine::start(1, &own[0], &bridges[0], ""),
        DockerMachine::start(2, &own[1], &bridges[1], &format!(":{}", own[0])),
        DockerMachine::start(3, &own[2], &bridges[2], &format!("::{}", own[0])),
    ]
}

#[track_caller]
fn wait_for_one_cluster(machines: &[DockerMachine]) {
    let servers: BTreeSet<[String; 4]> = machines
        .iter()
        .enumerate()
        .map(|(index, machine)| {
            let (name, address) = (format!("node{}", index + 1), format!("{}:8301", machine.address));
            [name, address, "alive".to_owned(), "server".to_owned()]
        })
        .collect();
    let mut addresses: Vec<String> = machines.iter().map(|machine| machine.address.clone()).collect();
    addresses.sort();
    let peers: BTreeSet<String> = addresses.iter().map(|address| format!("{address}:8300")).collect();
    eventually(PATIENCE, "the containers are one cluster of three servers", || {
        let leaders: BTreeSet<String> = machines
            .iter()
            .map(|machine| Some(machine.request("GET", "/v1/status/leader", "")?.as_str()?.to_owned()))
            .collect::<Option<_>>()?;
        let voters = machines[0].request("GET", "/v1/status/peers", "")?;
        let voters: BTreeSet<String> =
            voters.as_array()?.iter().filter_map(|peer| Some(peer.as_str()?.to_owned())).collect();
        let right = leaders.len() == 1
            && peers.is_superset(&leaders)
            && voters == peers
            && machines.iter().all(|machine| machine.members() == servers)
            && machines.iter().all(|machine| dig(&machine.bridge, &["consul.service.consul"]) == addresses);
        right.then_some(())
    });
}

#[test]
fn the_lines_that_the_image_prints_make_one_cluster_of_three_containers() {
    let addresses = HostAddresses::take(6);
    let machines = started_by_printed_lines(&addresses);
    wait_for_one_cluster(&machines);

    let body = r#"{"Name": "web", "Port": 8080}"#;
    machines[1].request("PUT", "/v1/agent/service/register", body).unwrap();
    for machine in &machines {
        eventually(PATIENCE, "the service of one is found on all", || {
            let asked = [&["web.service.consul"][..], &["+tcp", "web.service.consul"]];
            let found =
                asked.iter().all(|question| dig(&machine.bridge, question) == [machines[1].address.as_str()]);
            let rows = machine.request("GET", "/v1/catalog/service/web", "")?;
            (found && rows[0]["Address"] == machines[1].address.as_str()).then_some(())
        });
    }

    // Whoever leads, the others go on without it, and it comes back by the same name and addresses.
    let lost = &machines[0];
    lost.container.tell(&["kill"]);
    eventually(PATIENCE, "the lost machine leaves DNS", || {
        let answers: Vec<Vec<String>> =
            machines[1..].iter().map(|machine| dig(&machine.bridge, &["consul.service.consul"])).collect();
        answers.iter().all(|answer| answer.len() == 2 && !answer.contains(&lost.address)).then_some(())
    });
    eventually(PATIENCE, "writes go on", || machines[2].request("PUT", "/v1/kv/key", "value"));
    lost.container.tell(&["start"]);
    wait_for_one_cluster(&machines);
    eventually(PATIENCE, "it has caught up", || {
        let pairs = lost.request("GET", "/v1/kv/key?stale", "")?;
        (pairs[0]["Value"] == "dmFsdWU=").then_some(())
    });

    // All at once, as when the host shuts down; the last ones have no majority any more.
    let names = machines.iter().map(|machine| machine.container.name.as_str());
    docker(&["stop", "-t", "60"].into_iter().chain(names.clone()).collect::<Vec<_>>());
    for machine in &machines {
        let code = docker(&["inspect", "-f", "{{.State.ExitCode}}", &machine.container.name]);
        assert_eq!(code, "0", "{}: {}", machine.container.name, log(&machine.container));
    }
    docker(&["start"].into_iter().chain(names).collect::<Vec<_>>());
    wait_for_one_cluster(&machines);
    eventually(PATIENCE, "the service is still there", || {
        let found = dig(&machines[2].bridge, &["web.service.consul"]);
        (found == [machines[1].address.as_str()]).then_some(())
    });
}

#[test]
fn a_machine_that_lost_its_disk_comes_back_by_the_same_line_and_founds_no_second_cluster() {
    let addresses = HostAddresses::take(6);
    let mut machines = started_by_printed_lines(&addresses);
    wait_for_one_cluster(&machines);
    eventually(PATIENCE, "a key is written", || machines[1].request("PUT", "/v1/kv/key", "value"));
    // The one whose line says nothing about the others.
    let lost = machines.remove(0);
    let (address, bridge) = (lost.address.clone(), lost.bridge.clone());
    drop(lost);
    machines.insert(0, DockerMachine::start(1, &address, &bridge, ""));
    wait_for_one_cluster(&machines);
    eventually(PATIENCE, "it has what was written", || {
        let pairs = machines[0].request("GET", "/v1/kv/key?stale", "")?;
        (pairs[0]["Value"] == "dmFsdWU=").then_some(())
    });
}

#[test]
fn a_container_finds_another_by_its_name_alone_as_the_post_shows() {
    let addresses = HostAddresses::take(6);
    let machines = started_by_printed_lines(&addresses);
    wait_for_one_cluster(&machines);
    let uri = format!("consul://{}:8500", machines[0].address);
    let socket = ["-v", "/var/run/docker.sock:/tmp/docker.sock"];
    let _registrator = start("registrator", &socket, &["registrator", &uri]);
    let name = ImageName::new("micro-service");
    let web = name.run(&[]);
    let port = web.published_port("80/tcp");
    for machine in &machines {
        eventually(PATIENCE, "it is found on every machine", || {
            let found = dig(&machine.bridge, &[&name.question()]) == [machines[0].address.as_str()];
            let srv = dig(&machine.bridge, &["SRV", &name.question()]);
            (found && srv.len() == 1 && srv[0].split(' ').nth(2) == Some(&port.to_string())).then_some(())
        });
    }
    let (resolver, uri) = (&machines[2].bridge, format!("http://{}:{port}/", name.0));
    let options = ["--rm", "--dns", resolver, "--dns-search", "service.consul", IMAGE];
    let inside = |command: &[&str]| {
        let output = Command::new("docker").arg("run").args(options).args(command).output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let text = inside(&["/bin/nslookup", &name.question()]);
    assert!(text.contains(&format!("Address: {}", machines[0].address)), "{text}");
    let text = inside(&["/bin/wget", "-O-", &uri]);
    assert!(text.contains(&format!("({}:{port})", machines[0].address)), "the search domain is used: {text}");
    assert!(text.contains("404"), "the other container answers: {text}");
    web.tell(&["stop", "-t", "0"]);
    eventually(PATIENCE, "it is gone", || {
        inside(&["/bin/nslookup", &name.question()]).contains("NXDOMAIN").then_some(())
    });
}
