//! The HTTP API (port 8500), as Consul's clients know it.
//!
//! Handlers mirror the paths: `catalog.rs::register` answers `PUT /v1/catalog/register`. They use only what
//! [`AgentHandle`] offers; JSON is `model::api`'s, status codes are `error.rs`'s, sockets are `server.rs`'s.

mod agent;
mod cache;
mod catalog;
mod error;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod health;
mod hurried;
mod kv;
mod myself;
mod operator;
mod read;
mod register;
mod request;
mod response;
mod router;
mod server;
mod status;
#[cfg(test)]
mod tests;

use hyper::StatusCode;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::error::HttpError;
use self::request::Request;
use self::response::{Answer, ReadMeta};
use self::router::Endpoint;
use crate::agent::handle::{AgentHandle, ReloadRequest};
use crate::model::catalog::Status;

pub use self::server::{Address, AddressError, Limits, Listeners, bind, run, start, start_with};

/// What the HTTP API needs besides the handle.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Limits on connections, bodies and time.
    pub limits: Limits,
    /// Who carries out `PUT /v1/agent/reload`; `None` is nobody.
    pub reload: Option<mpsc::Sender<ReloadRequest>>,
}

/// What all connections share.
struct Api {
    agent: AgentHandle,
    settings: Settings,
    cache: cache::Listings,
    stop: CancellationToken,
}

impl Api {
    /// Answers a request whose path has been routed and whose body has been read.
    async fn answer(&self, endpoint: Endpoint, method: &str, request: &Request) -> Answer {
        let dispatched = if request.may_wait() {
            tokio::select! {
                answer = self.dispatch(endpoint, method, request) => answer,
                () = self.stop.cancelled() => Err(HttpError::Stopping),
            }
        } else {
            self.dispatch(endpoint, method, request).await
        };
        let mut answer = match dispatched {
            Ok(answer) => answer,
            Err(error) => self.refuse(endpoint, &error),
        };
        let asked = request.query.has("pretty");
        if answer.is_json() && (asked || self.agent.identity.pretty) {
            answer.indent(asked);
        }
        answer
    }

    /// An error; index header fields go with those of reads too, or Go's client fails over them.
    fn refuse(&self, endpoint: Endpoint, error: &HttpError) -> Answer {
        let answer = error.answer();
        if !endpoint.is_indexed() {
            return answer;
        }
        let freshness = self.agent.consensus.freshness();
        answer.meta(ReadMeta { index: 1, freshness, consistency: None })
    }

    async fn dispatch(
        &self,
        endpoint: Endpoint,
        method: &str,
        request: &Request,
    ) -> Result<Answer, HttpError> {
        match endpoint {
            Endpoint::Kv => match method {
                "PUT" => kv::put(self, request).await,
                "DELETE" => kv::delete(self, request).await,
                _ => kv::get(self, request).await,
            },
            Endpoint::HealthService => health::service(self, request).await,
            Endpoint::HealthNode => health::node(self, request).await,
            Endpoint::HealthChecks => health::checks(self, request).await,
            Endpoint::HealthState => health::state(self, request).await,
            Endpoint::CatalogServices => catalog::services(self, request).await,
            Endpoint::CatalogService => catalog::service(self, request).await,
            Endpoint::CatalogNodes => catalog::nodes(self, request).await,
            Endpoint::CatalogNode => catalog::node(self, request).await,
            Endpoint::CatalogNodeServices => catalog::node_services(self, request).await,
            Endpoint::MeshList => catalog::mesh(self, request).await,
            Endpoint::CatalogDatacenters => Ok(catalog::datacenters(self)),
            Endpoint::CatalogRegister => catalog::register(self, request).await,
            Endpoint::CatalogDeregister => catalog::deregister(self, request).await,
            Endpoint::StatusLeader => status::leader(self, request).await,
            Endpoint::StatusPeers => status::peers(self, request).await,
            Endpoint::OperatorRaftConfiguration => operator::raft_configuration(self, request).await,
            Endpoint::OperatorRaftPeer => operator::remove_peer(self, request).await,
            Endpoint::OperatorTransferLeader => operator::transfer_leader(self, request).await,
            Endpoint::OperatorAutopilot => match method {
                "PUT" => operator::set_autopilot(self, request).await,
                _ => operator::autopilot(self, request).await,
            },
            Endpoint::OperatorAutopilotHealth => operator::autopilot_health(self, request).await,
            Endpoint::OperatorAutopilotState => operator::autopilot_state(self, request).await,
            Endpoint::OperatorServers => match method {
                "PUT" => operator::set_servers(self, request).await,
                _ => operator::servers(self, request).await,
            },
            Endpoint::OperatorRecover => operator::recover(self, request).await,
            Endpoint::OperatorServersReplace => operator::replace_server(self, request).await,
            Endpoint::AgentSelf => Ok(myself::myself(self).await),
            Endpoint::AgentHost => Ok(myself::host()),
            Endpoint::AgentVersion => Ok(myself::version()),
            Endpoint::AgentMetrics => myself::metrics(request),
            Endpoint::AgentMembers => agent::members(self, request),
            Endpoint::AgentServices => agent::services(self, request),
            Endpoint::AgentService => agent::service(self, request).await,
            Endpoint::AgentChecks => agent::all_checks(self, request),
            Endpoint::AgentServiceHealthById => agent::health_by_id(self, request),
            Endpoint::AgentServiceHealthByName => agent::health_by_name(self, request),
            Endpoint::AgentJoin => agent::join(self, request).await,
            Endpoint::AgentForceLeave => agent::force_leave(self, request).await,
            Endpoint::AgentLeave => Ok(agent::leave(self)),
            Endpoint::AgentReload => agent::reload(self).await,
            Endpoint::AgentServiceRegister => register::service(self, request).await,
            Endpoint::AgentServiceDeregister => register::remove_service(self, request).await,
            Endpoint::AgentServiceMaintenance => register::service_maintenance(self, request).await,
            Endpoint::AgentMaintenance => register::node_maintenance(self, request).await,
            Endpoint::AgentCheckRegister => register::check(self, request).await,
            Endpoint::AgentCheckDeregister => register::remove_check(self, request).await,
            Endpoint::AgentCheckPass => register::note(self, request, Status::Passing).await,
            Endpoint::AgentCheckWarn => register::note(self, request, Status::Warning).await,
            Endpoint::AgentCheckFail => register::note(self, request, Status::Critical).await,
            Endpoint::AgentCheckUpdate => register::update(self, request).await,
        }
    }
}

/// `/`: Consul's text when it has no user interface.
fn root() -> Answer {
    let text = "Consul Agent: UI disabled. To enable, set ui_config.enabled=true in the agent configuration and restart.";
    Answer::text(StatusCode::OK, text)
}

fn not_found() -> Answer {
    Answer::text(StatusCode::NOT_FOUND, "Invalid URL path: not a recognized HTTP API endpoint\n")
}
