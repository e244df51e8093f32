//! One story, told to the real engine and to its twin in memory: both must lead to the same registrations.

use std::sync::Arc;

use corediscover::client::Client;
use corediscover::model::registration::{Binding, Facts, State};
use corediscover::registrator::{Consul, DockerEngine, Engine, Settings, Twin};
use corediscover::tasks::Tasks;

use super::agent::Agent;
use crate::support::docker::{Container, IMAGE, IMAGE_NAME, unique_name};

/// What a story does to containers.
trait Machine {
    fn engine(&self) -> Arc<dyn Engine>;
    fn hostname(&self) -> String;
    fn start(&mut self) -> String;
    fn pause(&self);
    fn unpause(&self);
    fn restart(&self);
    fn remove(&self);
}

struct RealMachine {
    engine: Arc<DockerEngine>,
    container: Option<Container>,
}

impl RealMachine {
    fn container(&self) -> &Container {
        self.container.as_ref().unwrap()
    }
}

impl Machine for RealMachine {
    fn engine(&self) -> Arc<dyn Engine> {
        Arc::clone(&self.engine) as Arc<dyn Engine>
    }

    fn hostname(&self) -> String {
        super::hostname()
    }

    fn start(&mut self) -> String {
        self.container.insert(Container::run("story", &["-P"])).name.clone()
    }

    fn pause(&self) {
        self.container().tell(&["pause"]);
    }

    fn unpause(&self) {
        self.container().tell(&["unpause"]);
    }

    fn restart(&self) {
        self.container().tell(&["restart", "-t", "0"]);
    }

    fn remove(&self) {
        self.container().tell(&["rm", "-f"]);
    }
}

#[derive(Default)]
struct TwinMachine {
    engine: Arc<Twin>,
}

impl Machine for TwinMachine {
    fn engine(&self) -> Arc<dyn Engine> {
        Arc::clone(&self.engine) as Arc<dyn Engine>
    }

    fn hostname(&self) -> String {
        "vm".to_owned()
    }

    fn start(&mut self) -> String {
        let name = unique_name("twin");
        let binding = Binding { address: "0.0.0.0".to_owned(), port: 32768 };
        self.engine.put(Facts {
            id: "container".to_owned(),
            name: name.clone(),
            image: IMAGE.to_owned(),
            published: [("80/tcp".parse().unwrap(), vec![binding])].into(),
            ..Facts::default()
        });
        name
    }

    fn pause(&self) {
        self.engine.change("container", |facts| facts.state = State::Paused);
    }

    fn unpause(&self) {
        self.engine.change("container", |facts| facts.state = State::Running);
    }

    fn restart(&self) {
        self.engine.set_down(true);
        self.engine.change("container", |facts| facts.state = State::Away);
        self.engine.change("container", |facts| facts.state = State::Running);
        self.engine.set_down(false);
    }

    fn remove(&self) {
        self.engine.remove("container");
    }
}

fn tell(machine: &mut dyn Machine) {
    let agent = Agent::start();
    let engine = machine.engine();
    let client = Client::new(agent.address().parse().unwrap(), None).unwrap();
    let tasks = Tasks::default();
    let (spawner, stop) = (tasks.spawner(), tasks.stop_token());
    let registrator = std::thread::spawn(move || {
        tokio::runtime::Runtime::new().unwrap().block_on(async move {
            let settings = Settings { retry_attempts: Some(0), ..Settings::default() };
            let registry = Arc::new(Consul::new(client));
            tasks.start("registrator", corediscover::registrator::run(settings, engine, registry, spawner));
            tasks.run_until(std::future::pending::<()>()).await
        })
    });

    let id = format!("{}:{}:80", machine.hostname(), machine.start());
    assert_eq!(agent.wait_for(&id)["Name"], IMAGE_NAME);
    machine.pause();
    agent.wait_for_passing(&id, false);
    machine.unpause();
    agent.wait_for_passing(&id, true);
    machine.restart();
    agent.wait_for_passing(&id, true);
    agent.forget();
    agent.wait_for_passing(&id, true);
    machine.remove();
    agent.wait_for_end_of(&id);

    stop.cancel();
    registrator.join().unwrap().unwrap();
}

#[test]
fn the_story_of_one_container_with_the_real_engine() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let engine = Arc::new(runtime.block_on(DockerEngine::connect(None)).unwrap());
    tell(&mut RealMachine { engine, container: None });
}

#[test]
fn the_story_of_one_container_with_the_twin() {
    tell(&mut TwinMachine::default());
}
