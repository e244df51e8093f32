//! One method for each request that several commands make. Other paths go through [`Client::get`] and its siblings.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use super::{AgentCheck, AgentService, Bytes, Client, ClientError, Member, Query, Reply, escape};

impl Client {
    /// `GET /v1/status/leader`: address of the leader, `None` while there is none.
    ///
    /// # Errors
    /// As [`Client::get_json`].
    pub async fn status_leader(&self) -> Result<Option<String>, ClientError> {
        let leader: String = self.get_json("/v1/status/leader", &[]).await?;
        Ok(Some(leader).filter(|leader| !leader.is_empty()))
    }

    /// How long ago, in milliseconds, the agent heard the leader; `None` when it never did.
    ///
    /// # Errors
    /// As [`Client::get_json`].
    pub async fn leader_heard_millis_ago(&self) -> Result<Option<u64>, ClientError> {
        let reply = self.get("/v1/catalog/services", &[("stale", "")]).await?.accepted()?;
        let millis = reply.headers.get("x-consul-lastcontact").and_then(|millis| millis.parse().ok());
        Ok(millis.filter(|millis| *millis != u64::MAX))
    }

    /// `GET /v1/agent/self`.
    ///
    /// # Errors
    /// As [`Client::get_json`].
    pub async fn agent_self(&self) -> Result<Value, ClientError> {
        self.get_json("/v1/agent/self", &[]).await
    }

    /// `GET /v1/agent/members`.
    ///
    /// # Errors
    /// As [`Client::get_json`].
    pub async fn agent_members(&self) -> Result<Vec<Member>, ClientError> {
        self.get_json("/v1/agent/members", &[]).await
    }

    /// `GET /v1/agent/services`: what is registered at this agent, by id.
    ///
    /// # Errors
    /// As [`Client::get_json`].
    pub async fn agent_services(&self) -> Result<BTreeMap<String, AgentService>, ClientError> {
        self.get_json("/v1/agent/services", &[]).await
    }

    /// `GET /v1/agent/checks`: the checks of this agent, by id.
    ///
    /// # Errors
    /// As [`Client::get_json`].
    pub async fn agent_checks(&self) -> Result<BTreeMap<String, AgentCheck>, ClientError> {
        self.get_json("/v1/agent/checks", &[]).await
    }

    /// `PUT /v1/agent/service/register`. Checks that the service has and `definition` does not mention stay.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] or [`ClientError::Status`].
    pub async fn register_service(&self, definition: &impl Serialize) -> Result<(), ClientError> {
        let path = "/v1/agent/service/register";
        let body = json_body(path, definition)?;
        self.put(path, &[], body).await?.accepted().map(drop)
    }

    /// `PUT /v1/agent/service/deregister/ID`; a service that is not there is fine.
    ///
    /// # Errors
    /// As [`Client::register_service`].
    pub async fn deregister_service(&self, id: &str) -> Result<(), ClientError> {
        let path = format!("/v1/agent/service/deregister/{}", escape(id));
        let reply = self.put(&path, &[], Bytes::new()).await?;
        if reply.status == 404 { Ok(()) } else { reply.accepted().map(drop) }
    }

    /// `PUT /v1/agent/service/maintenance/ID`.
    ///
    /// # Errors
    /// As [`Client::register_service`].
    pub async fn service_maintenance(&self, id: &str, enable: bool, reason: &str) -> Result<(), ClientError> {
        let path = format!("/v1/agent/service/maintenance/{}", escape(id));
        let enable = if enable { "true" } else { "false" };
        self.put(&path, &[("enable", enable), ("reason", reason)], Bytes::new()).await?.accepted().map(drop)
    }

    /// `PUT /v1/agent/check/update/ID`: the status (`passing`, `warning`, `critical`) of a TTL check.
    ///
    /// # Errors
    /// As [`Client::register_service`].
    pub async fn update_check(&self, id: &str, status: &str, output: &str) -> Result<(), ClientError> {
        let path = format!("/v1/agent/check/update/{}", escape(id));
        let body = json_body(&path, &json!({ "Status": status, "Output": output }))?;
        self.put(&path, &[], body).await?.accepted().map(drop)
    }

