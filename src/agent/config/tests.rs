//! What configurations say, and what is said about bad ones.

use std::path::PathBuf;

use super::{Dialect, Fragment, HttpAddress, Settings, parse_file, read_paths};
use crate::agent::members::PEERS_FILE;
use crate::host::files::{MODE_PUBLIC, write_atomic};

fn valid() -> Fragment {
    Fragment {
        data_dir: Some(PathBuf::from("/data")),
        bind_addr: Some("127.0.0.1".to_owned()),
        ..Fragment::default()
    }
}

#[track_caller]
fn refused(fragment: Fragment, text: &str) {
    let error = Settings::check(valid().merge(fragment), "host").unwrap_err();
    assert!(error.chain().any(|cause| cause.to_string() == text), "{error:?}");
}

#[test]
fn defaults_are_consuls() {
    let settings = Settings::check(valid(), "host").unwrap();
    assert_eq!((settings.node_name.as_str(), settings.datacenter.as_str()), ("host", "dc1"));
    assert_eq!((settings.ports.dns, settings.ports.http), (Some(8600), Some(8500)));
    assert_eq!(settings.http, [HttpAddress::Ip([127, 0, 0, 1].into())]);
    assert!(!settings.server && settings.leaves_on(crate::tasks::StopRequest::Terminate, false));
}

#[test]
fn mistakes_are_told_in_consuls_words() {
    let fragment = Fragment::default;
    refused(Fragment { data_dir: Some(PathBuf::new()), ..fragment() }, "data_dir cannot be empty");
    refused(
        Fragment { bootstrap_expect: Some(3), ..fragment() },
        "'bootstrap_expect > 0' requires 'server = true'",
    );
    refused(Fragment { bootstrap: Some(true), ..fragment() }, "'bootstrap = true' requires 'server = true'");
    refused(
        Fragment { bootstrap: Some(true), bootstrap_expect: Some(3), server: Some(true), ..fragment() },
        "'bootstrap_expect > 0' and 'bootstrap = true' are mutually exclusive",
    );
    refused(
        Fragment { bootstrap_expect: Some(-1), ..fragment() },
        "bootstrap_expect cannot be -1. Must be greater than or equal to zero",
    );
    refused(
        Fragment { advertise_addr: Some("0.0.0.0".to_owned()), ..fragment() },
        "Advertise address cannot be 0.0.0.0, :: or [::]",
    );
    refused(Fragment { node_name: Some(" ".to_owned()), ..fragment() }, "node_name cannot be empty");
    refused(
        Fragment { datacenter: Some("d c".to_owned()), ..fragment() },
        "datacenter can only contain lowercase alphanumeric, - or _ characters.",
    );
}

#[test]
fn files_are_strict_about_names_and_tolerant_about_types() {
    let text = r#"{"ports": {"http": "18500", "dns": -1}, "recursors": "8.8.8.8", "server": "true",
        "dns_config": {"service_ttl": {"web": "5s"}}, "service": {"name": "web"}, "disable_update_check": true}"#;
    let fragment = parse_file("a.json", Dialect::Json, text).unwrap();
    assert_eq!((fragment.port_http, fragment.port_dns, fragment.server), (Some(18500), Some(-1), Some(true)));
    assert_eq!((fragment.recursors.len(), fragment.services.len(), fragment.warnings.len()), (1, 1, 1));
    let error = parse_file("a.json", Dialect::Json, r#"{"foo": 1}"#).unwrap_err();
    assert_eq!(error.to_string(), "failed to parse a.json: 1 error occurred:\n\t* invalid config key foo\n");
    assert!(parse_file("a.json", Dialect::Json, "{").unwrap_err().to_string().starts_with("hint: "));
}

