//! HTTP/3 by hand: frames and fields that no client would send, and what comes back of them.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use quinn::{Connection, ConnectionError, Endpoint, ReadError, SendStream, WriteError};

use super::{Going, LIMIT, connect};
use crate::tls::client_config;

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was answered.
    Status(u16),
    /// Its stream was reset, with that code.
    Reset(u64),
    /// The connection was closed, with that code.
    Closed(u64),
    /// The connection was lost without a word.
    Lost,
}

/// A connection on which anything can be sent.
#[derive(Debug)]
pub struct Raw {
    going: Going,
    endpoint: Endpoint,
    connection: Connection,
    own: Mutex<Vec<SendStream>>,
}

/// A number as QUIC writes it (RFC 9000 § 16).
fn number(value: u64) -> Vec<u8> {
    match value {
        0..=0x3f => vec![value as u8],
        0x40..=0x3fff => (value as u16 | 0x4000).to_be_bytes().to_vec(),
        0x4000..=0x3fff_ffff => (value as u32 | 0x8000_0000).to_be_bytes().to_vec(),
        _ => (value | 0xc000_0000_0000_0000).to_be_bytes().to_vec(),
    }
}

/// The beginning of a frame that says it is so long.
pub fn frame_head(kind: u64, length: u64) -> Vec<u8> {
    [number(kind), number(length)].concat()
}

/// A frame (RFC 9114 § 7.1).
pub fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
    [frame_head(kind, payload.len() as u64), payload.to_vec()].concat()
}

/// Fields as they are, without any table (RFC 9204 § 4.5.6).
pub fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let text = |first: u8, most: u8, text: &str| {
        let mut bytes = Vec::new();
        if text.len() < usize::from(most) {
            bytes.push(first | text.len() as u8);
        } else {
            bytes.push(first | most);
            let mut left = text.len() - usize::from(most);
            while left >= 128 {
                bytes.push(left as u8 | 0x80);
                left >>= 7;
            }
            bytes.push(left as u8);
        }
        bytes.extend_from_slice(text.as_bytes());
        bytes
    };
    let each =
        fields.iter().map(|(name, value)| [text(0x20, 7, name), text(0, 127, value)].concat());
    [vec![0, 0], each.collect::<Vec<_>>().concat()].concat()
}

/// The status that a head begins with (RFC 9204 § 4.5, appendix A).
fn status(block: &[u8]) -> Option<u16> {
    const KNOWN: [(u8, u16); 14] = [
        (24, 103),
        (25, 200),
        (26, 304),
        (27, 404),
        (28, 503),
        (63, 100),
        (64, 204),
        (65, 206),
        (66, 302),
        (67, 400),
        (68, 403),
        (69, 421),
        (70, 425),
        (71, 500),
    ];
    let first = *block.get(2)?;
    if first & 0x80 != 0 {
        let short = first & 0x3f;
        let index = if short < 63 { short } else { 63 + block.get(3)? };
        return KNOWN.iter().find(|(at, _)| *at == index).map(|(_, status)| *status);
    }
    // By name, in the static table: the value follows, packed or not.
    let at = if first & 0x0f == 0x0f { 4 } else { 3 };
    let length = usize::from(block.get(at)? & 0x7f);
    let value = block.get(at + 1..at + 1 + length)?;
    if block.get(at)? & 0x80 == 0 {
        return std::str::from_utf8(value).ok()?.parse().ok();
    }
    let mut bits = value.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1));
    let mut digits = 0;
    for _ in 0..3 {
        let mut code = 0;
        for _ in 0..5 {
            code = code << 1 | u16::from(bits.next()?);
        }
        // 0, 1 and 2 take five bits, the others six (RFC 7541 appendix B).
        let digit = if code < 3 { code } else { (code << 1 | u16::from(bits.next()?)) - 0x19 + 3 };
        digits = digits * 10 + digit;
    }
    Some(digits)
}

