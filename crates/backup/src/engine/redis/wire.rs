//! The few words of Redis's protocol that reading a scratch server needs.
//!
//! Own lines because keys and values are bytes, and `redis-cli` cannot say where one answer ends. Only ever talks
//! to a server that we started. Invariant: an answer longer than a gigabyte is refused.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// The longest value (Redis itself allows half of it).
const MOST: usize = 1 << 30;

/// A connection.
#[derive(Debug)]
pub(super) struct Wire {
    stream: BufReader<UnixStream>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// A word, a number, or bytes.
    Bytes(Vec<u8>),
    /// Nothing.
    Null,
    /// Several.
    List(Vec<Answer>),
}

impl Answer {
    /// Its bytes; none when it is anything else.
    pub(super) fn bytes(self) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes,
            _ => Vec::new(),
        }
    }
}

impl Wire {
    pub(super) fn connect(path: &Path) -> io::Result<Self> {
        Ok(Self { stream: BufReader::with_capacity(256 << 10, UnixStream::connect(path)?) })
    }

    /// Sends a command without waiting for its answer.
    pub(super) fn send(&mut self, words: &[&[u8]]) -> io::Result<()> {
        self.stream.get_mut().write_all(&encode(words))
    }

    /// A command and its answer.
    pub(super) fn ask(&mut self, words: &[&[u8]]) -> io::Result<Answer> {
        self.send(words)?;
        self.answer()
    }

    /// A command whose answer is a text.
    pub(super) fn text(&mut self, words: &[&[u8]]) -> io::Result<String> {
        Ok(String::from_utf8_lossy(&self.ask(words)?.bytes()).into_owned())
    }

    /// The next answer.
    pub(super) fn answer(&mut self) -> io::Result<Answer> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let bad =
            || io::Error::new(io::ErrorKind::InvalidData, "an answer that is none of Redis's");
        let line = line.strip_suffix("\r\n").ok_or_else(bad)?;
        let (kind, rest) = line.split_at_checked(1).ok_or_else(bad)?;
        let length = || rest.parse::<i64>().map_err(|_| bad());
        match kind {
            "+" | ":" => Ok(Answer::Bytes(rest.as_bytes().to_vec())),
            "-" => Err(io::Error::other(rest.to_owned())),
            "$" => match length()? {
                -1 => Ok(Answer::Null),
                length => {
                    let length = usize::try_from(length)
                        .ok()
                        .filter(|length| *length <= MOST)
                        .ok_or_else(bad)?;
                    let mut bytes = vec![0; length + 2];
                    self.stream.read_exact(&mut bytes)?;
                    bytes.truncate(length);
                    Ok(Answer::Bytes(bytes))
                }
            },
            "*" => (0..length()?.max(0))
                .map(|_| self.answer())
                .collect::<io::Result<_>>()
                .map(Answer::List),
            _ => Err(bad()),
        }
    }
}

/// A command as it goes over the wire.
pub(super) fn encode(words: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        out.extend(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
    out
}
