//! Paths and methods to endpoints. What is not here does not exist.

use std::borrow::Cow;

use super::request::decode;

/// One thing that can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    StatusLeader,
    StatusPeers,
    AgentSelf,
    AgentHost,
    AgentVersion,
    AgentMetrics,
    AgentMembers,
    AgentServices,
    AgentService,
    AgentServiceHealthById,
    AgentServiceHealthByName,
    AgentServiceRegister,
    AgentServiceDeregister,
    AgentServiceMaintenance,
    AgentChecks,
    AgentCheckRegister,
    AgentCheckDeregister,
    AgentCheckPass,
    AgentCheckWarn,
    AgentCheckFail,
    AgentCheckUpdate,
    AgentMaintenance,
    AgentJoin,
    AgentForceLeave,
    AgentLeave,
    AgentReload,
    CatalogRegister,
    CatalogDeregister,
    CatalogDatacenters,
    CatalogNodes,
    CatalogServices,
    CatalogService,
    CatalogNode,
    CatalogNodeServices,
    /// Reads of the service mesh, which there is none of: an empty list.
    MeshList,
    HealthNode,
    HealthChecks,
    HealthService,
    HealthState,
    OperatorRaftConfiguration,
    OperatorRaftPeer,
    OperatorTransferLeader,
    OperatorAutopilot,
    OperatorAutopilotHealth,
    OperatorAutopilotState,
    /// Ours: how many servers, and who replaces whom.
    OperatorServers,
    OperatorServersReplace,
    OperatorRecover,
    Kv,
}

impl Endpoint {
    /// Whether its reads carry the index header fields, errors included.
    pub(super) fn is_indexed(self) -> bool {
        matches!(
            self,
            Self::CatalogNodes
                | Self::CatalogServices
                | Self::CatalogService
                | Self::CatalogNode
                | Self::CatalogNodeServices
                | Self::MeshList
                | Self::HealthNode
                | Self::HealthChecks
                | Self::HealthService
                | Self::HealthState
                | Self::Kv
        )
    }
}

struct Route {
    /// After `/v1/`; a final slash takes all that follows as parameter.
    path: &'static str,
    methods: &'static [&'static str],
    endpoint: Endpoint,
}

const fn route(path: &'static str, methods: &'static [&'static str], endpoint: Endpoint) -> Route {
    Route { path, methods, endpoint }
}

const GET: &[&str] = &["GET"];
const PUT: &[&str] = &["PUT"];

/// The busy ones first, and what is more exact before what is less.
const ROUTES: &[Route] = &[
    route("kv/", &["GET", "PUT", "DELETE"], Endpoint::Kv),
    route("health/service/", GET, Endpoint::HealthService),
    route("catalog/services", GET, Endpoint::CatalogServices),
    route("catalog/service/", GET, Endpoint::CatalogService),
    route("health/state/", GET, Endpoint::HealthState),
    route("health/node/", GET, Endpoint::HealthNode),
    route("health/checks/", GET, Endpoint::HealthChecks),
    route("health/connect/", GET, Endpoint::MeshList),
    route("health/ingress/", GET, Endpoint::MeshList),
    route("catalog/nodes", GET, Endpoint::CatalogNodes),
    route("catalog/node/", GET, Endpoint::CatalogNode),
    route("catalog/node-services/", GET, Endpoint::CatalogNodeServices),
    route("catalog/connect/", GET, Endpoint::MeshList),
    route("catalog/gateway-services/", GET, Endpoint::MeshList),
    route("catalog/datacenters", GET, Endpoint::CatalogDatacenters),
    route("catalog/register", PUT, Endpoint::CatalogRegister),
    route("catalog/deregister", PUT, Endpoint::CatalogDeregister),
    route("agent/check/pass/", PUT, Endpoint::AgentCheckPass),
    route("agent/check/warn/", PUT, Endpoint::AgentCheckWarn),
    route("agent/check/fail/", PUT, Endpoint::AgentCheckFail),
    route("agent/check/update/", PUT, Endpoint::AgentCheckUpdate),
    route("agent/check/register", PUT, Endpoint::AgentCheckRegister),
    route("agent/check/deregister/", PUT, Endpoint::AgentCheckDeregister),
    route("agent/service/register", PUT, Endpoint::AgentServiceRegister),
    route("agent/service/deregister/", PUT, Endpoint::AgentServiceDeregister),
    route("agent/service/maintenance/", PUT, Endpoint::AgentServiceMaintenance),
    route("agent/service/", GET, Endpoint::AgentService),
    route("agent/services", GET, Endpoint::AgentServices),
    route("agent/checks", GET, Endpoint::AgentChecks),
    route("agent/health/service/id/", GET, Endpoint::AgentServiceHealthById),
    route("agent/health/service/name/", GET, Endpoint::AgentServiceHealthByName),
    route("agent/self", GET, Endpoint::AgentSelf),
    route("agent/members", GET, Endpoint::AgentMembers),
    route("agent/host", GET, Endpoint::AgentHost),
    route("agent/version", GET, Endpoint::AgentVersion),
    route("agent/metrics", GET, Endpoint::AgentMetrics),
    route("agent/maintenance", PUT, Endpoint::AgentMaintenance),
    route("agent/join/", PUT, Endpoint::AgentJoin),
    route("agent/force-leave/", PUT, Endpoint::AgentForceLeave),
    route("agent/leave", PUT, Endpoint::AgentLeave),
    route("agent/reload", PUT, Endpoint::AgentReload),
    route("status/leader", GET, Endpoint::StatusLeader),
    route("status/peers", GET, Endpoint::StatusPeers),
    route("operator/raft/configuration", GET, Endpoint::OperatorRaftConfiguration),
    route("operator/raft/peer", &["DELETE"], Endpoint::OperatorRaftPeer),
    route("operator/raft/transfer-leader", &["POST", "PUT"], Endpoint::OperatorTransferLeader),
    route("operator/autopilot/configuration", &["GET", "PUT"], Endpoint::OperatorAutopilot),
    route("operator/autopilot/health", GET, Endpoint::OperatorAutopilotHealth),
    route("operator/autopilot/state", GET, Endpoint::OperatorAutopilotState),
    route("operator/servers", &["GET", "PUT"], Endpoint::OperatorServers),
    route("operator/recover", PUT, Endpoint::OperatorRecover),
    route("operator/servers/replace", PUT, Endpoint::OperatorServersReplace),
];

/// Where a request goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target<'a> {
    /// To an endpoint, with what follows its path.
    Endpoint(Endpoint, Cow<'a, str>),
    /// The methods that a path takes, for `Allow`.
    Options(String),
    /// A method that the path does not take.
    MethodNotAllowed(String),
    /// The path with a final slash.
    Moved(String),
    /// `/`.
    Root,
    /// Characters that cannot be printed, or broken escapes.
    BadPath,
    /// Nothing.
    NotFound,
}

/// Finds the target of a request.
pub(super) fn find<'a>(method: &str, path: &'a str) -> Target<'a> {
    let Some(decoded) = decode(path, false) else { return Target::BadPath };
    if !decoded.chars().all(is_printable) {
        return Target::BadPath;
    }
    if decoded == "/" {
        return Target::Root;
    }
    let Some(rest) = path.strip_prefix("/v1/") else { return Target::NotFound };
    for route in ROUTES {
        let parameter = match rest.strip_prefix(route.path) {
            Some(parameter) if route.path.ends_with('/') || parameter.is_empty() => parameter,
            _ => {
                if route.path.strip_suffix('/') == Some(rest) && is_only_prefix(rest) {
                    return Target::Moved(format!("{path}/"));
                }
                continue;
            }
        };
        return if route.methods.contains(&method) {
            match decode(parameter, false) {
                Some(parameter) => Target::Endpoint(route.endpoint, parameter),
                None => Target::BadPath,
            }
        } else {
            let allow = format!("OPTIONS,{}", route.methods.join(","));
            if method == "OPTIONS" { Target::Options(allow) } else { Target::MethodNotAllowed(allow) }
        };
    }
    Target::NotFound
}

