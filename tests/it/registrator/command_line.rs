//! Exit codes and words of gliderlabs/registrator's command line.

use std::process::Output;

use crate::support::corediscover;

fn run(args: &[&str]) -> Output {
    corediscover().arg("registrator").args(args).output().unwrap()
}

#[track_caller]
fn check(args: &[&str], code: i32, text: &str) {
    let output = run(args);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {errors}");
    assert!(errors.contains(text), "{args:?}: {errors}");
    assert!(output.stdout.is_empty());
}

#[test]
fn what_is_not_understood_ends_with_two() {
    check(&[], 2, "Missing required argument for registry URI.");
    check(&["-ip", "10.0.0.1"], 2, "Missing required argument for registry URI.");
    check(&["consul:", "more"], 2, "Extra unparsed arguments: more");
    check(&["consul:", "-internal"], 2, "Options should come before the registry URI argument.");
    check(&["-no-such-flag", "consul:"], 2, "unexpected argument '--no-such-flag'");
    check(&["-internal=maybe", "consul:"], 2, "neither true nor false");
    check(&["-resync", "often", "consul:"], 2, "invalid value 'often'");
}

#[test]
fn what_cannot_be_done_ends_with_one() {
    let lone_ttl = "-ttl and -ttl-refresh must be specified together or not at all";
    check(&["-ttl", "5", "consul:"], 1, lone_ttl);
    check(&["-ttl-refresh", "5", "consul:"], 1, lone_ttl);
    check(&["-ttl=5", "-ttl-refresh=5", "consul:"], 1, "-ttl must be greater than -ttl-refresh");
    check(&["-deregister", "never", "consul:"], 1, r#"-deregister must be "always" or "on-success""#);
    check(&["-retry-interval", "0", "consul:"], 1, "-retry-interval must be greater than 0");
    check(&["127.0.0.1"], 1, "bad adapter uri: 127.0.0.1");
    check(&["redis://127.0.0.1"], 1, "unrecognized adapter: redis://127.0.0.1");
    check(&["zookeeper://127.0.0.1/base"], 1, "the adapter zookeeper is not built; consul://host:port");
    check(&["consul://a:b:c"], 1, "use host:port");
    check(&["-ip", "0.0.0.0", "consul:"], 1, "no other machine can reach this address");
    check(&["-compat", "all", "consul:"], 1, "there are `tags-reversed` and `network-address`");
}

#[test]
fn an_unreachable_agent_ends_with_one_after_the_attempts() {
    let output = run(&["-retry-attempts", "2", "-retry-interval", "1", "consul://127.0.0.1:1"]);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(errors.matches("Connecting to backend (").count(), 3, "{errors}");
    assert!(errors.contains("cannot reach the agent at http://127.0.0.1:1"), "{errors}");
}

#[test]
fn an_unreachable_docker_says_how_to_reach_it() {
    let output = corediscover()
        .args(["registrator", "consul://127.0.0.1:1"])
        .env("DOCKER_HOST", "unix:///no/such/socket")
        .output()
        .unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(errors.contains("cannot reach Docker at unix:///no/such/socket"), "{errors}");
    assert!(
        errors.contains("hint: in a container add `-v /var/run/docker.sock:/tmp/docker.sock`"),
        "{errors}"
    );
}

#[test]
fn the_version_is_data() {
    let output = run(&["--version"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("v{}\n", env!("CARGO_PKG_VERSION")));
}
