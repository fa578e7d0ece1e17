//! The wire of Redis (RESP 2), as much of it as we speak: commands out, replies in.
//!
//! Invariants: what comes is bounded in length and depth; half a reply is no reply; what is none ends the connection.

use bytes::{Buf, BytesMut};

/// No reply of ours is longer.
const MAX_TEXT: usize = 1 << 20;
/// Nor has more parts.
const MAX_PARTS: usize = 4096;
/// Nor is deeper.
const MAX_DEPTH: u8 = 4;

/// What Redis says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    Number(i64),
    Text(Vec<u8>),
    Nothing,
    List(Vec<Self>),
    Refused(String),
}

/// Something that is no reply.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoReply;

impl Reply {
    /// A list of nothing but numbers.
    pub(crate) fn numbers(&self) -> Option<Vec<i64>> {
        let Self::List(parts) = self else { return None };
        let number =
            |part: &Self| if let Self::Number(number) = part { Some(*number) } else { None };
        parts.iter().map(number).collect()
    }
}

/// A command.
pub(crate) fn command<T: AsRef<[u8]>>(words: impl IntoIterator<Item = T>) -> Vec<u8> {
    let words: Vec<T> = words.into_iter().collect();
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in &words {
        let word = word.as_ref();
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// Takes the first reply off what came, once it is whole.
pub(super) fn take(bytes: &mut BytesMut) -> Result<Option<Reply>, NoReply> {
    let mut at = 0;
    let reply = parse(bytes, &mut at, 0)?;
    if reply.is_some() {
        bytes.advance(at);
    }
    Ok(reply)
}

fn parse(bytes: &[u8], at: &mut usize, depth: u8) -> Result<Option<Reply>, NoReply> {
    let rest = bytes.get(*at..).unwrap_or_default();
    let Some(end) = memchr::memmem::find(rest, b"\r\n") else {
        return if rest.len() > MAX_TEXT { Err(NoReply) } else { Ok(None) };
    };
    let (kind, line) = rest.get(..end).and_then(<[u8]>::split_first).ok_or(NoReply)?;
    *at += end + 2;
    let text = || String::from_utf8_lossy(line).into_owned();
    let number = || text().parse::<i64>().map_err(|_| NoReply);
    match kind {
        b'+' => Ok(Some(Reply::Text(line.to_vec()))),
        b'-' => Ok(Some(Reply::Refused(text()))),
        b':' => Ok(Some(Reply::Number(number()?))),
        b'$' => {
            let Some(length) = length(number()?, MAX_TEXT)? else {
                return Ok(Some(Reply::Nothing));
            };
            let Some(body) = bytes.get(*at..*at + length + 2) else { return Ok(None) };
            let text = body.strip_suffix(b"\r\n").ok_or(NoReply)?;
            *at += length + 2;
            Ok(Some(Reply::Text(text.to_vec())))
        }
        b'*' if depth < MAX_DEPTH => {
            let Some(count) = length(number()?, MAX_PARTS)? else {
                return Ok(Some(Reply::Nothing));
            };
            let mut parts = Vec::new();
            for _ in 0..count {
                let Some(part) = parse(bytes, at, depth + 1)? else { return Ok(None) };
                parts.push(part);
            }
            Ok(Some(Reply::List(parts)))
        }
        _ => Err(NoReply),
    }
}

/// A length; -1 stands for nothing.
fn length(number: i64, most: usize) -> Result<Option<usize>, NoReply> {
    match usize::try_from(number) {
        Ok(length) if length <= most => Ok(Some(length)),
        Err(_) if number == -1 => Ok(None),
        _ => Err(NoReply),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WIRE: &[u8] =
        b"+OK\r\n-NOSCRIPT no\r\n:-7\r\n$4\r\na\r\nb\r\n$-1\r\n*3\r\n:1\r\n*1\r\n$0\r\n\r\n:2\r\n*-1\r\n";

    fn all(bytes: &mut BytesMut) -> Vec<Reply> {
        std::iter::from_fn(|| take(bytes).unwrap()).collect()
    }

    #[test]
    fn replies_are_read_wherever_they_are_cut() {
        let text = |text: &str| Reply::Text(text.as_bytes().to_vec());
        let nested = Reply::List(vec![text("")]);
        let expected = [
            text("OK"),
            Reply::Refused("NOSCRIPT no".to_owned()),
            Reply::Number(-7),
            text("a\r\nb"),
            Reply::Nothing,
            Reply::List(vec![Reply::Number(1), nested, Reply::Number(2)]),
            Reply::Nothing,
        ];
        for cut in 0..WIRE.len() {
            let (first, second) = WIRE.split_at(cut);
            let mut bytes = BytesMut::from(first);
            let mut got = all(&mut bytes);
            bytes.extend_from_slice(second);
            got.extend(all(&mut bytes));
            assert_eq!(got, expected, "cut at {cut}");
        }
        assert_eq!(command(["GET", "a"]), b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n");
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        for bad in [
            "x\r\n",
            "\r\n",
            "$x\r\n",
            "$-2\r\n",
            "$9999999999\r\n",
            "*9999\r\n",
            "$1\r\nabc",
            "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n",
        ] {
            assert_eq!(take(&mut BytesMut::from(bad)), Err(NoReply), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = take(&mut bytes) {}
        }
    }
}
