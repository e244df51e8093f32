//! Asking an agent who it is, without becoming a member.

use super::codec::{decode_frame, encode_frame};
use super::member::Tags;
use super::message::{Frame, State};

/// What is sent over TCP: the exchange of somebody who knows nobody and says nothing of itself.
pub fn who_are_you(asker: &str) -> Vec<u8> {
    encode_frame(&Frame::Sync { from: asker.to_owned(), entries: Vec::new() })
}

/// What the agent that was asked says of itself: its name and its tags; nothing if it has left, or is no agent.
pub fn who_answered(reply: &[u8]) -> Option<(String, Tags)> {
    let Ok(Frame::Sync { from, entries }) = decode_frame(reply) else { return None };
    let own = entries.into_iter().find(|entry| entry.name == from)?;
    (own.state != State::Left).then_some((own.name, own.tags))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::{who_answered, who_are_you};
    use crate::model::membership::{Config, Input, Output, Swim, Tags};

    #[test]
    fn an_agent_says_who_it_is_to_somebody_who_does_not_become_a_member() {
        let tags = Tags::try_from(BTreeMap::from([("id".to_owned(), "7".to_owned())])).unwrap();
        let address = "10.0.0.1:8301".parse().unwrap();
        let mut agent = Swim::new(Config::default(), "one".to_owned(), address, tags.clone(), 1);
        let asked = Input::StreamRequest { stream: 4, bytes: who_are_you("two") };
        let outputs = agent.step(Duration::ZERO, asked);
        let [Output::Reply { stream: 4, bytes: Some(reply) }] = &outputs[..] else { panic!("{outputs:?}") };
        assert_eq!(who_answered(reply), Some(("one".to_owned(), tags)));
        assert_eq!(agent.members().len(), 1, "itself");
        assert_eq!(who_answered(b"HTTP/1.1 400 Bad Request"), None);
    }
}