fn is_only_prefix(path: &str) -> bool {
    !ROUTES.iter().any(|route| route.path == path)
}

/// As Go's `unicode.IsPrint`, but for characters that are not assigned.
fn is_printable(character: char) -> bool {
    if character.is_ascii() {
        return character == ' ' || character.is_ascii_graphic();
    }
    let invisible = matches!(
        u32::from(character),
        0xad | 0x600..=0x605 | 0x61c | 0x6dd | 0x70f | 0x180e | 0x200b..=0x200f | 0x2028..=0x202e
            | 0x2060..=0x206f | 0xe000..=0xf8ff | 0xfeff | 0xfff9..=0xfffb | 0xe_0000..=0x10_ffff
    );
    !(invisible || character.is_control() || character.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::{Endpoint, ROUTES, Target, find};

    #[test]
    fn every_route_is_reached_and_none_hides_another() {
        for route in ROUTES {
            let path = format!("/v1/{}{}", route.path, if route.path.ends_with('/') { "x" } else { "" });
            let Target::Endpoint(endpoint, _) = find(route.methods[0], &path) else { panic!("{path}") };
            assert_eq!(endpoint, route.endpoint, "{path}");
        }
    }

    #[test]
    fn parameters_are_what_follows_with_slashes_and_decoded() {
        assert_eq!(find("GET", "/v1/kv/a%2Fb/c//"), Target::Endpoint(Endpoint::Kv, "a/b/c//".into()));
        assert_eq!(find("GET", "/v1/kv/"), Target::Endpoint(Endpoint::Kv, "".into()));
        assert_eq!(find("GET", "/v1/kv"), Target::Moved("/v1/kv/".into()));
    }

    #[test]
    fn what_does_not_exist_or_is_not_allowed_is_told_apart() {
        assert_eq!(find("GET", "/v1/agent/services/x"), Target::NotFound);
        assert_eq!(find("GET", "/v1/connect/ca/roots"), Target::NotFound);
        assert_eq!(find("GET", "/v2/kv/a"), Target::NotFound);
        assert_eq!(find("POST", "/v1/kv/a"), Target::MethodNotAllowed("OPTIONS,GET,PUT,DELETE".into()));
        assert_eq!(find("HEAD", "/v1/kv/a"), Target::MethodNotAllowed("OPTIONS,GET,PUT,DELETE".into()));
        assert_eq!(find("OPTIONS", "/v1/agent/join/x"), Target::Options("OPTIONS,PUT".into()));
        assert_eq!(find("GET", "/v1/kv/a%00"), Target::BadPath);
        assert_eq!(find("GET", "/v1/kv/a%"), Target::BadPath);
        assert_eq!(find("GET", "/v1/kv/%E2%80%8B"), Target::BadPath);
        assert_eq!(find("GET", "/"), Target::Root);
    }
}
