//! Asking the living cluster what a server is: the only ground on which a server ceases to be one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::agent::handle::{Order, OrderReply};
use crate::agent::rpc::messages::OrderAnswer;
use crate::agent::rpc::{Channel, Identity, Method, decode, encode};
use crate::model::sync::servers::Standing;
use crate::tasks::Spawner;

/// How long one server may take: the leader asks a majority first.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// Asks servers, and keeps its connections.
pub(super) struct Asker {
    identity: Arc<Identity>,
    spawner: Spawner,
    channels: Mutex<BTreeMap<SocketAddr, Arc<Channel>>>,
}

impl Asker {
    pub(super) fn new(identity: Arc<Identity>, spawner: Spawner) -> Self {
        Self { identity, spawner, channels: Mutex::default() }
    }

    /// What the leader says, whichever of `servers` that is; `None` when none of them leads with a majority.
    pub(super) async fn ask(
        &self,
        servers: &[SocketAddr],
        id: u64,
        nomination: Option<u64>,
    ) -> Option<Standing> {
        self.channels.lock().retain(|address, _| servers.contains(address));
        let question = encode(&Order::Standing { id, nomination }).ok()?;
        for address in servers {
            let channel = self.channel(*address);
            match channel.call(Method::OrderHere, question.clone(), ANSWER_WAIT).await {
                Ok(body) => match decode::<OrderAnswer>(&body) {
                    Ok(Ok(OrderReply::Standing(standing))) => return Some(standing),
                    Ok(answer) => tracing::debug!(%address, ?answer, "that server does not lead"),
                    Err(error) => tracing::warn!(%address, %error, "an answer is not understood"),
                },
                Err(error) => tracing::debug!(%address, %error, "no answer about this server's standing"),
            }
        }
        None
    }

    fn channel(&self, address: SocketAddr) -> Arc<Channel> {
        let make = || Arc::new(Channel::new(address, None, self.identity.clone(), self.spawner.clone()));
        self.channels.lock().entry(address).or_insert_with(make).clone()
    }
}