#[test]
fn later_sources_win_and_lists_grow() {
    let file =
        parse_file("a.json", Dialect::Json, r#"{"node_name": "a", "retry_join": ["10.0.0.1"]}"#).unwrap();
    let flags = Fragment {
        node_name: Some("b".to_owned()),
        retry_join: vec!["10.0.0.2".to_owned()],
        ..Fragment::default()
    };
    let merged = file.merge(flags);
    assert_eq!((merged.node_name.as_deref(), merged.retry_join.len()), (Some("b"), 2));
}

#[test]
fn limits_are_consuls_and_can_be_changed() {
    let defaults = Settings::check(valid(), "host").unwrap();
    assert_eq!((defaults.http_connections_per_client, defaults.kv_value_bytes), (Some(200), 524_288));
    let text = r#"{"limits": {"http_max_conns_per_client": 5, "kv_max_value_size": 1000, "rpc_rate": 3}}"#;
    let fragment = parse_file("a.json", Dialect::Json, text).unwrap();
    assert_eq!(fragment.warnings, ["the configuration key limits.rpc_rate has no effect"]);
    let settings = Settings::check(valid().merge(fragment), "host").unwrap();
    assert_eq!((settings.http_connections_per_client, settings.kv_value_bytes), (Some(5), 1000));
    let off = parse_file("a.json", Dialect::Json, r#"{"limits": {"http_max_conns_per_client": 0}}"#).unwrap();
    assert_eq!(Settings::check(valid().merge(off), "host").unwrap().http_connections_per_client, None);
    let error = parse_file("a.json", Dialect::Json, r#"{"limits": {"http_max_cons": 5}}"#).unwrap_err();
    assert!(error.to_string().contains("invalid config key limits.http_max_cons"), "{error:#}");
    let large = Fragment { limits_kv_max_value_size: Some(5 << 20), ..Fragment::default() };
    refused(large, "limits.kv_max_value_size cannot be 5242880");
}

#[test]
fn hcl_says_what_json_says() {
    let hcl = r#"
        server = true
        node_name = "a"
        ports { dns = "53" }
        dns_config { soa { min_ttl = 3 } }
        service {
          name = "web"
          checks { id = "up" ttl = "10s" }
        }
        service { name = "db" }
    "#;
    let json = r#"{"server": true, "node_name": "a", "ports": {"dns": "53"}, "dns_config": {"soa": {"min_ttl": 3}},
        "services": [{"name": "web", "checks": [{"id": "up", "ttl": "10s"}]}, {"name": "db"}]}"#;
    let read = |dialect, text| parse_file("a", dialect, text).unwrap();
    let fragment = read(Dialect::Hcl, hcl);
    assert_eq!(fragment, read(Dialect::Json, json));
    assert_eq!(fragment.services[0].service().unwrap().checks.len(), 1);
}

#[test]
fn mistakes_in_hcl_are_told_with_file_and_place() {
    let told = |text| format!("{:#}", parse_file("a.hcl", Dialect::Hcl, text).unwrap_err());
    assert!(told("server = yes").contains("failed to parse a.hcl: line 1, column 10: `yes` is not a value"));
    assert!(told("srever = true").contains("invalid config key srever"), "{}", told("srever = true"));
}

#[test]
fn addresses_can_be_templates_as_consuls() {
    let loopback =
        "{{ GetAllInterfaces | include \"name\" \"^lo$\" | include \"type\" \"ipv4\" | attr \"address\" }}";
    let fragment = Fragment {
        bind_addr: Some(loopback.to_owned()),
        client_addr: Some(format!("127.0.0.9 {loopback}")),
        ..Fragment::default()
    };
    let settings = Settings::check(valid().merge(fragment), "host").unwrap();
    assert_eq!((settings.bind, settings.advertise), ([127, 0, 0, 1].into(), [127, 0, 0, 1].into()));
    assert_eq!(settings.dns, [[127, 0, 0, 9].into(), std::net::IpAddr::from([127, 0, 0, 1])]);
    assert_eq!(settings.http.len(), 2);
    assert_eq!(settings.advertise_reason, None, "nothing was chosen");
}

#[test]
fn an_address_that_says_too_much_or_nothing_is_refused() {
    let bind = |text: &str| Fragment { bind_addr: Some(text.to_owned()), ..Fragment::default() };
    let advertise = |text: &str| Fragment { advertise_addr: Some(text.to_owned()), ..Fragment::default() };
    refused(bind("127.0.0.1 127.0.0.2"), "bind_addr cannot contain multiple addresses");
    let none = "{{ GetInterfaceIP \"none0\" }}";
    refused(bind(none), &format!("bind_addr: the template {none} gives no address"));
    let error = Settings::check(valid().merge(advertise("eth0")), "host").unwrap_err();
    assert!(format!("{error:#}").contains("interface:NAME"), "{error:#}");
    let error = Settings::check(valid().merge(advertise("{{ GetMyIP }}")), "host").unwrap_err();
    assert!(format!("{error:#}").contains("no function `GetMyIP`"), "{error:#}");
    let error = Settings::check(valid().merge(advertise("interface:lo")), "host").unwrap_err();
    assert!(format!("{error:#}").contains("127.0.0.1 (lo): loopback"), "{error:#}");
}

#[test]
fn a_new_machine_does_not_guess_whether_a_name_that_is_unknown_is_its_own() {
    let data_dir = tempfile::tempdir().unwrap();
    let fragment = |servers: &[&str]| Fragment {
        server_at: servers.iter().map(|name| (*name).to_owned()).collect(),
        advertise_addr: Some("240.0.2.3".to_owned()),
        bootstrap_expect: Some(3),
        data_dir: Some(data_dir.path().to_owned()),
        ..valid()
    };
    let error = format!("{:#}", Settings::check(fragment(&["no-such-host.invalid"]), "host-9").unwrap_err());
    assert!(error.contains("-server-at no-such-host.invalid: its address is not known"), "{error}");
    assert!(Settings::check(fragment(&["no-such-host.invalid", "240.0.2.3"]), "host-9").unwrap().server);
    // It has met its cluster before: that it starts counts more.
    write_atomic(&data_dir.path().join(PEERS_FILE), b"{}", MODE_PUBLIC).unwrap();
    let settings = Settings::check(fragment(&["no-such-host.invalid"]), "host-9").unwrap();
    let warning = settings.warnings.iter().any(|warning| warning.contains("no-such-host.invalid: taken for"));
    assert!(!settings.server && warning, "{:?}", settings.warnings);
}

#[test]
fn of_a_folder_all_files_are_read_when_their_language_is_said() {
    let folder = tempfile::tempdir().unwrap();
    write_atomic(&folder.path().join("consul.conf"), b"datacenter = \"zz\"\n", MODE_PUBLIC).unwrap();
    std::fs::create_dir(folder.path().join("more")).unwrap();
    let paths = [folder.path().to_owned()];
    assert_eq!(read_paths(&paths, None).unwrap().datacenter, None);
    assert_eq!(read_paths(&paths, Some(Dialect::Hcl)).unwrap().datacenter.as_deref(), Some("zz"));
    assert!(read_paths(&paths, Some(Dialect::Json)).is_err());
}

#[test]
fn an_empty_list_of_addresses_is_refused_by_its_own_name() {
    let template = "{{ GetInterfaceIP \"nosuch0\" }}".to_owned();
    for (fragment, reason) in [
        (Fragment { addresses_dns: Some(String::new()), ..valid() }, "addresses.dns cannot be empty"),
        (Fragment { addresses_http: Some(" ".to_owned()), ..valid() }, "addresses.http cannot be empty"),
        (Fragment { client_addr: Some(String::new()), ..valid() }, "client_addr cannot be empty"),
        (Fragment { addresses_dns: Some(template), ..valid() }, "addresses.dns: the template"),
    ] {
        let error = format!("{:#}", Settings::check(fragment, "host-9").unwrap_err());
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn what_is_nobodys_own_address_is_not_advertised() {
    for address in ["224.0.0.1", "255.255.255.255", "ff02::1"] {
        let fragment = Fragment { advertise_addr: Some(address.to_owned()), ..valid() };
        let error = format!("{:#}", Settings::check(fragment, "host-9").unwrap_err());
        assert!(error.contains(&format!("{address} is nobody's own address")), "{error}");
    }
}

#[test]
fn a_machine_is_a_server_if_it_is_named_as_one() {
    let named = |servers: &[&str], advertise: &str| Fragment {
        server_at: servers.iter().map(|name| (*name).to_owned()).collect(),
        advertise_addr: Some(advertise.to_owned()),
        bootstrap_expect: Some(3),
        ..valid()
    };
    let check = |fragment: Fragment| {
        let settings = Settings::check(fragment, "host-9").unwrap();
        (settings.server, settings.expect)
    };
    assert_eq!(check(named(&["240.0.2.1", "240.0.2.2"], "240.0.2.2")), (true, Some(3)));
    assert_eq!(check(named(&["240.0.2.1", "240.0.2.2"], "240.0.2.3")), (false, None));
    assert_eq!(check(named(&["HOST-9"], "240.0.2.3")), (true, Some(3)));
    assert_eq!(check(named(&["127.0.0.1"], "240.0.2.3")), (true, Some(3)));
    // A name of this machine that only its own /etc/hosts knows: localhost is in everyone's.
    assert_eq!(check(named(&["localhost"], "240.0.2.3")), (true, Some(3)));
    let both = Fragment { server: Some(true), ..named(&["240.0.2.1"], "240.0.2.2") };
    let error = format!("{:#}", Settings::check(both, "host-9").unwrap_err());
    assert!(error.contains("-server and -server-at both say"), "{error}");
}
