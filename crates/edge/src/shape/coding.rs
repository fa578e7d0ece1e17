//! Content codings: gzip, br, zstd, both ways, piece by piece.
//!
//! The levels are those of what is compressed while somebody waits: beyond them a page takes longer to
//! pack than it saves. Windows are kept small: each answer under way has one. Invariant: a few bytes never unfold
//! into more than [`UNFOLDED`]; an answer that would is cut off.

use std::io::{self, Write};

use flate2::write::{GzEncoder, MultiGzDecoder};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use zstd::stream::raw::DParameter;

use super::{Sink, Step};

/// A content coding that we speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    /// RFC 8878.
    Zstd,
    /// RFC 7932.
    Brotli,
    /// RFC 1952.
    Gzip,
}

/// 2¹⁹ bytes of window: half a megabyte for each answer under way.
const WINDOW: u32 = 19;

/// The largest window that zstd may ask for as a content coding (RFC 9659 § 3).
const LARGEST_WINDOW: u32 = 23;
/// What one piece may unfold into: gzip's most is a thousand times as much, four mebibytes; br and zstd know no end.
const UNFOLDED: usize = 8 << 20;

impl Coding {
    /// In our order of preference.
    pub(crate) const ALL: [Self; 3] = [Self::Zstd, Self::Brotli, Self::Gzip];

    /// As it stands in headers.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Brotli => "br",
            Self::Gzip => "gzip",
        }
    }

    /// The end of the name of a file that holds another one in this coding.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Zstd => ".zst",
            Self::Brotli => ".br",
            Self::Gzip => ".gz",
        }
    }

    /// What a body is coded in; `Err`: something that we do not speak.
    pub(super) fn of(headers: &HeaderMap) -> Result<Option<Self>, ()> {
        let mut lines = headers.get_all(CONTENT_ENCODING).iter();
        let Some(value) = lines.next() else { return Ok(None) };
        if lines.next().is_some() {
            return Err(());
        }
        let name = value.to_str().map_err(|_| ())?.trim().to_ascii_lowercase();
        let name = if name == "x-gzip" { "gzip" } else { name.as_str() };
        if name == "identity" {
            return Ok(None);
        }
        Self::ALL.into_iter().find(|one| one.name() == name).map(Some).ok_or(())
    }
}

/// A codec, and where it writes to.
struct Codec<W: Write> {
    writer: W,
    sink: Sink,
    name: &'static str,
    /// A body of no bytes is one: nothing came yet that would have to end.
    is_idle: bool,
}

impl<W: Write> std::fmt::Debug for Codec<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// Writes the end of the coding, where there is one.
trait Finish: Write {
    fn finish(&mut self) -> io::Result<()>;
}

impl Finish for GzEncoder<Sink> {
    fn finish(&mut self) -> io::Result<()> {
        self.try_finish()
    }
}

impl Finish for MultiGzDecoder<Sink> {
    fn finish(&mut self) -> io::Result<()> {
        self.try_finish()
    }
}

impl Finish for zstd::stream::write::Encoder<'static, Sink> {
    fn finish(&mut self) -> io::Result<()> {
        self.do_finish()
    }
}

/// Unlike `zstd`'s own writer it says when the end is missing.
type Unzstd = zstd::stream::zio::Writer<Sink, zstd::stream::raw::Decoder<'static>>;

impl Finish for Unzstd {
    fn finish(&mut self) -> io::Result<()> {
        Self::finish(self)
    }
}

/// Its end is only written when it is taken apart.
struct Brotli(Option<Box<brotli::CompressorWriter<Sink>>>);

impl Write for Brotli {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.as_mut().map_or(Ok(bytes.len()), |writer| writer.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Finish for Brotli {
    fn finish(&mut self) -> io::Result<()> {
        if let Some(writer) = self.0.take() {
            writer.into_inner();
        }
        Ok(())
    }
}

impl Finish for brotli::DecompressorWriter<Sink> {
    fn finish(&mut self) -> io::Result<()> {
        self.close()
    }
}

impl<W: Finish> Step for Codec<W> {
    fn push(&mut self, data: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        if !data.is_empty() {
            self.is_idle = false;
            self.writer.write_all(data)?;
        }
        self.sink.drain(out);
        Ok(())
    }

    fn flush(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        self.writer.flush()?;
        self.sink.drain(out);
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        if !self.is_idle {
            self.writer.finish()?;
        }
        self.sink.drain(out);
        Ok(())
    }
}

fn step<W: Finish + 'static>(writer: W, sink: Sink, name: &'static str) -> Box<dyn Step> {
    Box::new(Codec { writer, sink, name, is_idle: false })
}

fn unpack<W: Finish + 'static>(writer: W, sink: Sink, name: &'static str) -> Box<dyn Step> {
    Box::new(Codec { writer, sink, name, is_idle: true })
}

/// Packs.
pub(super) fn encoder(coding: Coding) -> Box<dyn Step> {
    let sink = Sink::of(usize::MAX);
    let to = sink.clone();
    let name = coding.name();
    match coding {
        Coding::Gzip => step(GzEncoder::new(to, flate2::Compression::new(5)), sink, name),
        Coding::Brotli => {
            let writer = brotli::CompressorWriter::new(to, 4096, 4, WINDOW);
            step(Brotli(Some(Box::new(writer))), sink, name)
        }
        Coding::Zstd => match zstd::stream::write::Encoder::new(to, 3) {
            Ok(mut writer) => {
                // A larger window than asked for is no fault, only memory.
                writer.window_log(WINDOW).ok();
                step(writer, sink, name)
            }
            // Out of memory: what was promised must be kept, and nothing was promised but a coding.
            Err(_) => step(Unable, sink, name),
        },
    }
}

/// Unpacks.
pub(super) fn decoder(coding: Coding) -> Box<dyn Step> {
    let sink = Sink::of(UNFOLDED);
    let to = sink.clone();
    match coding {
        Coding::Gzip => unpack(MultiGzDecoder::new(to), sink, "gunzip"),
        Coding::Brotli => unpack(brotli::DecompressorWriter::new(to, 4096), sink, "unbr"),
        Coding::Zstd => match zstd::stream::raw::Decoder::new() {
            Ok(mut decoder) => {
                decoder.set_parameter(DParameter::WindowLogMax(LARGEST_WINDOW)).ok();
                unpack(Unzstd::new(to, decoder), sink, "unzstd")
            }
            Err(_) => unpack(Unable, sink, "unzstd"),
        },
    }
}

/// A codec that could not be made.
struct Unable;

impl Write for Unable {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::OutOfMemory.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::OutOfMemory.into())
    }
}

impl Finish for Unable {
    fn finish(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::OutOfMemory.into())
    }
}
