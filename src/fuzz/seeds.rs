//! Where fuzzing begins: what the real encoders write, and texts by hand. Kept in `fuzz/seeds/`.

use std::time::Duration;

use crate::agent::{consensus, rpc};
use crate::model::dns::wire::encode_query;
use crate::model::dns::{Name, RecordType};
use crate::model::election::certificate::{Certificate, bind, form, freeze};
use crate::model::election::{BirthRequest, Claim, ClaimDetails, ClusterTag, Incarnation};
use crate::model::membership::{Config, Input, Output, Swim, Tags};
use crate::model::names::ClusterId;
use crate::model::provision::cloud_config::cloud_config;
use crate::model::provision::spec::Spec;
use crate::model::provision::units::{Manager, unit_files};

/// The seeds of a target with their file names.
pub(super) fn of(target: &str) -> Vec<(String, Vec<u8>)> {
    let seeds = match target {
        "claims" => claims(),
        "config_file" => texts(&[
            r#"{"server": true, "bootstrap_expect": 3, "retry_join": ["10.0.0.1"], "ports": {"dns": 53, "http": -1}}"#,
            r#"{"dns_config": {"node_ttl": "5s", "service_ttl": {"*": "1s"}, "soa": {"min_ttl": 1}}, "recursors": ["1.1.1.1"]}"#,
            r#"{"node_meta": {"a": "b"}, "service": {"name": "web", "port": 80, "check": {"ttl": "10s"}}}"#,
            r#"{"services": [{"name": "a"}], "checks": [{"name": "c", "tcp": "127.0.0.1:1", "interval": "1s"}]}"#,
        ]),
        "config_hcl" => texts(&[
            "server = true\nbootstrap_expect = 3 # first\nretry_join = [\"10.0.0.1\",]\nports { dns = 53, http = -1 }\n",
            "services { name = \"web\" check { ttl = \"10s\" } }\nservices { name = \"db\" port = 0x50 }\n",
            "node_meta { \"a\" = <<-END\n  one\n  END\n}\n/* \"${x}\" */ datacenter = \"\\u0061${b[\"c\"]}\" // dc\n",
        ]),
        "dns_message" => questions(),
        "etcd_v2" => etcd_answers(),
        "fleet" => texts(&[
            "machine-id 0123\nuser 0\nhostname a\narchitecture x86_64\nconnection 10.0.0.9 5 10.0.0.1 22\nsystemd yes\n\
             unit a.service launched 26\n[Service]\nExecStart=/bin/a\n\n\nLoadState=loaded\nActiveState=active\nend\n",
            "file /proc/net/fib_trie\n     |-- 10.0.0.1\n        /32 host LOCAL\nfile /proc/net/route\nIface\n\
             eth0\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\nfile birth\n{\"born\":true}\nfile members\n[{\"name\":\"a\"}]\n",
            "host,!h?st*,|1|AAAA|BBBB ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA x\n@revoked * ssh-rsa AAAA\n",
            "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAACmFlczI1Ni1jdHI=\n",
            "core@[fd00::1]:22 role=web,disk=ssd # x\nHost a\n  HostName 10.0.0.1\n  Port 22\n  IdentityFile \"/k\"\n",
            "[X-Fleet]\nMachineMetadata=\"a=b\" \"c=d\"\nConflicts=%p@*.service [a-c]?\\*\nMachineOf=x\n",
            "w*[^a-c]?b@*.service\nweb@1.service",
        ]),
        "gossip" => gossip(),
        "gossip_birth" => births(),
        "http_body" => texts(&[
            r#"{"Node": "n", "Address": "10.0.0.1", "Service": {"Service": "web", "Tags": ["a"], "Port": 80,
                "Meta": {"k": "v"}, "Weights": {"Passing": 1, "Warning": 2}}, "Check": {"Name": "c", "Status": "passing"}}"#,
            r#"{"Name": "web", "ID": "web-1", "Port": 8080, "Check": {"HTTP": "http://127.0.0.1/", "Interval": "10s",
                "Timeout": "1s", "DeregisterCriticalServiceAfter": "1m"}, "TaggedAddresses": {"lan": {"Address": "a", "Port": 1}}}"#,
            r#"{"ID": "c", "Name": "c", "TTL": "15s", "ServiceID": "web", "Status": "warning", "Notes": "\u00e9\n"}"#,
            r#"{"Node": "n", "ServiceID": "web", "CheckID": "c", "Datacenter": "dc1"}"#,
            r#"{"Status": "critical", "Output": "it is down", "x": [1, -2.5e3, true, null, {"y": []}]}"#,
        ]),
        "http_query" => texts(&[
            "index=7&wait=10s&stale&dc=dc1&near=_agent",
            "consistent&node-meta=a:b&node-meta=c:d&tag=x&passing=1&pretty",
            "max_stale=5m&cas=3&flags=42&recurse=true&separator=%2F&raw&keys",
            "filter=Service.Tags%20contains%20%22x%22%20and%20not%20(Node.Node%20%3D%3D%20a%20or%20Service.Meta.k%20matches%20%60%5Ev%60)",
            "filter=Checks.Status+!%3D+critical+and+Service.Port+in+80+or+Service.Meta+is+not+empty",
            "wait=1h2m3.5s&index=18446744073709551615&max_stale=-1ns",
        ]),
        "log_segment" => consensus::fuzz::log_seeds(),
        "rpc_frames" => rpc::fuzz::seeds(),
        "rpc_messages" => consensus::fuzz::message_seeds(),
        "snapshot" => consensus::fuzz::snapshot_seeds(),
        "user_data" => user_data(),
        other => panic!("no seeds for {other}"),
    };
    seeds.into_iter().enumerate().map(|(number, seed)| (format!("{:02}", number + 1), seed)).collect()
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Parts, each behind its length.
fn parts<T: AsRef<[u8]>>(parts: impl IntoIterator<Item = T>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        let part = part.as_ref();
        bytes.extend_from_slice(&u16::try_from(part.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

fn details(number: u128, cluster: Option<ClusterTag>) -> ClaimDetails {
    ClaimDetails {
        incarnation: Incarnation::from_random(number),
        name: format!("m{number}"),
        boot_id: "boot".to_owned(),
        version: "1".to_owned(),
        cluster,
    }
}

fn certificate() -> Certificate {
    let claims: Vec<Claim> = (1..=3)
        .map(|number| Claim {
            machine_id: format!("m{number}").parse().unwrap(),
            address: format!("10.0.0.{number}"),
            details: details(number, None),
            created: 1,
            revision: 1,
        })
        .collect();
    freeze(&claims, 3, ClusterId::from_random(7)).unwrap()
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap()
}

fn claims() -> Vec<Vec<u8>> {
    let frozen = certificate();
    let bound = bind(&frozen, &Incarnation::from_random(2)).unwrap();
    let tag = |formed| Some(ClusterTag { id: frozen.cluster_id.clone(), formed });
    let claimed = |tags: [Option<ClusterTag>; 3]| {
        let mut pairs = Vec::new();
        for (number, tag) in (1..).zip(tags) {
            pairs.extend([format!("machines/m{number}"), format!("10.0.0.{number}")]);
            pairs.extend([format!("incarnations/m{number}"), json(&details(number, tag))]);
        }
        pairs
    };
    let blank = || claimed([None, None, None]);
    let with = |mut pairs: Vec<String>, key: &str, value: String| {
        pairs.extend([key.to_owned(), value]);
        parts(pairs)
    };
    let record = |formed| {
        let record = serde_json::json!({
            "cluster_id": frozen.cluster_id, "role": "server", "formed": formed, "certificate": frozen
        });
        format!(r#"{{"record": {record}, "peers": ["10.0.0.2"]}}"#)
    };
    vec![
        parts(blank()),
        with(blank(), "cluster", json(&frozen)),
        with(blank(), "cluster", json(&bound)),
        with(claimed([tag(true), tag(true), None]), "cluster", json(&form(&bound))),
        with(claimed([tag(false), None, None]), "birth.json", record(false)),
        with(claimed([tag(true), None, None]), "birth.json", record(true)),
    ]
}

fn births() -> Vec<Vec<u8>> {
    let (certificate, to) = (certificate(), Incarnation::from_random(1));
    let accept = BirthRequest::Accept {
        certificate: certificate.clone(),
        proposer: Incarnation::from_random(2),
        to: to.clone(),
    };
    let settle = BirthRequest::Settle { certificate: certificate.clone(), to: to.clone() };
    let withdraw = BirthRequest::Withdraw { certificate, to };
    let encoded = [&accept, &settle, &withdraw].map(|request| rpc::encode(request).unwrap());
    vec![parts(&encoded[..1]), parts(&encoded), parts([&b""[..], &encoded[1], b"", &encoded[2]])]
}

fn questions() -> Vec<Vec<u8>> {
    let plain = |name: &str, kind| {
        let name: Name = name.parse().unwrap();
        encode_query(&name, kind)
    };
    let mut seeds = vec![
        plain("web.service.consul", RecordType::A),
        plain("_web._tcp.service.consul", RecordType::SRV),
        plain("a.web.service.dc1.consul", RecordType::ANY),
        plain("node1.node.alt.example", RecordType::TXT),
        plain("1.0.0.10.in-addr.arpa", RecordType::PTR),
        plain("consul", RecordType::SOA),
        plain("7f000001.addr.consul", RecordType::AAAA),
    ];
    let mut subnet = seeds[0].clone();
    let at = subnet.len() - 2;
    subnet.splice(at.., [0, 11, 0, 8, 0, 7, 0, 1, 24, 0, 10, 1, 2]);
    let mut compressed = vec![0, 1, 1, 0, 0, 2, 0, 0, 0, 0, 0, 0, 3, b'w', b'e', b'b', 0, 0, 1, 0, 1];
    compressed.extend([0xc0, 12, 0, 1, 0, 1]);
    let mut notify = seeds[5].clone();
    notify[2] = 0x20;
    seeds.extend([subnet, compressed, notify]);
    seeds
}

fn etcd_answers() -> Vec<Vec<u8>> {
    let value = |key: &str, value: &str, index: u64| {
        serde_json::json!({"key": key, "value": value, "modifiedIndex": index, "createdIndex": index,
            "expiration": "2026-01-01T00:00:00Z", "ttl": 59})
    };
    let tree = serde_json::json!({"action": "get", "node": {"key": "/p", "dir": true, "nodes": [
        {"key": "/p/machines", "dir": true, "nodes": [value("/p/machines/m2", "10.0.0.2", 4)]},
        {"key": "/p/incarnations", "dir": true, "nodes": [
            value("/p/incarnations/m2", &json(&details(2, None)), 5)
        ]},
        value("/p/cluster", &json(&certificate()), 6),
    ]}});
    let event = serde_json::json!({"action": "compareAndSwap", "node": value("/p/machines/m2", "10.0.0.2", 9),
        "prevNode": value("/p/machines/m2", "10.0.0.2", 4)});
    let fault =
        |code: u32| format!(r#"{{"errorCode":{code},"message":"Key not found","cause":"/p/x","index":7}}"#);
    [
        (200, tree.to_string()),
        (200, event.to_string()),
        (404, fault(100)),
        (412, fault(101)),
        (400, fault(401)),
        (404, "404 page not found".to_owned()),
        (200, r#"{"etcdserver":"2.3.8","etcdcluster":"2.3.0"}"#.to_owned()),
        (200, "etcd 2.0.12".to_owned()),
    ]
    .into_iter()
    .map(|(status, body): (u16, String)| [&status.to_be_bytes()[..], body.as_bytes()].concat())
    .collect()
}

/// What another member really sends, first as it came, then as a story.
fn gossip() -> Vec<Vec<u8>> {
    let (here, there) = (([127, 0, 0, 1], 8301).into(), ([127, 0, 0, 2], 8301).into());
    let mut other = Swim::new(Config::default(), "other".to_owned(), there, Tags::default(), 2);
    let mut seen = Vec::new();
    let mut note = |outputs: Vec<Output>| {
        for output in outputs {
            match output {
                Output::Exchange { exchange, bytes, .. } => {
                    seen.push((exchange, [&[0][..], &bytes].concat()));
                }
                Output::Reply { bytes: Some(bytes), .. } => seen.push((0, [&[1][..], &bytes].concat())),
                Output::Datagram { bytes, .. } => seen.push((0, [&[0x17][..], &bytes].concat())),
                Output::Reply { bytes: None, .. } | Output::Event(_) => {}
            }
        }
    };
    note(other.step(Duration::ZERO, Input::Join { request: 1, to: here }));
    let mut me = Swim::new(Config::default(), "me".to_owned(), here, Tags::default(), 1);
    let mut asked = me.step(Duration::ZERO, Input::Join { request: 1, to: there });
    if let Some(Output::Exchange { bytes, .. }) = asked.pop() {
        note(other.step(Duration::ZERO, Input::StreamRequest { stream: 1, bytes }));
    }
    for tenths in 1..40 {
        note(other.step(Duration::from_millis(tenths * 100), Input::Tick));
    }
    note(other.step(Duration::from_secs(5), Input::Leave));
    let messages: Vec<Vec<u8>> = seen.into_iter().map(|(_, bytes)| bytes).collect();
    let mut seeds: Vec<Vec<u8>> = messages.iter().take(12).map(|message| parts([message])).collect();
    let joined: Vec<Vec<u8>> = [vec![3], vec![2]].into_iter().chain(messages).collect();
    seeds.push(parts(joined));
    seeds
}

fn user_data() -> Vec<Vec<u8>> {
    let spec = Spec::default();
    let mut seeds = vec![cloud_config(&spec).unwrap().into_bytes()];
    for manager in [Manager::Systemd, Manager::Fleet] {
        seeds.extend(unit_files(&spec, manager).unwrap().into_iter().map(|file| file.text.into_bytes()));
    }
    seeds
}
