//! Transcripts in `tests/scenarios/dns`, and properties that hold for any input.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use proptest::prelude::*;

use super::answer::shuffle;
use super::limit::bytes_max;
use super::wire::{Edns, Head, encode, parse_query};
use super::{
    Name, Outside, Policy, Question, Rcode, RecordType, Target, Transport, View, Zones, answer, fit,
};
use crate::model::catalog::{
    Catalog, Check, Command, NodeRegistration, Registration, Service, Status, Weights,
};

/// The world of one transcript: set-up lines change it, `dig` looks at it.
struct World {
    catalog: Catalog,
    zones: Zones,
    policy: Policy,
    hidden: BTreeSet<Arc<str>>,
}

impl World {
    fn new() -> Self {
        let zones = Zones {
            primary: "consul".parse().unwrap(),
            alternative: Some("test.alt".parse().unwrap()),
            datacenter: "dc1".to_owned(),
        };
        Self { catalog: Catalog::default(), zones, policy: Policy::default(), hidden: BTreeSet::new() }
    }

    fn register(&mut self, registration: Registration) {
        let command = Command::Register(Box::new(registration));
        self.catalog.apply(self.catalog.index() + 1, &command).result.unwrap();
    }

    fn node(&mut self, name: &str, address: &str, meta: BTreeMap<String, String>) {
        let node = NodeRegistration {
            node: name.to_owned(),
            address: address.to_owned(),
            datacenter: "dc1".to_owned(),
            meta: Some(meta),
            ..NodeRegistration::default()
        };
        self.register(Registration { node, ..Registration::default() });
    }

    fn on_node(&mut self, node: &str, service: Option<Service>, checks: Vec<Check>) {
        let node = NodeRegistration { node: node.to_owned(), ..NodeRegistration::default() };
        self.register(Registration { node, skip_node_update: true, service, checks });
    }

    fn set_up(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let pairs = |words: &[&str]| -> BTreeMap<String, String> {
            words
                .iter()
                .map(|word| word.split_once('=').expect(word))
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect()
        };
        match words.as_slice() {
            ["node", name, address, meta @ ..] => self.node(name, address, pairs(meta)),
            ["service", node, name, id, rest @ ..] => {
                let mut service =
                    Service { id: (*id).to_owned(), name: (*name).to_owned(), ..Service::default() };
                for (key, value) in pairs(rest) {
                    match key.as_str() {
                        "port" => service.port = value.parse().unwrap(),
                        "address" => service.address = value,
                        "tags" => service.tags = value.split(',').map(str::to_owned).collect(),
                        "weights" => {
                            let (passing, warning) = value.split_once('/').unwrap();
                            service.weights = Weights {
                                passing: passing.parse().unwrap(),
                                warning: warning.parse().unwrap(),
                            };
                        }
                        _ => panic!("{line}"),
                    }
                }
                self.on_node(node, Some(service), Vec::new());
            }
            ["services", name, count] => {
                for number in 0..count.parse::<u16>().unwrap() {
                    let [high, low] = number.to_be_bytes();
                    let node = format!("{name}{number}");
                    self.node(&node, &format!("10.9.{high}.{low}"), BTreeMap::new());
                    let service =
                        Service { id: (*name).into(), name: (*name).into(), port: 80, ..Service::default() };
                    self.on_node(&node, Some(service), Vec::new());
                }
            }
            ["check", node, service, status] => {
                let check = Check {
                    check_id: format!("check of {service}"),
                    status: Status::parse(status).unwrap(),
                    service_id: service.trim_matches('-').to_owned(),
                    ..Check::default()
                };
                self.on_node(node, None, vec![check]);
            }
            ["hide", node] => {
                self.hidden.insert(Arc::from(*node));
            }
            ["policy", rest @ ..] => {
                for (key, value) in pairs(rest) {
                    self.set_policy(&key, &value);
                }
            }
            _ => panic!("unknown line: {line}"),
        }
    }

