//! Puts a nonce on the scripts and styles of a page while it streams by.
//!
//! By a real HTML tokenizer, not by searching for text: a `<script` in an attribute, a comment or a text area is
//! none. Ours ([`html`](super::html)) for HTML; from the first `svg` or `math` on `lol_html`, which knows when the
//! tree leaves them, and for XHTML. What somebody managed to write into the page as a script gets its
//! nonce too: a nonce in the edge protects against what is put into the page later, in the browser.
//! The nonce is the tag's first attribute: of two, browsers take the first.

use std::io;

use http::HeaderMap;
use http::header::{CONTENT_RANGE, CONTENT_TYPE};
use lol_html::{HtmlRewriter, MemorySettings, Settings, element};

use super::html::{Found, Scanner};
use super::{Sink, Step};

/// What one tag or piece of text may hold while it is incomplete.
const MEMORY: usize = 4 << 20;

/// The kinds of pages whose elements we can find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Page {
    Html,
    Xhtml,
}

/// Whether an answer is a page whose elements we can find.
pub(super) fn page(headers: &HeaderMap) -> Option<Page> {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.to_ascii_lowercase();
    let (essence, parameters) = kind.split_once(';').unwrap_or((&kind, ""));
    // Two bytes a letter: no tag is recognised, or one that is none.
    if is_wide(parameters) || headers.contains_key(CONTENT_RANGE) {
        return None;
    }
    match essence.trim() {
        "text/html" => Some(Page::Html),
        "application/xhtml+xml" => Some(Page::Xhtml),
        _ => None,
    }
}

/// Whether a page's letters have two bytes, or shift between sets, by the labels of the Encoding standard (§ 4.2).
fn is_wide(parameters: &str) -> bool {
    const LABELS: [&str; 7] =
        ["utf-16", "utf16", "ucs-2", "iso-2022", "iso2022", "hz-gb", "replacement"];
    // `unicode-1-1-utf-8` is UTF-8, `unicodefeff` is not.
    let is_unicode = parameters.contains("unicode") && !parameters.contains("utf");
    is_unicode || LABELS.iter().any(|label| parameters.contains(label))
}

/// What the first bytes say of a page, whatever its head says: browsers believe them first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Unseen,
    /// The first byte.
    Begun(u8),
    /// Two bytes a letter.
    Wide,
    None,
}

impl Mark {
    fn see(&mut self, data: &[u8]) {
        for byte in data {
            *self = match *self {
                Self::Unseen => Self::Begun(*byte),
                Self::Begun(0xff) if *byte == 0xfe => Self::Wide,
                Self::Begun(0xfe) if *byte == 0xff => Self::Wide,
                Self::Begun(_) => Self::None,
                Self::Wide | Self::None => return,
            };
        }
    }
}

/// The step for one page.
pub(super) fn nonce(value: &str, page: Page) -> Box<dyn Step> {
    match page {
        Page::Html => Box::new(Nonce {
            scanner: Scanner::new(),
            order: Mark::Unseen,
            mark: [BEFORE, value, AFTER].concat(),
            foreign: None,
        }),
        Page::Xhtml => Box::new(Rewriter::new(value, "")),
    }
}

/// Around the value, behind a tag's name.
const BEFORE: &str = " nonce=\"";
const AFTER: &str = "\"";

/// Of HTML.
struct Nonce {
    scanner: Scanner,
    /// What its byte order mark says.
    order: Mark,
    /// What is put behind a tag's name.
    mark: String,
    /// Has taken over. Apart, because it is large and few pages need it.
    foreign: Option<Box<Rewriter>>,
}

impl std::fmt::Debug for Nonce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("nonce")
    }
}

impl Step for Nonce {
    fn push(&mut self, data: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        if let Some(rewriter) = &mut self.foreign {
            return rewriter.push(data, out);
        }
        self.order.see(data);
        if self.order == Mark::Wide {
            out.extend_from_slice(data);
            return Ok(());
        }
        out.reserve(data.len() + data.len() / 16 + self.mark.len());
        let mut rest = data;
        while let Some(found) = self.scanner.next(rest) {
            let (Found::Element(at) | Found::Foreign(at, _)) = found;
            let (before, after) = rest.split_at(at);
            out.extend_from_slice(before);
            rest = after;
            match found {
                Found::Element(_) => out.extend_from_slice(self.mark.as_bytes()),
                Found::Foreign(_, tag) => {
                    let value = self.mark.get(BEFORE.len()..self.mark.len() - AFTER.len());
                    let rewriter = Rewriter::new(value.unwrap_or_default(), tag);
                    return self.foreign.insert(Box::new(rewriter)).push(rest, out);
                }
            }
        }
        out.extend_from_slice(rest);
        Ok(())
    }

    fn flush(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        self.foreign.as_mut().map_or(Ok(()), |rewriter| rewriter.flush(out))
    }

    fn end(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        self.foreign.as_mut().map_or(Ok(()), |rewriter| rewriter.end(out))
    }
}

/// Takes what the rewriter gives.
type Output = Box<dyn FnMut(&[u8])>;

/// Of what `lol_html` reads.
struct Rewriter {
    inner: Option<HtmlRewriter<'static, Output>>,
    sink: Sink,
    /// The beginning of a tag that was sent already, as long as the rewriter does not know of it.
    begun: &'static str,
    /// So many bytes of what it gives were sent already.
    sent: usize,
}

impl std::fmt::Debug for Rewriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("rewriter")
    }
}

impl Rewriter {
    fn new(value: &str, begun: &'static str) -> Self {
        let (sink, value) = (Sink::of(usize::MAX), value.to_owned());
        let to = sink.clone();
        let mark = element!("script, style, link", move |element| {
            element.set_attribute("nonce", &value)?;
            Ok(())
        });
        let settings = Settings::new()
            .append_element_content_handler(mark)
            .with_memory_settings(MemorySettings::new().with_max_allowed_memory_usage(MEMORY))
            .with_strict(false);
        let write: Output =
            Box::new(move |bytes: &[u8]| to.held.borrow_mut().extend_from_slice(bytes));
        let inner = Some(HtmlRewriter::new(settings, write));
        Self { inner, sink, begun, sent: begun.len() }
    }

    fn drain(&mut self, out: &mut Vec<u8>) {
        let mut held = self.sink.held.borrow_mut();
        let sent = self.sent.min(held.len());
        self.sent -= sent;
        out.extend_from_slice(held.get(sent..).unwrap_or_default());
        held.clear();
    }
}

impl Step for Rewriter {
    fn push(&mut self, data: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        if let (Some(rewriter), false) = (&mut self.inner, data.is_empty()) {
            let begun = std::mem::take(&mut self.begun);
            rewriter.write(begun.as_bytes()).map_err(io::Error::other)?;
            rewriter.write(data).map_err(io::Error::other)?;
        }
        self.drain(out);
        Ok(())
    }

    /// What is held back is the beginning of a tag: it cannot be given.
    fn flush(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        self.drain(out);
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        if let Some(rewriter) = self.inner.take() {
            rewriter.end().map_err(io::Error::other)?;
        }
        self.drain(out);
        Ok(())
    }
}
