//! The little of HTTP/2 and gRPC that the kubelet speaks when it asks a plugin who it is.
//!
//! The kubelet sends the socket's path as `:authority`. That is no authority, and the HTTP/2 library beneath tonic resets such a
//! stream, as it should. So header blocks are passed over unread here. What is asked for is seen from the message: of the two calls
//! there are, one has an empty message and the other never has.

use std::collections::HashMap;
use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The largest frame that a peer may send who was not told otherwise.
const MAX_FRAME: usize = 16_384;
/// Far more than the kubelet has to say.
const MAX_MESSAGE: usize = 4096;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
/// On SETTINGS and PING.
const ACK: u8 = 1;
/// On DATA and HEADERS.
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// `:status: 200` from the static table, and `content-type: application/grpc` under the name in it.
const RESPONSE_HEADERS: &[u8] = b"\x88\x0f\x10\x10application/grpc";
/// `grpc-status: 0`
const TRAILERS: &[u8] = b"\x00\x0bgrpc-status\x010";

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

/// Answers every call on one connection until the kubelet hangs up. `answer` makes a message from a message.
pub(super) async fn serve(
    mut connection: impl AsyncRead + AsyncWrite + Unpin,
    answer: impl Fn(&[u8]) -> io::Result<Vec<u8>>,
) -> io::Result<()> {
    let mut preface = [0; PREFACE.len()];
    connection.read_exact(&mut preface).await?;
    if preface != PREFACE {
        return Err(invalid("not HTTP/2"));
    }
    send(&mut connection, SETTINGS, 0, 0, &[]).await?;
    let mut calls = HashMap::<u32, Vec<u8>>::new();
    while let Some(frame) = receive(&mut connection).await? {
        match frame.kind {
            SETTINGS if frame.flags & ACK == 0 => send(&mut connection, SETTINGS, ACK, 0, &[]).await?,
            PING if frame.flags & ACK == 0 => send(&mut connection, PING, ACK, 0, &frame.payload).await?,
            HEADERS => drop(calls.insert(frame.stream, Vec::new())),
            RST_STREAM => drop(calls.remove(&frame.stream)),
            DATA => {
                let Some(call) = calls.get_mut(&frame.stream) else { continue };
                call.extend_from_slice(unpadded(&frame)?);
                if call.len() > MAX_MESSAGE {
                    return Err(invalid("the message is too long"));
                }
                if frame.flags & END_STREAM != 0 {
                    let call = calls.remove(&frame.stream).unwrap_or_default();
                    reply(&mut connection, frame.stream, &answer(message(&call)?)?).await?;
                }
            }
            GOAWAY => break,
            // Priorities, windows and the rest of header blocks change nothing here.
            _ => {}
        }
    }
    Ok(())
}

/// The next frame; nothing when the kubelet has hung up between two.
async fn receive(connection: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Frame>> {
    let mut header = [0; 9];
    match connection.read_exact(&mut header).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    };
    let [a, b, c, kind, flags, s1, s2, s3, s4] = header;
    let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).map_err(io::Error::other)?;
    if length > MAX_FRAME {
        return Err(invalid("the frame is too long"));
    }
    let mut payload = vec![0; length];
    connection.read_exact(&mut payload).await?;
    // The highest bit is reserved.
    Ok(Some(Frame { kind, flags, stream: u32::from_be_bytes([s1 & 0x7f, s2, s3, s4]), payload }))
}

fn unpadded(frame: &Frame) -> io::Result<&[u8]> {
    if frame.flags & PADDED == 0 {
        return Ok(&frame.payload);
    }
    let (padding, rest) = frame.payload.split_first().ok_or_else(|| invalid("padding without its length"))?;
    let length =
        rest.len().checked_sub(usize::from(*padding)).ok_or_else(|| invalid("more padding than frame"))?;
    Ok(rest.get(..length).unwrap_or_default())
}