    fn set_policy(&mut self, key: &str, value: &str) {
        let policy = &mut self.policy;
        let seconds = || Duration::from_secs(value.parse().unwrap());
        match key {
            "only_passing" => policy.only_passing = value == "true",
            "enable_truncate" => policy.enable_truncate = value == "true",
            "node_meta_txt" => policy.node_meta_txt = value == "true",
            "a_record_limit" => policy.a_record_limit = value.parse().unwrap(),
            "udp_answer_limit" => policy.udp_answer_limit = value.parse().unwrap(),
            "node_ttl" => policy.node_ttl = seconds(),
            "soa_min_ttl" => policy.soa.min_ttl = seconds(),
            service => {
                let service = service.strip_prefix("ttl:").expect(key);
                policy.service_ttl.insert(service.to_owned(), seconds());
            }
        }
    }

    fn view(&self) -> View<'_> {
        let Self { catalog, zones, policy, hidden } = self;
        View { catalog, zones, policy, hidden, seed: 7, time: 1_500_000_000 }
    }

    /// `dig NAME TYPE [+tcp] [+edns=SIZE] [+count]`; EDNS with 1232 bytes is the default, `+edns=0` turns it off.
    fn dig(&self, line: &str) -> String {
        let mut words = line.split_whitespace().skip(1);
        let name: Name = words.next().unwrap().parse().unwrap();
        let kind = RecordType::parse(words.next().unwrap_or("A")).unwrap();
        let (mut transport, mut edns, mut only_count) = (Transport::Udp, Some(1232), false);
        for word in words {
            match word {
                "+tcp" => transport = Transport::Tcp,
                "+count" => only_count = true,
                other => {
                    edns = other
                        .strip_prefix("+edns=")
                        .and_then(|size| size.parse().ok())
                        .filter(|size| *size > 0);
                }
            }
        }
        let question = Question::parse(&name, kind, &self.zones);
        let mut found = answer(&self.view(), &question);
        let head = head_of(&name, kind, edns);
        let bytes = fit(&mut found, &head, transport, &self.policy);
        let flags = [(found.authoritative, " aa"), (found.truncated, " tc")];
        let flags: String = flags.iter().filter(|(set, _)| *set).map(|(_, text)| *text).collect();
        let mut text = format!("{}{flags}\n", found.rcode);
        match &found.outside {
            Outside::Nothing => {}
            Outside::Question => text.push_str("ask a recursor\n"),
            Outside::Name(name) => writeln!(text, "ask a recursor for {name}").unwrap(),
        }
        if only_count {
            writeln!(text, "{} answers in {} bytes", found.answers.len(), bytes.len()).unwrap();
            return text;
        }
        for (title, records) in
            [("", &found.answers), ("; authority\n", &found.authority), ("; additional\n", &found.additional)]
        {
            if !records.is_empty() {
                text.push_str(title);
            }
            for record in records {
                writeln!(text, "{record}").unwrap();
            }
        }
        text
    }
}

fn head_of(name: &Name, kind: RecordType, edns: Option<u16>) -> Head {
    Head {
        id: 1,
        recursion_desired: true,
        recursion_available: false,
        name: name.clone(),
        kind,
        edns: edns.map(|size| Edns { size, options: Vec::new() }),
    }
}

/// Runs a transcript: blocks of set-up lines and one `dig`, `----`, the answer, an empty line.
fn replay(text: &str) -> String {
    let mut world = World::new();
    let mut output = String::new();
    let mut in_answer = false;
    for line in text.lines() {
        match line {
            "" => {
                in_answer = false;
                output.push('\n');
            }
            _ if in_answer => {}
            "----" => in_answer = true,
            line => {
                writeln!(output, "{line}").unwrap();
                if line.starts_with("dig ") {
                    write!(output, "----\n{}", world.dig(line)).unwrap();
                } else if !line.starts_with('#') {
                    world.set_up(line);
                }
            }
        }
    }
    output
}

fn scenarios() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios/dns");
    let mut paths: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn transcripts_are_as_written() {
    let paths = scenarios();
    assert!(paths.len() >= 5, "the transcripts are there");
    for path in paths {
        let wanted = std::fs::read_to_string(&path).unwrap();
        let found = replay(&wanted);
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            crate::host::files::write_atomic(&path, found.as_bytes(), 0o644).unwrap();
        } else {
            assert_eq!(found, wanted, "{}", path.display());
        }
    }
}

