//! The registry of a Consul-compatible agent. It translates commands into requests and decides nothing.

use anyhow::Context as _;
use async_trait::async_trait;

use super::registry::Registry;
use crate::client::Client;
use crate::model::registration::diff::PAUSED_REASON;
use crate::model::registration::{Command, Registered, RegisteredCheck, RegisteredService};

/// Services of one agent.
pub struct Consul {
    client: Client,
}

impl Consul {
    /// The registry behind `client`.
    pub fn new(client: Client) -> Self {
        Self { client }
    }
}

#[async_trait]
impl Registry for Consul {
    async fn ping(&self) -> anyhow::Result<String> {
        let leader = self.client.status_leader().await?;
        Ok(format!("consul: current leader  {}", leader.unwrap_or_default()))
    }

    async fn machine_address(&self) -> anyhow::Result<Option<String>> {
        let about = match self.client.agent_self().await {
            Ok(about) => about,
            Err(error) if error.is_unreachable() => return Err(error.into()),
            Err(error) => {
                // A token may be good for services only; the machine's address then comes from elsewhere.
                tracing::debug!("the agent does not tell its address: {error}");
                return Ok(None);
            }
        };
        Ok(about.pointer("/Member/Addr").and_then(|address| address.as_str()).map(str::to_owned))
    }

    async fn registered(&self) -> anyhow::Result<Registered> {
        let (services, checks) = tokio::try_join!(self.client.agent_services(), self.client.agent_checks())
            .context("cannot read what is registered")?;
        let services = services.into_iter().map(|(id, service)| {
            let held = RegisteredService {
                name: service.name,
                tags: service.tags,
                address: service.address,
                port: service.port,
                meta: service.meta,
            };
            (id, held)
        });
        let checks = checks
            .into_iter()
            .map(|(id, check)| (id, RegisteredCheck { status: check.status, notes: check.notes }));
        Ok(Registered { services: services.collect(), checks: checks.collect() })
    }

    async fn carry_out(&self, command: &Command) -> anyhow::Result<()> {
        match command {
            Command::Register(wanted) => self.client.register_service(&wanted.body()).await?,
            Command::Deregister { id, .. } => self.client.deregister_service(id).await?,
            Command::UpdateCheck { id, status, output } => {
                self.client.update_check(id, status.as_str(), output).await?;
            }
            Command::RemoveCheck { id } => self.client.deregister_check(id).await?,
            Command::Pause { id } => self.client.service_maintenance(id, true, PAUSED_REASON).await?,
            Command::Resume { id } => self.client.service_maintenance(id, false, "").await?,
        }
        Ok(())
    }
}
