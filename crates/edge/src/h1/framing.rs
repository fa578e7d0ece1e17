//! Where a message's body ends, and the bytes that belong to it (RFC 9112 § 6), for both directions.
//!
//! Invariant: what is taken of a buffer is of this message; where its end is in the buffer it is found at
//! once, so that nobody waits for bytes that never come.

use bytes::{Bytes, BytesMut};

use super::chunked::Chunked;
use crate::head::Refusal;

/// What is left of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// So many bytes; none at all without a body.
    Length(u64),
    Chunked(Chunked),
    /// Until the connection ends: only responses.
    ToEnd,
}

impl Framing {
    /// Of a chunked body that begins.
    pub(crate) const CHUNKED: Self = Self::Chunked(Chunked::Size);

    /// Whether nothing is left.
    pub(crate) fn is_over(self) -> bool {
        self.left() == Some(0)
    }

    /// Bytes still to come, where that is known.
    pub(crate) fn left(self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(left),
            Self::Chunked(Chunked::Done) => Some(0),
            Self::Chunked(_) | Self::ToEnd => None,
        }
    }

    /// About how much is worth reading at once.
    pub(crate) fn wanted(self) -> u64 {
        match self {
            Self::Length(left) | Self::Chunked(Chunked::Data(left)) => left,
            Self::Chunked(_) | Self::ToEnd => 0,
        }
    }

    /// The next piece of the body, as far as it is in `bytes`. The error says how the chunks are not in order.
    pub(crate) fn take(&mut self, bytes: &mut BytesMut) -> Result<Option<Bytes>, Refusal> {
        let most = match self {
            Self::Length(left) => *left,
            Self::ToEnd => u64::MAX,
            Self::Chunked(chunked) => chunked.skip(bytes)?,
        };
        let here = bytes.len().min(usize::try_from(most).unwrap_or(usize::MAX));
        if here == 0 {
            return Ok(None);
        }
        let piece = bytes.split_to(here).freeze();
        match self {
            Self::Length(left) => *left -= here as u64,
            Self::ToEnd => {}
            Self::Chunked(chunked) => {
                chunked.took(here);
                // A fault behind it is found again when it is asked for more.
                chunked.skip(bytes).ok();
            }
        }
        Ok(Some(piece))
    }
}

/// A `Content-Length`: digits only, without a sign, a list or white space inside, and it fits.
pub(crate) fn plain_length(value: &[u8]) -> Option<u64> {
    // Eighteen digits are below 2^63, so nobody's arithmetic wraps.
    let plain = (1..=18).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    plain.then(|| value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}