#[test]
fn names_mean_what_consul_says() {
    let zones = World::new().zones;
    let service = |name: &str, tag: Option<&str>| Target::Service {
        name: name.to_owned(),
        tag: tag.map(str::to_owned),
    };
    let a = RecordType::A;
    let cases = [
        ("consul", a, Target::Apex),
        ("web.service.consul", a, service("web", None)),
        ("WEB.Service.CONSUL", a, service("web", None)),
        ("web.service.test.alt", a, service("web", None)),
        ("primary.db.service.consul", a, service("db", Some("primary"))),
        ("v1.2.web.service.consul", a, service("web", Some("v1.2"))),
        ("web.service.dc1.consul", a, service("web", None)),
        ("web.service.dc1.dc.consul", a, service("web", None)),
        ("web.service.dc2.consul", a, Target::Nothing),
        ("web.service.x.dc1.consul", a, Target::Nothing),
        ("node.service.consul", a, service("node", None)),
        ("_web._tcp.service.consul", a, service("web", None)),
        ("_web._udp.service.consul", a, service("web", Some("udp"))),
        ("_web._http.service.dc1.consul", RecordType::SRV, service("web", Some("http"))),
        ("_web._tcp.consul", RecordType::SRV, service("web", None)),
        ("_web._tcp.dc1.consul", RecordType::SRV, service("web", None)),
        ("_web._tcp.consul", a, Target::Nothing),
        ("service.consul", a, Target::Nothing),
        ("web.consul", a, Target::Nothing),
        ("n1.node.consul", a, Target::Node("n1".to_owned())),
        ("t2.harbur.io.node.dc1.consul", a, Target::Node("t2.harbur.io".to_owned())),
        ("0a010203.addr.consul", a, Target::Address("10.1.2.3".parse().unwrap())),
        ("0a010203.addr.dc1.consul", a, Target::Address("10.1.2.3".parse().unwrap())),
        (
            "fd000000000000000000000000000001.addr.consul",
            RecordType::AAAA,
            Target::Address("fd00::1".parse().unwrap()),
        ),
        ("+a010203.addr.consul", a, Target::Nothing),
        ("0a0102.addr.consul", a, Target::Nothing),
        ("some.query.consul", a, Target::Nothing),
        ("web.connect.consul", a, Target::Nothing),
        ("example.com", a, Target::Outside),
        ("myconsul", a, Target::Outside),
        ("3.2.1.10.in-addr.arpa", RecordType::PTR, Target::Reverse(Some("10.1.2.3".parse().unwrap()))),
        ("2.1.10.in-addr.arpa", RecordType::PTR, Target::Reverse(None)),
        ("3.2.1.10.in-addr.arpa", a, Target::Outside),
        (
            "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.F.ip6.arpa",
            RecordType::PTR,
            Target::Reverse(Some("fd00::1".parse().unwrap())),
        ),
    ];
    for (name, kind, target) in cases {
        assert_eq!(Question::parse(&name.parse().unwrap(), kind, &zones).target, target, "{name} {kind}");
    }
}

#[test]
fn names_keep_their_spelling_and_refuse_what_does_not_fit() {
    for text in ["Web.Service.CONSUL.", ".", "a\\.b.c.", "\\000\\255."] {
        assert_eq!(text.parse::<Name>().unwrap().to_string(), text);
    }
    assert_eq!("a.b".parse::<Name>().unwrap().to_string(), "a.b.");
    for text in ["", "a..b", ".a", "a\\", "\\300", &"a".repeat(64), &"ab.".repeat(85)] {
        assert!(text.parse::<Name>().is_err(), "{text}");
    }
}

#[test]
fn every_order_comes_up() {
    let orders: BTreeSet<[u8; 3]> = (0..200)
        .map(|seed| {
            let mut items = [1, 2, 3];
            shuffle(&mut items, seed);
            items
        })
        .collect();
    assert_eq!(orders.len(), 6);
}

