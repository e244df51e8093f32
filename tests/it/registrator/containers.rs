//! Real containers come, go, pause, fall ill; agents, engines and registrators fail. In the end everything is right.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use super::agent::Agent;
use super::proxy::SocketProxy;
use super::{hostname, registrator, registrator_with};
use crate::support::docker::{Container, IMAGE_NAME, docker, unique_name};
use crate::support::{Running, corediscover, eventually};

/// The id of the container's service on port 80.
fn id_of(container: &Container) -> String {
    format!("{}:{}:80", hostname(), container.name)
}

#[test]
fn a_plain_container_is_registered_with_the_agents_address_and_follows_its_life() {
    let agent = Agent::start();
    let _registrator = registrator(&agent, &[]);
    let web = Container::run("plain", &["-P"]);
    let id = id_of(&web);
    let body = agent.wait_for(&id);
    assert_eq!(
        body,
        json!({
            "ID": id, "Name": IMAGE_NAME, "Port": web.published_port("80/tcp"), "Address": "10.77.0.1",
            "Meta": { "corediscover-registrator": body["Meta"]["corediscover-registrator"],
                      "corediscover-container": &web.id[..12] },
            "Check": null, "Checks": null,
        })
    );
    web.tell(&["stop", "-t", "0"]);
    agent.wait_for_end_of(&id);
    web.tell(&["start"]);
    agent.wait_for(&id);
    web.tell(&["kill"]);
    agent.wait_for_end_of(&id);
    web.tell(&["start"]);
    agent.wait_for(&id);
    web.tell(&["restart", "-t", "0"]);
    let port_is_right = || {
        let port = web.published_port("80/tcp");
        (agent.service(&id)?["Port"] == port).then_some(())
    };
    eventually(Duration::from_secs(30), "the port after a restart is registered", port_is_right);
    web.tell(&["rm", "-f"]);
    agent.wait_for_end_of(&id);
    assert_eq!(agent.ids_with(&web.name), [""; 0]);
}

#[test]
fn variables_labels_and_flags_shape_the_registration() {
    let agent = Agent::start();
    let _registrator = registrator(&agent, &["-ip", "10.1.2.3", "-tags=common"]);
    let own_id = unique_name("id");
    let id_variable = format!("SERVICE_ID={own_id}");
    let options = [
        "-p",
        "127.0.0.1::80",
        "-e",
        &id_variable,
        "-e",
        "SERVICE_NAME=site",
        "-l",
        "SERVICE_TAGS=a,b",
        "-l",
        "SERVICE_80_CHECK_HTTP=/health",
        "-l",
        "SERVICE_CHECK_INTERVAL=1s",
        "-e",
        "SERVICE_REGION=eu",
    ];
    let web = Container::run("shaped", &options);
    let body = agent.wait_for(&own_id);
    let port = web.published_port("80/tcp");
    assert_eq!(body["Name"], "site");
    assert_eq!(body["Address"], "10.1.2.3");
    assert_eq!(body["Tags"], json!(["a", "b", "common"]));
    assert_eq!(body["Meta"]["region"], "eu");
    assert_eq!(body["Check"], json!({ "HTTP": format!("http://10.1.2.3:{port}/health"), "Interval": "1s" }));
}

#[test]
fn a_rename_gives_the_service_a_new_id_and_leaves_no_old_one() {
    let agent = Agent::start();
    let _registrator = registrator(&agent, &[]);
    let mut web = Container::run("rename", &["-P"]);
    let old = id_of(&web);
    agent.wait_for(&old);
    let new_name = unique_name("renamed");
    docker(&["rename", &web.name, &new_name]);
    web.name = new_name;
    agent.wait_for(&id_of(&web));
    agent.wait_for_end_of(&old);
}

#[test]
fn internal_registers_the_containers_own_address_in_any_network() {
    let agent = Agent::start();
    let _registrator = registrator(&agent, &["-internal"]);
    let web = Container::run("internal", &[]);
    let body = agent.wait_for(&id_of(&web));
    let format = "{{.NetworkSettings.Networks.bridge.IPAddress}}";
    assert_eq!(body["Address"], docker(&["inspect", "-f", format, &web.name]));
    assert_eq!(body["Port"], 80);
    let network = format!("container:{}", web.name);
    let sidecar = Container::run_command("sidecar", &["--network", &network], &["/bin/sleep", "1000"]);
    assert_eq!(agent.wait_for(&id_of(&sidecar))["Address"], body["Address"]);
}