    /// `PUT /v1/agent/check/deregister/ID`; a check that is not there is fine.
    ///
    /// # Errors
    /// As [`Client::register_service`].
    pub async fn deregister_check(&self, id: &str) -> Result<(), ClientError> {
        let path = format!("/v1/agent/check/deregister/{}", escape(id));
        let reply = self.put(&path, &[], Bytes::new()).await?;
        if reply.status == 404 { Ok(()) } else { reply.accepted().map(drop) }
    }

    /// `GET /v1/kv/KEY` as it was answered (404 for a missing key); `?recurse`, `?keys`, `?raw` go into the query.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`].
    pub async fn kv_get(&self, key: &str, query: Query<'_>) -> Result<Reply, ClientError> {
        self.get(&kv_path(key)?, query).await
    }

    /// `PUT /v1/kv/KEY`: whether it was written; `false` only with `?cas`, `?acquire` or `?release`.
    ///
    /// # Errors
    /// As [`Client::get_json`].
    pub async fn kv_put(
        &self,
        key: &str,
        value: impl Into<Bytes>,
        query: Query<'_>,
    ) -> Result<bool, ClientError> {
        Ok(self.put(&kv_path(key)?, query, value).await?.accepted()?.text().trim() == "true")
    }

    /// `DELETE /v1/kv/KEY`: whether it is gone; `false` only with `?cas`.
    ///
    /// # Errors
    /// As [`Client::get_json`].
    pub async fn kv_delete(&self, key: &str, query: Query<'_>) -> Result<bool, ClientError> {
        Ok(self.delete(&kv_path(key)?, query).await?.accepted()?.text().trim() == "true")
    }

    /// `GET /v1/catalog/datacenters`.
    ///
    /// # Errors
    /// As [`Client::get_json`].
    pub async fn catalog_datacenters(&self) -> Result<Vec<String>, ClientError> {
        self.get_json("/v1/catalog/datacenters", &[]).await
    }

    /// `GET /v1/catalog/nodes`.
    ///
    /// # Errors
    /// As [`Client::get_json`].
    pub async fn catalog_nodes(&self, query: Query<'_>) -> Result<Vec<Value>, ClientError> {
        self.get_json("/v1/catalog/nodes", query).await
    }

    /// `GET /v1/catalog/services`: names with all their tags.
    ///
    /// # Errors
    /// As [`Client::get_json`].
    pub async fn catalog_services(
        &self,
        query: Query<'_>,
    ) -> Result<BTreeMap<String, Vec<String>>, ClientError> {
        self.get_json("/v1/catalog/services", query).await
    }

    /// `GET /v1/catalog/service/NAME`.
    ///
    /// # Errors
    /// As [`Client::get_json`].
    pub async fn catalog_service(&self, name: &str, query: Query<'_>) -> Result<Vec<Value>, ClientError> {
        self.get_json(&format!("/v1/catalog/service/{}", escape(name)), query).await
    }

    /// `GET /v1/health/service/NAME`.
    ///
    /// # Errors
    /// As [`Client::get_json`].
    pub async fn health_service(&self, name: &str, query: Query<'_>) -> Result<Vec<Value>, ClientError> {
        self.get_json(&format!("/v1/health/service/{}", escape(name)), query).await
    }
}

/// The path of a key. Its slashes stay as they are, so that every agent reads the same key, unless a part of it
/// is `.` or `..`: URLs resolve those, and `../agent/leave` would be another request.
fn kv_path(key: &str) -> Result<String, ClientError> {
    let is_dots = |part: &str| matches!(part, "." | "..");
    if is_dots(key) {
        return Err(ClientError::Key(key.to_owned()));
    }
    if key.split('/').any(is_dots) {
        return Ok(format!("/v1/kv/{}", escape(key)));
    }
    let parts: Vec<String> = key.split('/').map(escape).collect();
    Ok(format!("/v1/kv/{}", parts.join("/")))
}

fn json_body(path: &str, value: &impl Serialize) -> Result<Bytes, ClientError> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|source| ClientError::Answer { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::kv_path;

    #[test]
    fn slashes_of_a_key_stay_and_the_rest_is_escaped() {
        assert_eq!(kv_path("a/b c/").unwrap(), "/v1/kv/a/b%20c/");
        assert_eq!(kv_path("").unwrap(), "/v1/kv/");
    }

    #[test]
    fn a_key_with_dots_cannot_become_another_request() {
        assert_eq!(kv_path("../agent/leave").unwrap(), "/v1/kv/..%2Fagent%2Fleave");
        assert!(kv_path("..").is_err());
    }
}
