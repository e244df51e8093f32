//! The commands as a person or a script calls them, against a real agent: texts, exit codes, dashes, names.

use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::machine::{Machine, PATIENCE, formed};
use crate::support::{binary, corediscover, eventually, loopback};

/// The commands of `--help`; a command that has parts stands with them too.
pub(crate) fn commands() -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for command in listed(&[]) {
        let parts = listed(&[&command]);
        found.extend(parts.into_iter().map(|part| vec![command.clone(), part]));
        found.push(vec![command]);
    }
    found
}

/// What `COMMAND --help` prints.
#[track_caller]
pub(crate) fn help(command: &[&str]) -> String {
    let output = corediscover().args(command).arg("--help").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{command:?} --help");
    assert!(output.stderr.is_empty(), "{command:?} --help writes to stderr");
    String::from_utf8(output.stdout).unwrap()
}

/// The names below `Commands:` in a help text.
fn listed(command: &[&str]) -> Vec<String> {
    let text = help(command);
    let lines = text.lines().skip_while(|line| *line != "Commands:").skip(1);
    lines
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

#[track_caller]
fn fine(machine: &Machine, arguments: &[&str], printed: &str) {
    let (code, text, errors) = machine.command(arguments);
    assert_eq!((code, text.as_str(), errors.as_str()), (0, printed, ""), "{arguments:?}");
}

#[track_caller]
fn failed(machine: &Machine, arguments: &[&str], code: i32, errors: &str) {
    let (found, text, told) = machine.command(arguments);
    assert_eq!((found, text.as_str()), (code, ""), "{arguments:?}: {told}");
    assert!(told.contains(errors), "{arguments:?}: `{errors}` is not in: {told}");
}

fn rows(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split_whitespace().collect()).collect()
}

#[test]
fn every_command_explains_itself_and_refuses_flags_that_it_does_not_have() {
    let commands = commands();
    assert!(commands.len() > 15, "{commands:?}");
    for command in &commands {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let text = help(&words);
        assert!(text.contains("Usage: ") && text.contains("--help"), "{text}");
        let output = corediscover().args(&words).arg("--no-such-flag=1").output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {errors}");
        assert!(output.stdout.is_empty() && errors.contains("--no-such-flag"), "{words:?}: {errors}");
    }
    for wrong in [&["no-such-command"][..], &["kv", "no-such-part"], &["kv"], &[]] {
        let output = corediscover().args(wrong).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(output.stdout.is_empty() && errors.contains("Usage: "), "{wrong:?}: {errors}");
    }
}

