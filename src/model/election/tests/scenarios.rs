//! Stories in `tests/scenarios/election/*.txt`: commands, `----`, what every machine does, exactly.
//! `UPDATE_EXPECT=1` writes what happens now into the files; review the difference.
#![allow(clippy::disallowed_methods, reason = "rewrites files of the repository, on demand")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use super::gossip_world::{GossipWorld, Packet};
use super::telling::{Names, tell_action, tell_gossip_action};
use super::world::{Log, World};
use crate::model::election::birth::{Action, Event};
use crate::model::election::gossip_birth::{GossipAction, GossipEvent};

/// Rounds after which a story must have come to rest.
const ROUNDS_MAX: usize = 60;

#[test]
fn every_story_is_told_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios/election");
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let written = std::fs::read_to_string(&file).unwrap();
        let told = tell(&written, file.file_name().unwrap().to_str().unwrap().starts_with("gossip"));
        if update {
            std::fs::write(&file, &told).unwrap();
        } else {
            assert_eq!(told, written, "{} differs; UPDATE_EXPECT=1 rewrites it", file.display());
        }
    }
}

/// Plays the commands of a story; gives the whole text with what happened.
fn tell(written: &str, gossip: bool) -> String {
    let mut story: Box<dyn Story> =
        if gossip { Box::new(GossipStory::new()) } else { Box::new(StoreStory::new()) };
    let mut names = Names::default();
    let mut told = String::new();
    let mut commands = Vec::new();
    let mut expected = false;
    for line in written.lines() {
        if expected {
            expected = !line.is_empty();
            if line.is_empty() {
                told.push('\n');
            }
        } else if line == "----" {
            expected = true;
            told.push_str("----\n");
            for command in std::mem::take(&mut commands) {
                story.play(command);
            }
            for (text, machine) in story.incarnations() {
                names.know(&text, &machine);
            }
            for line in story.tell() {
                writeln!(told, "{}", names.replace(&line)).unwrap();
            }
        } else {
            if !line.is_empty() && !line.starts_with('#') {
                commands.push(line);
            }
            told.push_str(line);
            told.push('\n');
        }
    }
    told
}

trait Story {
    fn play(&mut self, command: &str);
    fn tell(&mut self) -> Vec<String>;
    fn incarnations(&self) -> Vec<(String, String)>;
}

struct StoreStory {
    world: World,
    store_up: bool,
    remembered: BTreeMap<String, String>,
}

impl StoreStory {
    fn new() -> Self {
        Self { world: World::new(1, 3, Log::Actions), store_up: true, remembered: BTreeMap::new() }
    }

    fn host(&self, name: &str) -> usize {
        self.world.hosts.iter().position(|host| host.name == name).unwrap_or_else(|| panic!("no host {name}"))
    }

    fn step(&mut self, host: usize) {
        if self.store_up {
            self.world.quiet(host);
            self.world.read(host);
            self.world.quiet(host);
        } else {
            if let Some(process) = &mut self.world.hosts[host].process {
                process.events.push_back(Event::StoreLost { reason: "connection refused".to_owned() });
            }
            while self.world.hosts[host].process.as_ref().is_some_and(|process| !process.events.is_empty()) {
                self.world.deliver(host, None);
            }
        }
    }

    /// Rounds until nobody does anything more.
    fn settle(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let before = self.world.log.len();
            for host in 0..self.world.hosts.len() {
                self.step(host);
            }
            self.world.form(0);
            for host in 0..self.world.hosts.len() {
                self.step(host);
            }
            if self.world.log.len() == before {
                return;
            }
        }
        panic!("the story does not come to rest");
    }
}

impl Story for StoreStory {
    fn play(&mut self, command: &str) {
        let words: Vec<&str> = command.split_whitespace().collect();
        match words.as_slice() {
            ["expect", number] => self.world.expect = number.parse().unwrap(),
            ["machines", names @ ..] => names.iter().for_each(|name| self.world.add_host(name, name)),
            ["clone", name, "of", machine_id] => self.world.add_host(name, machine_id),
            ["start", names @ ..] => {
                for name in names {
                    let host = self.host(name);
                    self.world.start(host);
                    self.step(host);
                }
            }
            ["start-together", names @ ..] => {
                // All read before anybody writes, at every step of the way.
                let hosts: Vec<usize> = names.iter().map(|name| self.host(name)).collect();
                for host in &hosts {
                    self.world.start(*host);
                }
                for _ in 0..4 {
                    for host in &hosts {
                        self.world.read(*host);
                        while self.world.hosts[*host].process.as_ref().is_some_and(|it| !it.events.is_empty())
                        {
                            self.world.deliver(*host, None);
                        }
                    }
                    for host in &hosts {
                        self.world.write(*host);
                    }
                }
            }
            ["crash", names @ ..] => {
                for name in names {
                    let host = self.host(name);
                    self.world.hosts[host].process = None;
                }
            }
            ["reboot", name] => {
                let host = self.host(name);
                self.world.hosts[host].process = None;
                self.world.hosts[host].boot += 1;
                self.world.start(host);
                self.step(host);
            }
            ["wipe", name] => {
                let host = self.host(name);
                self.world.hosts[host].process = None;
                self.world.hosts[host].disk = self.world.blank_disk();
            }
            ["lose-raft", name] => {
                let host = self.host(name);
                self.world.hosts[host].process = None;
                self.world.hosts[host].disk.raft = None;
            }
            ["expire", names @ ..] => {
                for name in names {
                    self.world.expire(&name.parse().unwrap());
                }
            }
            ["forget-cluster", name] => {
                let host = self.host(name);
                self.world.hosts[host].disk.local.record = None;
                self.world.hosts[host].disk.raft = None;
            }
            ["etcd", "down"] => self.store_up = false,
            ["etcd", "up"] => self.store_up = true,
            ["etcd", "wiped"] => {
                self.world.store.claims.clear();
                self.world.store.certificate = None;
            }
            ["step", names @ ..] => names.iter().for_each(|name| {
                let host = self.host(name);
                self.step(host);
            }),
            ["wait", seconds] => {
                for _ in 0..seconds.trim_end_matches('s').parse::<u64>().unwrap() {
                    self.world.now += std::time::Duration::from_secs(1);
                    for host in 0..self.world.hosts.len() {
                        if let Some(process) = &mut self.world.hosts[host].process {
                            process.events.push_back(Event::Timer);
                        }
                        self.step(host);
                    }
                }
            }
            ["settle"] => self.settle(),
            other => panic!("unknown command {other:?}"),
        }
        self.world.check_one_cluster();
    }