#[test]
fn a_written_question_is_read_back() {
    let name: Name = "Web.Service.Consul".parse().unwrap();
    let head = head_of(&name, RecordType::SRV, Some(4096));
    let mut bytes = encode(&super::Answer::empty(Rcode::NoError), &head, true);
    bytes[2] = 1;
    bytes[3] = 0;
    let query = parse_query(&bytes).unwrap();
    assert_eq!(query.head(false), head);
    bytes.push(0);
    assert_eq!(parse_query(&bytes), None, "bytes after the end are not usual");
}

fn large_world() -> World {
    let mut world = World::new();
    world.set_up("services web 100");
    for number in 0..40 {
        world.set_up(&format!("node m{number} fd00::{number} a={0} b={0}", "x".repeat(200)));
        world.set_up(&format!("service m{number} db db{number} port=1 address=10.3.0.{number}"));
    }
    world.set_up(&format!("node big 10.0.0.1 text={}", "y".repeat(900)));
    world
}

proptest! {
    #[test]
    fn random_bytes_never_break_the_parser(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let _ = parse_query(&bytes);
        let mut message = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
        message.extend(&bytes);
        let _ = parse_query(&message);
        let _ = super::wire::question_end(&message);
    }

    #[test]
    fn random_names_have_a_meaning(
        labels in prop::collection::vec(
            prop_oneof![
                "_?[a-zA-Z0-9.-]{1,9}".prop_map(String::into_bytes),
                prop::sample::select(vec!["service", "node", "addr", "query", "dc1", "dc", "_tcp", "arpa", "ip6"])
                    .prop_map(|label| label.as_bytes().to_vec()),
                prop::collection::vec(any::<u8>(), 1..64),
            ],
            0..9,
        ),
        kind in any::<u16>(),
        in_zone in any::<bool>(),
    ) {
        let zone: &[&[u8]] = if in_zone { &[b"consul"] } else { &[] };
        let world = World::new();
        let labels = labels.iter().map(Vec::as_slice).chain(zone.iter().copied());
        if let Some(name) = Name::from_labels(labels) {
            let question = Question::parse(&name, RecordType(kind), &world.zones);
            let found = answer(&world.view(), &question);
            prop_assert!(!in_zone || found.rcode != Rcode::Refused);
            prop_assert_eq!(name.to_string().parse::<Name>().unwrap(), name);
        }
    }

    #[test]
    fn answers_are_never_larger_than_the_client_takes(
        prefix in "[a-z]{1,50}", name in 0..4_usize, kind in 0..5_usize, edns in any::<Option<u16>>(),
    ) {
        static WORLD: LazyLock<World> = LazyLock::new(large_world);
        let world = &*WORLD;
        let name = ["web.service", "db.service", "big.node", "m1.node"][name];
        let kind = [RecordType::A, RecordType::SRV, RecordType::TXT, RecordType::ANY, RecordType::AAAA][kind];
        let name: Name = format!("{name}.consul").parse().unwrap();
        let question = Question::parse(&name, kind, &world.zones);
        // The question's own name may be long, too.
        let head = head_of(&name.under(&[prefix.as_str(); 3].join(".")).unwrap_or(name), kind, edns);
        let mut found = answer(&world.view(), &question);
        let bytes = fit(&mut found, &head, Transport::Udp, &world.policy);
        prop_assert!(bytes.len() <= bytes_max(Transport::Udp, edns));
        if bytes_max(Transport::Udp, edns) == 512 {
            prop_assert!(found.answers.len() <= 3);
        }
    }
}

#[test]
fn a_question_whose_name_is_longer_than_names_can_be_is_none() {
    let question = |last: u8| {
        let mut message = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for length in [63, 63, 63, last] {
            message.push(length);
            message.extend(std::iter::repeat_n(b'a', usize::from(length)));
        }
        message.extend([0, 0, 1, 0, 1]);
        message
    };
    // 255 bytes with lengths and root.
    let longest = question(61);
    assert_eq!(super::wire::question_end(&longest), Some(longest.len()));
    assert!(parse_query(&longest).is_some());
    assert_eq!(super::wire::question_end(&question(62)), None);
    assert!(parse_query(&question(62)).is_none());
}