#[test]
fn a_paused_container_is_hidden_until_it_goes_on() {
    let agent = Agent::start();
    let _registrator = registrator(&agent, &[]);
    let web = Container::run("pause", &["-P"]);
    let id = id_of(&web);
    agent.wait_for_passing(&id, true);
    web.tell(&["pause"]);
    agent.wait_for_passing(&id, false);
    assert!(agent.service(&id).is_some(), "it stays registered");
    web.tell(&["unpause"]);
    agent.wait_for_passing(&id, true);
}

#[test]
fn a_healthcheck_hides_the_service_until_it_is_healthy_and_when_it_falls_ill() {
    let agent = Agent::start();
    let _registrator = registrator(&agent, &[]);
    let probe = "test -f /well || { echo no /well; exit 1; }";
    let options = ["-P", "--health-cmd", probe, "--health-interval", "200ms", "--health-retries", "1"];
    let web = Container::run("health", &options);
    let id = id_of(&web);
    agent.wait_for(&id);
    agent.wait_for_passing(&id, false);
    web.execute(&["touch", "/well"]);
    agent.wait_for_passing(&id, true);
    web.execute(&["rm", "/well"]);
    agent.wait_for_passing(&id, false);
    let check = format!("docker-health:{id}");
    assert_eq!(agent.check_output(&check).as_deref(), Some("no /well"));
}

#[test]
fn a_registrator_that_was_killed_finds_out_what_it_missed() {
    let agent = Agent::start();
    let mut first = registrator(&agent, &[]);
    let [goes, stays] = ["goes", "stays"].map(|word| Container::run(word, &["-P"]));
    agent.wait_for(&id_of(&goes));
    agent.wait_for(&id_of(&stays));
    first.kill();
    goes.tell(&["rm", "-f"]);
    let comes = Container::run("comes", &["-P"]);
    let _second = registrator(&agent, &[]);
    agent.wait_for(&id_of(&comes));
    agent.wait_for_end_of(&id_of(&goes));
    assert!(agent.service(&id_of(&stays)).is_some());
    for container in [&comes, &stays] {
        assert_eq!(agent.ids_with(&container.name).len(), 1, "nothing doubled");
    }
}

#[test]
fn an_agent_that_fails_is_tried_again_until_everything_is_right() {
    let agent = Agent::start();
    let _registrator = registrator(&agent, &[]);
    let goes = Container::run("goes", &["-P"]);
    agent.wait_for(&id_of(&goes));
    agent.set_failing(true);
    goes.tell(&["rm", "-f"]);
    let comes = Container::run("comes", &["-P"]);
    let requests = agent.requests_with("").len();
    eventually(Duration::from_secs(30), "more attempts", || {
        (agent.requests_with("").len() > requests + 3).then_some(())
    });
    assert!(agent.service(&id_of(&comes)).is_none());
    agent.set_failing(false);
    agent.wait_for(&id_of(&comes));
    agent.wait_for_end_of(&id_of(&goes));
}

#[test]
fn one_refused_service_does_not_hold_up_the_others() {
    let agent = Agent::start();
    let refused = unique_name("refused");
    agent.refuse(&refused);
    let _registrator = registrator(&agent, &[]);
    let bad = Container::run("bad", &["-P", "-e", &format!("SERVICE_ID={refused}")]);
    let good = Container::run("good", &["-P"]);
    agent.wait_for(&id_of(&good));
    good.tell(&["rm", "-f"]);
    agent.wait_for_end_of(&id_of(&good));
    agent.refuse_none();
    let body = agent.wait_for(&refused);
    assert_eq!(body["Meta"]["corediscover-container"], bad.id[..12]);
}

#[test]
fn an_agent_that_went_away_and_forgot_everything_is_told_again() {
    let agent = Agent::start();
    let _registrator = registrator(&agent, &[]);
    let web = Container::run("forgotten", &["-P"]);
    let id = id_of(&web);
    agent.wait_for(&id);
    agent.forget();
    agent.wait_for(&id);
    agent.stop();
    agent.forget();
    agent.start_again();
    agent.wait_for(&id);
}

#[test]
fn a_registrator_waits_for_an_agent_that_is_not_there_yet() {
    let agent = Agent::start();
    agent.stop();
    let options = ["-retry-attempts", "-1", "-retry-interval", "50"];
    let mut registrator = registrator(&agent, &options);
    let web = Container::run("early", &["-P"]);
    assert!(registrator.is_alive());
    agent.start_again();
    agent.wait_for(&id_of(&web));
}