    fn tell(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        for (name, action) in std::mem::take(&mut self.world.log) {
            let Some(text) = tell_action(&action) else { continue };
            if matches!(action, Action::Persist(_))
                && self.remembered.insert(name.clone(), text.clone()).as_ref() == Some(&text)
            {
                continue;
            }
            lines.push(format!("{name}: {text}"));
        }
        lines
    }

    fn incarnations(&self) -> Vec<(String, String)> {
        let hosts = self.world.hosts.iter();
        hosts.map(|host| (host.disk.incarnation.to_string(), host.name.clone())).collect()
    }
}

struct GossipStory {
    world: GossipWorld,
    remembered: BTreeMap<String, String>,
}

impl GossipStory {
    fn new() -> Self {
        Self { world: GossipWorld::new(1, Log::Actions), remembered: BTreeMap::new() }
    }

    fn server(&self, name: &str) -> usize {
        self.world.servers.iter().position(|it| it.name == name).unwrap_or_else(|| panic!("no server {name}"))
    }
}

impl Story for GossipStory {
    fn play(&mut self, command: &str) {
        let words: Vec<&str> = command.split_whitespace().collect();
        match words.as_slice() {
            ["server", name, "bootstrap"] => self.world.add(name, None, true),
            ["server", name, "expect", number] => {
                self.world.add(name, Some(number.parse().unwrap()), false);
            }
            ["server", name, "join"] => self.world.add(name, None, false),
            ["start", names @ ..] => names.iter().for_each(|name| {
                let server = self.server(name);
                self.world.start(server);
            }),
            ["start-blind", name] => {
                let server = self.server(name);
                self.world.start_blind(server);
            }
            ["look", name] => {
                let server = self.server(name);
                self.world.step(server, GossipEvent::Looked, None);
            }
            ["crash", names @ ..] => names.iter().for_each(|name| {
                let server = self.server(name);
                self.world.servers[server].process = None;
            }),
            ["see", name, others @ ..] => {
                let others: Vec<usize> = others.iter().map(|other| self.server(other)).collect();
                let server = self.server(name);
                self.world.show(server, &others);
            }
            ["wait", "0.5s"] => self.world.now += std::time::Duration::from_millis(500),
            ["tick", names @ ..] => names.iter().for_each(|name| {
                let server = self.server(name);
                self.world.now += std::time::Duration::from_secs(4);
                self.world.step(server, GossipEvent::Timer, None);
            }),
            // All that is under way to these servers arrives, in order.
            ["arrive", names @ ..] => {
                let to: Vec<usize> = names.iter().map(|name| self.server(name)).collect();
                let packets = std::mem::take(&mut self.world.packets);
                for packet in packets {
                    let (Packet::Request { to: target, .. } | Packet::Reply { to: target, .. }) = &packet;
                    if to.contains(target) {
                        self.world.transport(packet, None);
                    } else {
                        self.world.packets.push(packet);
                    }
                }
            }
            ["lose-all"] => self.world.packets.clear(),
            ["form"] => self.world.form(),
            ["settle"] => {
                for _ in 0..ROUNDS_MAX {
                    self.world.round();
                }
            }
            other => panic!("unknown command {other:?}"),
        }
        self.world.check();
    }

    fn tell(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        for (name, action) in std::mem::take(&mut self.world.log) {
            let text = tell_gossip_action(&action);
            if matches!(action, GossipAction::Persist(_))
                && self.remembered.insert(name.clone(), text.clone()).as_ref() == Some(&text)
            {
                continue;
            }
            lines.push(format!("{name}: {text}"));
        }
        lines
    }

    fn incarnations(&self) -> Vec<(String, String)> {
        self.world.servers.iter().map(|it| (it.incarnation.to_string(), it.name.clone())).collect()
    }
}
