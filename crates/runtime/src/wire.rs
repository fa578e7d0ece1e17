//! Frames of the shim's protocol: a 4-byte big-endian length, then JSON.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest frame in bytes.
const MAX: usize = 1 << 20;

/// Writes one frame.
pub(crate) fn write(stream: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let payload = serde_json::to_vec(message)?;
    let mut frame = u32::try_from(payload.len())
        .map_err(|_| io::ErrorKind::InvalidInput)?
        .to_be_bytes()
        .to_vec();
    frame.extend(payload);
    stream.write_all(&frame)
}

/// Reads one frame. Blocking.
pub(crate) fn read<T: DeserializeOwned>(stream: &mut impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload)?;
    Ok(serde_json::from_slice(&payload)?)
}

/// Takes one whole frame off the front of a buffer that grows as bytes come.
pub(crate) fn take(buffer: &mut Vec<u8>) -> Option<Result<Vec<u8>, ()>> {
    let length = u32::from_be_bytes(buffer.get(..4)?.try_into().ok()?) as usize;
    if length > MAX {
        return Some(Err(()));
    }
    let frame = buffer.get(4..4 + length)?.to_vec();
    buffer.drain(..4 + length);
    Some(Ok(frame))
}
