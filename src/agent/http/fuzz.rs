//! For `crate::fuzz`: any bytes as the query string of a request.

use super::request::{Query, Request, decode};
use crate::agent::handle::Identity;
use crate::fuzz::filter_text;

/// A query string, with all that is read from one.
pub(crate) fn query(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    drop(decode(text, false));
    let Some(query) = Query::parse(text) else { return };
    let again = Query::parse(&query.encoded()).map(|query| query.encoded());
    assert_eq!(again.as_ref(), Some(&query.encoded()), "what we write we read");
    for text in query.all("filter") {
        filter_text(text);
    }
    let identity = Identity {
        node_id: String::new(),
        node_name: "node".to_owned(),
        datacenter: "dc1".to_owned(),
        domain: "consul".to_owned(),
        advertise: [127, 0, 0, 1].into(),
        server: true,
        node_meta: [].into(),
        listeners: [].into(),
        debug_config: [].into(),
        pretty: false,
    };
    let request = Request { rest: String::new(), query, body: bytes::Bytes::new() };
    if let Ok(options) = request.read_options(&identity) {
        assert!(options.wait.as_secs() <= 640, "ten minutes and a sixteenth");
    }
    drop(request.write_options(&identity));
    drop(request.truth("cas"));
}
