//! Frames on the wire: `length u32 | id u64 | kind u8 | body`, big endian; and the handshake.
//!
//! Pure encoding plus the two loops that move frames between a socket and a queue.

use std::io;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures_util::StreamExt as _;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_util::codec::{FramedRead, LengthDelimitedCodec};

use super::{FRAME_BYTES_MAX, HANDSHAKE_WAIT, Hello, RpcError, decode, encode};

/// Longest first frame in bytes: names and a uuid; a stranger makes us reserve no more than this.
const HELLO_BYTES_MAX: usize = 4 << 10;
/// Frames of one connection that wait to be written.
pub(super) const FRAMES_WAITING_MAX: usize = 1024;
/// Frames that are put together for one write.
const FRAMES_TOGETHER_MAX: usize = 64;
/// Bytes of the write buffer that are kept between writes; a snapshot must not pin its size for ever.
const BUFFER_BYTES_KEPT: usize = 256 << 10;
const HEADER_BYTES: usize = 9;

/// Kinds of frames that answer.
pub(super) const KIND_ANSWER: u8 = 0;
pub(super) const KIND_ERROR: u8 = 0x81;
pub(super) const KIND_MORE: u8 = 0x82;
pub(super) const KIND_END: u8 = 0x83;
/// The asker has given up.
pub(super) const KIND_CANCEL: u8 = 0x84;

/// One frame behind the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) id: u64,
    pub(super) kind: u8,
    pub(super) body: Bytes,
}

pub(super) type FrameReader<R> = FramedRead<R, LengthDelimitedCodec>;

/// The reading half, with the short limit of the handshake.
pub(super) fn reader<R: AsyncRead>(half: R) -> FrameReader<R> {
    let codec = LengthDelimitedCodec::builder().max_frame_length(HELLO_BYTES_MAX).new_codec();
    FramedRead::new(half, codec)
}

/// Sends our first frame and reads the other side's.
pub(super) async fn shake_hands<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    reader: &mut FrameReader<R>,
    writer: &mut W,
    ours: &Hello,
) -> Result<Hello, RpcError> {
    let lost = |error: io::Error| RpcError::Unreachable(format!("handshake failed: {error}"));
    let exchange = async {
        let body = encode(ours)?;
        let mut frame = BytesMut::with_capacity(4 + body.len());
        frame.put_u32(u32::try_from(body.len()).map_err(|error| lost(io::Error::other(error)))?);
        frame.put_slice(&body);
        writer.write_all(&frame).await.map_err(lost)?;
        let theirs =
            reader.next().await.ok_or_else(|| lost(io::ErrorKind::UnexpectedEof.into()))?.map_err(lost)?;
        decode(&theirs).map_err(RpcError::from)
    };
    let hello = tokio::time::timeout(HANDSHAKE_WAIT, exchange)
        .await
        .map_err(|_| RpcError::Unreachable(format!("no handshake within {HANDSHAKE_WAIT:?}")))??;
    reader.decoder_mut().set_max_frame_length(FRAME_BYTES_MAX);
    Ok(hello)
}

/// The next frame, or `None` at the end of the connection.
pub(super) async fn read<R: AsyncRead + Unpin>(reader: &mut FrameReader<R>) -> io::Result<Option<Frame>> {
    let Some(bytes) = reader.next().await.transpose()? else { return Ok(None) };
    if bytes.len() < HEADER_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is shorter than its header"));
    }
    let mut bytes = bytes.freeze();
    let id = bytes.get_u64();
    let kind = bytes.get_u8();
    Ok(Some(Frame { id, kind, body: bytes }))
}

/// Writes queued frames, as many as there are with one write, until the queue is closed.
pub(super) async fn write_all<W: AsyncWrite + Unpin>(
    mut frames: mpsc::Receiver<Frame>,
    mut writer: W,
) -> io::Result<()> {
    let mut waiting = Vec::with_capacity(FRAMES_TOGETHER_MAX);
    let mut buffer = BytesMut::new();
    while frames.recv_many(&mut waiting, FRAMES_TOGETHER_MAX).await > 0 {
        for frame in waiting.drain(..) {
            let length = u32::try_from(HEADER_BYTES + frame.body.len()).map_err(io::Error::other)?;
            buffer.put_u32(length);
            buffer.put_u64(frame.id);
            buffer.put_u8(frame.kind);
            buffer.put_slice(&frame.body);
        }
        writer.write_all(&buffer).await?;
        buffer.clear();
        if buffer.capacity() > BUFFER_BYTES_KEPT {
            buffer = BytesMut::new();
        }
    }
    writer.shutdown().await
}