#[test]
fn without_an_agent_every_command_says_where_it_looked_and_what_helps() {
    let address = format!("{}:8500", loopback());
    let commands: &[&[&str]] = &[
        &["members"],
        &["info"],
        &["status"],
        &["leave"],
        &["force-leave", "x"],
        &["kv", "get", "a"],
        &["kv", "put", "a", "b"],
        &["kv", "delete", "a"],
        &["kv", "export"],
        &["kv", "import", r#"[{"key": "a", "flags": 0, "value": ""}]"#],
        &["catalog", "nodes"],
        &["catalog", "services"],
        &["catalog", "datacenters"],
    ];
    for command in commands {
        let output = corediscover().args(*command).arg("-http-addr").arg(&address).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{command:?}: {errors}");
        assert!(output.stdout.is_empty(), "{command:?}");
        assert!(errors.contains(&address) && errors.contains("onnection refused"), "{command:?}: {errors}");
        assert!(errors.contains("\nhint: ") && errors.contains("CONSUL_HTTP_ADDR"), "{command:?}: {errors}");
    }
    let output = corediscover().args(["members", "-http-addr=ftp://a"]).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(errors.contains("ftp://a") && errors.contains("hint: "), "{errors}");
}

#[test]
fn the_program_has_the_manners_of_the_name_that_it_is_called_by() {
    let folder = tempfile::tempdir().unwrap();
    let called = |name: &str, arguments: &[&str]| {
        let path = folder.path().join(name);
        if !path.exists() {
            symlink(binary(), &path).unwrap();
        }
        let output = Command::new(path).args(arguments).stdin(Stdio::null()).env_clear().output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let protocol = "Protocol 2 spoken by default, understands 2 to 3 (agent will automatically use protocol >2 when \
                    speaking to compatible agents)\n\n";
    for arguments in [&["version"][..], &["-v"], &["--version"]] {
        let (code, text) = called("consul", arguments);
        assert_eq!(code, Some(0), "{arguments:?}");
        let lines: Vec<&str> = text.splitn(3, '\n').collect();
        assert!(lines[0].starts_with("Consul v1.") && lines[1].starts_with("Revision "), "{text}");
        assert_eq!(lines[2], protocol, "{arguments:?}");
    }
    let (_, text) = called("consul", &["version", "-format=json"]);
    let version: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(version["RPC"], json!({ "Default": 2, "Min": 2, "Max": 3 }));
    assert!(text.starts_with("{\n   \"Version\": \"1."), "{text}");
    let (code, text) = called("corediscover", &["version"]);
    assert!(code == Some(0) && text.starts_with("corediscover "), "{text}");
    let (code, text) = called("registrator", &["--help"]);
    assert!(code == Some(0) && text.contains("-resync") && text.contains("-ttl-refresh"), "{text}");
}

#[test]
fn keys_are_read_and_written_with_consuls_words() {
    let machine = Machine::agent("m1", &["-server", "-bootstrap"]).started();
    formed(&[&machine], 1);
    fine(&machine, &["kv", "put", "a/b", "one"], "Success! Data written to: a/b\n");
    fine(&machine, &["kv", "put", "-flags=42", "/a/c", "two"], "Success! Data written to: a/c\n");
    fine(&machine, &["kv", "put", "-base64", "d", "AAECgA=="], "Success! Data written to: d\n");
    fine(&machine, &["kv", "put", "empty"], "Success! Data written to: empty\n");
    fine(&machine, &["kv", "get", "a/b"], "one\n");
    fine(&machine, &["kv", "get", "--base64", "d"], "AAECgA==\n");
    fine(&machine, &["kv", "get", "empty"], "\n");
    fine(&machine, &["kv", "get", "-recurse", "a/"], "a/b:one\na/c:two\n");
    fine(&machine, &["kv", "get", "-keys", ""], "a/\nd\nempty\n");
    fine(&machine, &["kv", "get", "-keys", "-separator=", "a"], "a/b\na/c\n");
    fine(&machine, &["kv", "get", "-keys", "none/"], "");
    failed(&machine, &["kv", "get", "nokey"], 1, "Error! No key exists at: nokey\n");
    failed(&machine, &["kv", "get"], 1, "Missing KEY argument");

    let (_, text, _) = machine.command(&["kv", "get", "-detailed", "a/c"]);
    let names: Vec<&str> = rows(&text).iter().map(|row| row[0]).collect();
    assert_eq!(names, ["CreateIndex", "Flags", "Key", "LockIndex", "ModifyIndex", "Session", "Value"]);
    assert!(text.lines().all(|line| line.as_bytes()[16] == b' ' && line.as_bytes()[17] != b' '), "{text}");
    assert!(text.contains("Flags            42\n") && text.contains("Session          -\n"), "{text}");
    let index = rows(&text)[4][1].to_owned();

    failed(
        &machine,
        &["kv", "put", "-cas", "-modify-index=1", "a/c", "x"],
        1,
        "Error! Did not write to a/c: CAS failed\n",
    );
    failed(&machine, &["kv", "put", "-cas", "a/c", "x"], 1, "Must specify -modify-index with -cas!");
    failed(
        &machine,
        &["kv", "put", "-modify-index=0", "a/c"],
        1,
        "Cannot specify -modify-index without -cas!",
    );
    let right = format!("-modify-index={index}");
    fine(&machine, &["kv", "put", "-cas", &right, "a/c", "three"], "Success! Data written to: a/c\n");
    failed(
        &machine,
        &["kv", "delete", "-cas", &right, "a/c"],
        1,
        "Error! Did not delete key a/c: CAS failed\n",
    );
    failed(&machine, &["kv", "put", "x", "@/no/such/file"], 1, "/no/such/file");
    failed(&machine, &["kv", "put", "-base64", "x", "%"], 1, "Error! Cannot base 64 decode data");

    let exported = "[\n\t{\n\t\t\"key\": \"a/b\",\n\t\t\"flags\": 0,\n\t\t\"value\": \"b25l\"\n\t},\n\t{\n\t\t\"key\": \
                    \"a/c\",\n\t\t\"flags\": 0,\n\t\t\"value\": \"dGhyZWU=\"\n\t}\n]\n";
    fine(&machine, &["kv", "export", "a/"], exported);
    fine(&machine, &["kv", "delete", "-recurse", "a"], "Success! Deleted keys with prefix: a\n");
    fine(&machine, &["kv", "delete", "d"], "Success! Deleted key: d\n");
    fine(&machine, &["kv", "delete", "never"], "Success! Deleted key: never\n");
    fine(&machine, &["kv", "get", "-recurse", "a"], "");
    fine(&machine, &["kv", "export", "a/"], "[]\n");
    fine(&machine, &["kv", "import", exported], "Imported: a/b\nImported: a/c\n");
    fine(&machine, &["kv", "get", "a/c"], "three\n");
    failed(&machine, &["kv", "import", "{"], 1, "Error! Cannot unmarshal data");
    failed(
        &machine,
        &[
            "kv",
            "import",
            r#"[{"key": "e", "flags": 0, "value": "YQ=="}, {"key": "f", "flags": 0, "value": "%"}]"#,
        ],
        1,
        "the value of f is not base64",
    );
    failed(&machine, &["kv", "get", "e"], 1, "Error! No key exists at: e\n");

    // From a file and from standard input, any bytes.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("value");
    corediscover::host::files::write_atomic(&file, &[0, 1, 255], 0o600).unwrap();
    fine(
        &machine,
        &["kv", "put", "file", &format!("@{}", file.display())],
        "Success! Data written to: file\n",
    );
    fine(&machine, &["kv", "get", "-base64", "file"], "AAH/\n");
    let mut child = corediscover()
        .args(["kv", "put", "-http-addr", &machine.socket(8500).to_string(), "piped", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"from a pipe").unwrap();
    assert!(child.wait().unwrap().success());
    fine(&machine, &["kv", "get", "piped"], "from a pipe\n");
}

#[test]
fn members_and_catalog_are_listed_as_consul_lists_them() {
    let mut first = Machine::agent("m1", &["-server", "-bootstrap"]).started();
    let mut second = Machine::agent("m2", &["-node-meta", "rack:r1"]).started();
    let address = second.address.to_string();
    for machine in [&first, &second] {
        eventually(PATIENCE, "both agents answer", || machine.get("/v1/agent/self"));
    }
    fine(&first, &["join", &address], "Successfully joined cluster by contacting 1 nodes.\n");
    formed(&[&first, &second], 2);

    let (code, text, _) = second.command(&["members"]);
    let ports = [&first, &second].map(|machine| machine.socket(8301).to_string());
    let head = ["Node", "Address", "Status", "Type", "Build", "Protocol", "DC", "Partition", "Segment"];
    let table = rows(&text);
    assert_eq!((code, &table[0][..]), (0, &head[..]));
    let build = table[1][4];
    assert!(build.starts_with("1.") && !build.contains(':'));
    assert_eq!(table[1], ["m1", &ports[0], "alive", "server", build, "2", "dc1", "default", "<all>"]);
    assert_eq!(table[2], ["m2", &ports[1], "alive", "client", build, "2", "dc1", "default", "<default>"]);
    assert_eq!(text.lines().next().unwrap().find("Status"), text.lines().nth(1).unwrap().find("alive"));
    for two_spellings in ["-detailed", "--detailed"] {
        let (_, text, _) = first.command(&["members", two_spellings]);
        let table = rows(&text);
        assert_eq!(table[0], ["Node", "Address", "Status", "Tags"]);
        let tags: Vec<&str> = table[1][3].split(',').collect();
        assert!(tags.is_sorted() && tags.contains(&"role=consul") && tags.contains(&"dc=dc1"), "{tags:?}");
    }
    failed(&first, &["members", "-status=failed"], 2, "");
    failed(&first, &["members", "-status=("], 1, "is not a regular expression");
    let (_, text, _) = first.command(&["members", "-json"]);
    let members: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(members.as_array().unwrap().len(), 2);

    assert!(second.put("/v1/agent/service/register", r#"{"Name": "web", "Tags": ["b", "a"], "Port": 80}"#));
    eventually(PATIENCE, "web is in the catalog", || {
        (first.command(&["catalog", "services"]).1 == "consul\nweb\n").then_some(())
    });
    fine(&first, &["catalog", "datacenters"], "dc1\n");
    fine(&first, &["catalog", "services", "-tags"], "consul  \nweb     a,b\n");
    fine(&first, &["catalog", "services", "-node=m2"], "web\n");
    fine(&first, &["catalog", "services", "-node-meta=rack=r1"], "web\n");
    let (_, text, _) = first.command(&["catalog", "nodes"]);
    let table = rows(&text);
    assert_eq!(table[0], ["Node", "ID", "Address", "DC"]);
    assert_eq!((table[1][0], table[1][1].len(), table[1][3]), ("m1", 8, "dc1"));
    assert_eq!((table[2][0], table[2][2]), ("m2", address.as_str()));
    let (_, text, _) = first.command(&["catalog", "nodes", "-service=web"]);
    assert_eq!(rows(&text).iter().map(|row| row[0]).collect::<Vec<_>>(), ["Node", "m2"]);
    let (_, text, _) = first.command(&["catalog", "nodes", "-detailed"]);
    assert!(text.contains("rack=r1") && text.contains("lan="), "{text}");

    let (code, text, _) = second.command(&["info"]);
    assert_eq!(code, 0);
    let sections: Vec<&str> = text.lines().filter(|line| !line.starts_with('\t')).collect();
    assert!(
        sections.is_sorted()
            && ["agent:", "consul:", "runtime:", "serf_lan:"].iter().all(|name| sections.contains(name)),
        "{text}"
    );
    assert!(text.contains("\tserver = false\n") && text.contains("\tknown_servers = 1\n"), "{text}");
    assert!(first.command(&["info"]).1.contains("\tleader = true\n"));

    let (code, text, _) = second.command(&["status", "--json"]);
    let status: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &status["leader"]), (0, &json!(first.socket(8300).to_string())));
    assert_eq!((&status["members"][1]["role"], &status["services"]["web"]), (&json!("client"), &json!(1)));
    let (_, text, _) = second.command(&["status"]);
    assert!(text.starts_with(&format!("Leader {}, 1 voters, 0 may fail\n", first.socket(8300))), "{text}");

    // Failures, in Consul's words.
    let nobody = loopback().to_string();
    let text = format!("Error joining address '{nobody}': Unexpected response code: 500 (");
    failed(&first, &["join", &nobody], 1, &text);
    failed(&first, &["join", &nobody], 1, "Failed to join any nodes.\n");
    failed(&first, &["join"], 2, "Usage: ");
    let text = "Error force leaving: Unexpected response code: 500 (agent: No node found with name 'nobody')";
    failed(&first, &["force-leave", "nobody"], 1, text);

    // A machine that dies is failed, until it is told to have left.
    second.kill();
    eventually(PATIENCE, "m2 is failed", || {
        (first.command(&["members", "-status=failed"]).0 == 0).then_some(())
    });
    fine(&first, &["force-leave", "m2"], "");
    eventually(PATIENCE, "m2 has left", || {
        (first.command(&["members", "-status=left"]).0 == 0).then_some(())
    });
    fine(&first, &["leave"], "Graceful leave complete\n");
    assert_eq!(first.ended(), Some(0), "{}", first.log());
}