fn closed(error: &ConnectionError) -> End {
    match error {
        ConnectionError::ApplicationClosed(closed) => End::Closed(closed.error_code.into()),
        _ => End::Lost,
    }
}

impl Raw {
    /// Shakes hands, and says the least that a client has to: empty settings.
    pub fn open(address: SocketAddr, host: &str, ca: &Path) -> io::Result<Self> {
        let raw = Self::silent(address, host, ca)?;
        raw.own_stream(&[&[0][..], &frame(4, &[])].concat())?;
        Ok(raw)
    }

    /// Shakes hands, and says nothing.
    pub fn silent(address: SocketAddr, host: &str, ca: &Path) -> io::Result<Self> {
        let going = Going::new()?;
        let tls = client_config(ca, &["h3"]);
        let (endpoint, connection) = going.runtime.block_on(connect(address, host, &tls))?;
        Ok(Self { going, endpoint, connection, own: Mutex::default() })
    }

    /// Sends on a new stream of the connection's own, which stays open.
    pub fn own_stream(&self, bytes: &[u8]) -> io::Result<()> {
        self.within(async {
            let mut stream = self.connection.open_uni().await.map_err(io::Error::other)?;
            stream.write_all(bytes).await.map_err(io::Error::other)?;
            // Neither its end nor a reset.
            self.own.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
            Ok(())
        })
    }

    /// Begins streams that are taken back at once.
    pub fn take_back(&self, bytes: &[u8], count: u32) -> Result<(), End> {
        let work = async {
            for _ in 0..count {
                let opened = self.connection.open_bi().await;
                let (mut send, mut receive) = opened.map_err(|error| closed(&error))?;
                send.write_all(bytes).await.ok();
                send.reset(0x10c_u32.into()).ok();
                receive.stop(0x10c_u32.into()).ok();
            }
            Ok(())
        };
        self.within(async { Ok(work.await) }).unwrap_or(Ok(()))
    }

    /// Sends on a new stream, ends it or not, and waits for what comes of it.
    pub fn ask(&self, bytes: &[u8], ends: bool) -> End {
        let work = async {
            let (mut send, mut receive) = match self.connection.open_bi().await {
                Ok(both) => both,
                Err(error) => return Ok(closed(&error)),
            };
            match send.write_all(bytes).await {
                Err(WriteError::ConnectionLost(error)) => return Ok(closed(&error)),
                Err(WriteError::Stopped(code)) if code != 0x100_u32.into() => {
                    return Ok(End::Reset(code.into()));
                }
                _ if ends => drop(send.finish()),
                _ => {}
            }
            let mut answer = Vec::new();
            loop {
                match receive.read_chunk(usize::MAX, true).await {
                    Ok(Some(chunk)) => answer.extend_from_slice(&chunk.bytes),
                    Ok(None) => break,
                    Err(ReadError::Reset(code)) => return Ok(End::Reset(code.into())),
                    Err(ReadError::ConnectionLost(error)) => return Ok(closed(&error)),
                    Err(error) => return Err(io::Error::other(error)),
                }
            }
            let block = answer.get(1..).map(|rest| match rest.first() {
                Some(length) if length >> 6 == 0 => &rest[1..],
                _ => &rest[2..],
            });
            Ok(block.and_then(status).map_or(End::Lost, End::Status))
        };
        self.within(work).unwrap_or(End::Lost)
    }

    /// Waits for the end of the connection.
    pub fn end(&self) -> End {
        self.within(async { Ok(closed(&self.connection.closed().await)) }).unwrap_or(End::Lost)
    }

    fn within<T>(&self, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let limit = LIMIT + Duration::from_secs(10);
        self.going.runtime.block_on(async { tokio::time::timeout(limit, work).await? })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.endpoint.close(0x100_u32.into(), b"");
        self.within(async {
            self.endpoint.wait_idle().await;
            Ok(())
        })
        .ok();
    }
}
