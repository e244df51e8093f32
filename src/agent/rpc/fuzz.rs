//! For `crate::fuzz`: any bytes as what a connection brings, from its first byte on.

use futures_util::FutureExt as _;

use super::frame::{Frame, read, reader, shake_hands, write_all};
use super::{Hello, Method, PROTOCOL_VERSION, RemoteError, decode};

/// The other side's handshake, then its frames. Frames that were read are written as they were.
pub(crate) fn frames(bytes: &[u8]) {
    let ours = Hello { version: PROTOCOL_VERSION, cluster: None, node: 1, name: "me".to_owned() };
    let mut incoming = reader(bytes);
    let mut sent = Vec::new();
    // The handshake has a deadline, and so needs a clock.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime without threads can be made");
    if runtime.block_on(shake_hands(&mut incoming, &mut sent, &ours)).is_err() {
        return;
    }
    while let Some(Ok(Some(frame))) = read(&mut incoming).now_or_never() {
        let _known = Method::from_byte(frame.kind);
        drop(decode::<RemoteError>(&frame.body));
        assert_eq!(written(frame.clone()), Some(frame));
    }
}

fn written(frame: Frame) -> Option<Frame> {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    sender.try_send(frame).ok()?;
    drop(sender);
    let mut bytes = Vec::new();
    write_all(receiver, &mut bytes).now_or_never()?.ok()?;
    let mut again = reader(bytes.as_slice());
    again.decoder_mut().set_max_frame_length(super::FRAME_BYTES_MAX);
    read(&mut again).now_or_never()?.ok()?
}

/// What a connection really brings.
#[cfg(test)]
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    use bytes::Bytes;

    let hello = Hello { version: PROTOCOL_VERSION, cluster: None, node: 2, name: "other".to_owned() };
    let hello = super::encode(&hello).unwrap();
    let mut handshake = u32::try_from(hello.len()).unwrap().to_be_bytes().to_vec();
    handshake.extend_from_slice(&hello);
    let mut whole = handshake.clone();
    for (id, kind) in (1..).zip([1_u8, 2, 0, 0x81, 0x82, 0x83, 0x84]) {
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        sender.try_send(Frame { id, kind, body: Bytes::from_static(b"body") }).unwrap();
        drop(sender);
        write_all(receiver, &mut whole).now_or_never().unwrap().unwrap();
    }
    vec![handshake, whole]
}
