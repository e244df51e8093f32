//! News waiting to ride on datagrams: least-told first, each told a limited number of times.

use super::codec::{Datagram, encode_claim};
use super::message::Claim;

/// Most news waiting; beyond it the most-told is dropped (the next full exchange repairs that).
const NEWS_MAX: usize = 20_000;

#[derive(Debug)]
struct News {
    name: String,
    /// Accusations by different members stand beside each other; all else replaces what was said before.
    accuser: Option<String>,
    bytes: Vec<u8>,
    told: u32,
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Broadcasts(Vec<News>);

impl Broadcasts {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether something about `name` is still to be told.
    pub(super) fn mentions(&self, name: &str) -> bool {
        self.0.iter().any(|news| news.name == name)
    }

    /// Adds a claim in place of older ones about the same member.
    pub(super) fn add(&mut self, claim: &Claim) {
        let accuser = match claim {
            Claim::Suspect { accuser, .. } => Some(accuser.clone()),
            _ => None,
        };
        self.0.retain(|news| news.name != claim.name() || (accuser.is_some() && news.accuser != accuser));
        if self.0.len() >= NEWS_MAX {
            self.0.pop();
        }
        let news = News { name: claim.name().to_owned(), accuser, bytes: encode_claim(claim), told: 0 };
        self.0.insert(0, news);
    }

    /// Fills `datagram` with the least-told news; what has been told `limit` times is dropped.
    pub(super) fn fill(&mut self, datagram: &mut Datagram, limit: u32) {
        let mut told = false;
        for news in &mut self.0 {
            if datagram.is_full() {
                break;
            }
            if datagram.add(&news.bytes) {
                news.told += 1;
                told = true;
            }
        }
        if told {
            self.0.retain(|news| news.told < limit);
            self.0.sort_by_key(|news| news.told);
        }
    }
}
