//! Puts a nonce on the scripts and styles of a page while it streams by.
//!
//! By a real HTML tokenizer (`lol_html`), not by searching for text: a `<script` in an attribute, a
//! comment or a text area is none. What somebody managed to write into the page as a script gets its
//! nonce too: a nonce in the edge protects against what is put into the page later, in the browser.

use std::io;

use http::HeaderMap;
use http::header::{CONTENT_RANGE, CONTENT_TYPE};
use lol_html::{HtmlRewriter, MemorySettings, Settings, element};

use super::{Sink, Step};

/// What one tag or piece of text may hold while it is incomplete.
const MEMORY: usize = 4 << 20;

/// Whether an answer is a page whose elements we can find.
pub(super) fn is_page(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.to_ascii_lowercase();
    let (essence, parameters) = kind.split_once(';').unwrap_or((&kind, ""));
    matches!(essence.trim(), "text/html" | "application/xhtml+xml")
        // Two bytes a letter: no tag is recognised.
        && !parameters.contains("utf-16")
        && !headers.contains_key(CONTENT_RANGE)
}

/// Takes what the rewriter gives.
type Output = Box<dyn FnMut(&[u8])>;

struct Nonce {
    rewriter: Option<HtmlRewriter<'static, Output>>,
    sink: Sink,
}

impl std::fmt::Debug for Nonce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("nonce")
    }
}

/// The step for one page.
pub(super) fn nonce(value: &str) -> Box<dyn Step> {
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
    let write: Output = Box::new(move |bytes: &[u8]| to.held.borrow_mut().extend_from_slice(bytes));
    Box::new(Nonce { rewriter: Some(HtmlRewriter::new(settings, write)), sink })
}

impl Step for Nonce {
    fn push(&mut self, data: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        if let (Some(rewriter), false) = (&mut self.rewriter, data.is_empty()) {
            rewriter.write(data).map_err(io::Error::other)?;
        }
        self.sink.drain(out);
        Ok(())
    }

    /// What is held back is the beginning of a tag: it cannot be given.
    fn flush(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        self.sink.drain(out);
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        if let Some(rewriter) = self.rewriter.take() {
            rewriter.end().map_err(io::Error::other)?;
        }
        self.sink.drain(out);
        Ok(())
    }
}