/// A gRPC message: not compressed, its length, itself.
fn message(call: &[u8]) -> io::Result<&[u8]> {
    let (prefix, message) = call.split_first_chunk::<5>().ok_or_else(|| invalid("no gRPC message"))?;
    let [compressed, length @ ..] = *prefix;
    if compressed != 0 || u32::from_be_bytes(length) as usize != message.len() {
        return Err(invalid("not one plain gRPC message"));
    }
    Ok(message)
}

async fn reply(connection: &mut (impl AsyncWrite + Unpin), stream: u32, message: &[u8]) -> io::Result<()> {
    let length = u32::try_from(message.len()).map_err(io::Error::other)?;
    let framed = [&[0], length.to_be_bytes().as_slice(), message].concat();
    send(connection, HEADERS, END_HEADERS, stream, RESPONSE_HEADERS).await?;
    send(connection, DATA, 0, stream, &framed).await?;
    send(connection, HEADERS, END_HEADERS | END_STREAM, stream, TRAILERS).await
}

async fn send(
    connection: &mut (impl AsyncWrite + Unpin),
    kind: u8,
    flags: u8,
    stream: u32,
    payload: &[u8],
) -> io::Result<()> {
    let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
    let [_, a, b, c] = length.to_be_bytes();
    let [s1, s2, s3, s4] = stream.to_be_bytes();
    connection.write_all(&[&[a, b, c, kind, flags, s1, s2, s3, s4], payload].concat()).await
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("a length").to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }
    fn call(headers: &[u8], body: &[u8]) -> Vec<u8> {
        let settings = frame(SETTINGS, 0, 0, &[]);
        let parts =
            [PREFACE, &settings, &frame(HEADERS, END_HEADERS, 1, headers), &frame(DATA, END_STREAM, 1, body)];
        parts.concat()
    }
    /// What is answered to these bytes, after which the peer hangs up.
    async fn answered(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let (mut near, far) = tokio::io::duplex(1 << 16);
        near.write_all(bytes).await.expect("a write");
        near.shutdown().await.expect("an end");
        serve(far, |message| Ok([b"<", message, b">"].concat())).await?;
        let mut answer = Vec::new();
        near.read_to_end(&mut answer).await.expect("a read");
        Ok(answer)
    }

    #[tokio::test]
    async fn a_header_block_that_no_library_would_take_is_passed_over() {
        // `:authority` as a literal, with the path of a socket.
        let answer =
            answered(&call(b"\x01\x13%2Fvar%2Flib%2Fa.sock", b"\0\0\0\0\x02hi")).await.expect("an answer");
        let body = frame(DATA, 0, 1, b"\0\0\0\0\x04<hi>");
        assert!(answer.windows(body.len()).any(|window| window == body), "{answer:?}");
        assert!(answer.ends_with(TRAILERS));
    }

    #[tokio::test]
    async fn padding_is_no_part_of_a_message() {
        let padded = frame(DATA, END_STREAM | PADDED, 1, b"\x03\0\0\0\0\x01a\0\0\0");
        let bytes = [PREFACE, &frame(HEADERS, END_HEADERS, 1, b""), &padded].concat();
        let answer = answered(&bytes).await.expect("an answer");
        assert!(answer.windows(3).any(|window| window == b"<a>"), "{answer:?}");
    }

    #[tokio::test]
    async fn what_is_not_http2_or_not_grpc_ends_the_connection() {
        let long = frame(DATA, 0, 1, &[0; MAX_MESSAGE + 1]);
        let huge = [0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1].to_vec();
        let over_padded = frame(DATA, END_STREAM | PADDED, 1, b"\x09a");
        let headers = frame(HEADERS, END_HEADERS, 1, b"");
        for bytes in [
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
            call(b"", b""),
            call(b"", b"\x01\0\0\0\0"),
            call(b"", b"\0\0\0\0\x05hi"),
            [PREFACE, &headers, &long].concat(),
            [PREFACE, &headers, &over_padded].concat(),
            [PREFACE, &huge].concat(),
        ] {
            let error = answered(&bytes).await.expect_err("it ends");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        }
    }
}
