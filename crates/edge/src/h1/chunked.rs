//! Chunked bodies (RFC 9112 § 7.1): where the next chunk begins and where the body ends.
//!
//! Extensions are let through within a line of 256 bytes, since nobody behind us sees them. Invariant: a
//! line ends in CR LF, and nothing else does.

use bytes::{Buf, BytesMut};

use super::head::field;
use crate::head::{Refusal, bad};

/// Longest size line, extensions included.
const MAX_SIZE_LINE: usize = 256;
/// Most bytes of trailers; they are checked and go nowhere.
const MAX_TRAILERS: usize = 8 << 10;

/// Where in a chunked body the next byte lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chunked {
    Size,
    /// So many bytes of the chunk are still to come.
    Data(u64),
    DataEnd,
    /// So many bytes of trailers were seen.
    Trailers(usize),
    Done,
}

impl Chunked {
    /// Drops framing from the front of `bytes`, up to data, the end, or all of it; returns how many bytes
    /// of data follow.
    pub(super) fn skip(&mut self, bytes: &mut BytesMut) -> Result<u64, Refusal> {
        while let Some(step) = self.step(bytes)? {
            bytes.advance(step);
        }
        Ok(if let Self::Data(left) = self { *left } else { 0 })
    }

    /// So many bytes of the chunk's data were taken.
    pub(super) fn took(&mut self, bytes: usize) {
        if let Self::Data(left) = *self {
            let left = left - (bytes as u64).min(left);
            *self = if left == 0 { Self::DataEnd } else { Self::Data(left) };
        }
    }

    /// Moves past one line or line end of framing; nothing where there is data, the end, or too little.
    fn step(&mut self, bytes: &[u8]) -> Result<Option<usize>, Refusal> {
        match *self {
            Self::Done | Self::Data(_) => Ok(None),
            Self::Size => {
                let Some(text) = line(bytes, MAX_SIZE_LINE, "the size of a chunk is too long")?
                else {
                    return Ok(None);
                };
                *self = match size(text)? {
                    0 => Self::Trailers(0),
                    size => Self::Data(size),
                };
                Ok(Some(text.len() + 2))
            }
            Self::DataEnd => match bytes {
                [b'\r', b'\n', ..] => {
                    *self = Self::Size;
                    Ok(Some(2))
                }
                [] | [b'\r'] => Ok(None),
                _ => Err(bad("a chunk is longer than its size")),
            },
            Self::Trailers(before) => {
                let Some(text) = line(bytes, MAX_TRAILERS - before, "the trailers are too long")?
                else {
                    return Ok(None);
                };
                if text.is_empty() {
                    *self = Self::Done;
                } else {
                    field(text)?;
                    *self = Self::Trailers((before + text.len() + 2).min(MAX_TRAILERS));
                }
                Ok(Some(text.len() + 2))
            }
        }
    }
}

/// The next line without its CR LF, if it is there whole.
fn line<'a>(
    bytes: &'a [u8],
    most: usize,
    too_long: &'static str,
) -> Result<Option<&'a [u8]>, Refusal> {
    match memchr::memchr(b'\n', bytes) {
        Some(feed) if feed > most => Err(bad(too_long)),
        Some(feed) => match bytes[..feed].strip_suffix(b"\r") {
            Some(text) => Ok(Some(text)),
            None => Err(bad("a line of a chunked body ends without CR")),
        },
        None if bytes.len() > most => Err(bad(too_long)),
        None => Ok(None),
    }
}

fn size(text: &[u8]) -> Result<u64, Refusal> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    // Fifteen hex digits are below 2^60, so nobody's arithmetic wraps.
    if !(1..=15).contains(&digits) {
        return Err(bad("the size of a chunk is no plain number"));
    }
    let extension = &text[digits..];
    let in_order = extension.is_empty()
        || (extension.first() == Some(&b';')
            && extension.iter().all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f)));
    if !in_order {
        return Err(bad("something else than an extension follows the size of a chunk"));
    }
    let digit = |byte: &u8| u64::from(char::from(*byte).to_digit(16).unwrap_or(0));
    Ok(text[..digits].iter().fold(0, |sum, byte| sum * 16 + digit(byte)))
}