#[test]
fn a_lost_connection_to_docker_is_opened_again_and_what_was_missed_is_found() {
    let agent = Agent::start();
    let proxy = SocketProxy::start("/var/run/docker.sock");
    let mut registrator = registrator_with(&agent, &[], &[("DOCKER_HOST", &proxy.host())]);
    let goes = Container::run("goes", &["-P"]);
    agent.wait_for(&id_of(&goes));
    proxy.cut();
    goes.tell(&["rm", "-f"]);
    let comes = Container::run("comes", &["-P"]);
    proxy.mend();
    agent.wait_for(&id_of(&comes));
    agent.wait_for_end_of(&id_of(&goes));
    comes.tell(&["kill"]);
    agent.wait_for_end_of(&id_of(&comes));
    assert!(registrator.is_alive());
}

#[test]
fn on_success_keeps_the_services_of_a_container_that_failed_by_itself() {
    let agent = Agent::start();
    let _registrator = registrator(&agent, &["-deregister", "on-success"]);
    let wait = |code: u8| format!("while ! test -f /end; do sleep 0.1; done; exit {code}");
    let fails = Container::run_command("fails", &["-P"], &["/bin/sh", "-c", &wait(1)]);
    let succeeds = Container::run_command("succeeds", &["-P"], &["/bin/sh", "-c", &wait(0)]);
    let killed = Container::run("killed", &["-P"]);
    for container in [&fails, &succeeds, &killed] {
        agent.wait_for(&id_of(container));
    }
    fails.execute(&["touch", "/end"]);
    docker(&["wait", &fails.name]);
    succeeds.execute(&["touch", "/end"]);
    killed.tell(&["kill"]);
    agent.wait_for_end_of(&id_of(&succeeds));
    agent.wait_for_end_of(&id_of(&killed));
    assert!(agent.service(&id_of(&fails)).is_some());
    fails.tell(&["rm"]);
    agent.wait_for_end_of(&id_of(&fails));
}

#[test]
fn cleanup_removes_what_the_original_left_and_nothing_else() {
    let agent = Agent::start();
    let web = Container::run("runs", &["-P"]);
    let left = format!("{}:{}:80", hostname(), unique_name("left"));
    let running = format!("{}:{}:9999", hostname(), web.name);
    for id in [left.as_str(), running.as_str(), "by-hand", "other-host:web:80"] {
        agent.put_service(id, json!({ "Name": "x", "Port": 1, "Address": "10.0.0.9" }));
    }
    let _registrator = registrator(&agent, &["-cleanup"]);
    agent.wait_for_end_of(&left);
    agent.wait_for(&id_of(&web));
    for id in [running.as_str(), "by-hand", "other-host:web:80"] {
        assert!(agent.service(id).is_some(), "{id} stays");
    }
}

#[test]
fn an_operators_maintenance_survives_a_new_registrator() {
    let agent = Agent::start();
    let mut first = registrator(&agent, &[]);
    let web = Container::run("maintained", &["-P"]);
    let id = id_of(&web);
    agent.wait_for(&id);
    let client = corediscover::client::Client::new(agent.address().parse().unwrap(), None).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(client.service_maintenance(&id, true, "upgrading")).unwrap();
    first.kill();
    let registrations = || agent.requests_with("/service/register").len();
    let before = registrations();
    let _second = registrator(&agent, &[]);
    eventually(Duration::from_secs(30), "it is registered again", || {
        (registrations() > before).then_some(())
    });
    assert!(!agent.is_passing(&id));
}

#[test]
fn the_agent_may_listen_on_a_unix_socket() {
    let agent = Agent::start();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    agent.listen_on_unix(&socket);
    let mut command = corediscover();
    command.args(["registrator", "-ip=10.1.1.1"]).arg(format!("consul-unix://{}", socket.display()));
    let _registrator = Running::start("registrator", &mut command);
    let web = Container::run("unix", &["-P"]);
    assert_eq!(agent.wait_for(&id_of(&web))["Address"], "10.1.1.1");
}

#[test]
fn a_stopped_registrator_ends_with_zero_and_leaves_its_services() {
    let agent = Agent::start();
    let mut registrator = registrator(&agent, &[]);
    let web = Container::run("left", &["-P"]);
    agent.wait_for(&id_of(&web));
    registrator.signal(Signal::SIGTERM);
    assert_eq!(registrator.exit_code(Duration::from_secs(10)), Some(0));
    assert!(agent.service(&id_of(&web)).is_some());
}

#[test]
fn the_bridge_address_is_this_machines_in_dockers_default_network() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let address = runtime.block_on(corediscover::registrator::bridge_address()).unwrap();
    let of_this_machine = corediscover::host::interfaces::addresses().unwrap();
    assert!(of_this_machine.contains(&("docker0".to_owned(), address.unwrap())), "{address:?}");
}
