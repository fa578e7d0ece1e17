//! What becomes of an answer's body on its way out: decoded, given a nonce, read for a verdict, compressed.
//!
//! Each is a [`Step`] that takes bytes and gives bytes; an answer passes through those that it needs, and
//! most need none. Invariants: nothing is gathered beyond what a step must hold (a page streams through);
//! when the application pauses, what the steps hold back goes out, so that a page appears as fast as it
//! comes; a body that is changed loses the headers that spoke of its bytes. Rooms: [`coding`] (gzip, br,
//! zstd), [`nonce`] and [`html`] (pages), [`verdict`] (lockouts).

mod coding;
#[cfg(test)]
pub(crate) mod fuzz;
mod html;
mod keep;
mod negotiate;
mod nonce;
mod verdict;

use std::borrow::Cow;
use std::cell::RefCell;
use std::io::{self, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderName,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use hyper::body::{Body as _, Frame, SizeHint};
use seaworthy_base::policy::{Compress, Policy};

pub(crate) use coding::Coding;
pub(crate) use keep::Keeping;
pub(crate) use negotiate::{accepted, best};

use crate::body::{Content, Polled, ResponseBody};
use crate::policy::headers::{Browser, add_vary};
use crate::policy::lockout::Attempt;
use crate::rooms::Rooms;
use crate::route::CompiledRoute;
use crate::serve::Record;

/// Bytes that are unpacked at once: what is packed tightly unfolds a piece at a time.
const PIECE: usize = 4 << 10;

/// How a route's answers are shaped.
#[derive(Debug)]
pub(crate) struct Shape {
    compress: Option<Compress>,
    nonce: bool,
    /// Answers must come uncompressed from the instance.
    plain: bool,
}

impl Shape {
    pub(crate) fn build(
        policy: &Policy,
        browser: &Browser,
        is_files: bool,
        reads_answer: bool,
    ) -> Self {
        // Files hold no secrets that a request could be mixed with (BREACH): they always are compressed.
        let compress = policy.compress.clone().or_else(|| is_files.then(Compress::default));
        Self { compress, nonce: browser.wants_nonce(), plain: reads_answer }
    }

    pub(crate) fn may_compress(&self) -> bool {
        self.compress.is_some()
    }

    pub(crate) fn needs_plain(&self) -> bool {
        self.plain
    }
}

/// One change of a body.
pub(crate) trait Step: std::fmt::Debug {
    /// Takes bytes.
    fn push(&mut self, data: &[u8], out: &mut Vec<u8>) -> io::Result<()>;
    /// Gives what is held back, as far as it can be given before the end.
    fn flush(&mut self, out: &mut Vec<u8>) -> io::Result<()>;
    /// Gives the rest.
    fn end(&mut self, out: &mut Vec<u8>) -> io::Result<()>;
    /// What it takes has been cut off.
    fn cut(&mut self) {}
    /// Whether it gives just what it takes.
    fn is_transparent(&self) -> bool {
        false
    }
}

/// A step that looks on, and lets every byte pass as it is.
pub(crate) trait Onlooker: std::fmt::Debug {
    /// Sees what passes.
    fn see(&mut self, data: &[u8]);
    /// All of it has passed.
    fn end(&mut self);
    /// The rest will not come.
    fn cut(&mut self) {}
}

impl<O: Onlooker> Step for O {
    fn push(&mut self, data: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        self.see(data);
        out.extend_from_slice(data);
        Ok(())
    }

    fn flush(&mut self, _: &mut Vec<u8>) -> io::Result<()> {
        Ok(())
    }

    fn end(&mut self, _: &mut Vec<u8>) -> io::Result<()> {
        Onlooker::end(self);
        Ok(())
    }

    fn cut(&mut self) {
        Onlooker::cut(self);
    }

    fn is_transparent(&self) -> bool {
        true
    }
}

/// Where the codecs write to.
#[derive(Debug, Clone)]
struct Sink {
    held: Rc<RefCell<Vec<u8>>>,
    /// Bytes that it holds at the most.
    most: usize,
}

impl Sink {
    /// For so many bytes between two times that it is emptied.
    fn of(most: usize) -> Self {
        Self { held: Rc::default(), most }
    }

    fn drain(&self, out: &mut Vec<u8>) {
        out.append(&mut self.held.borrow_mut());
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut held = self.held.borrow_mut();
        if bytes.len() > self.most.saturating_sub(held.len()) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the body unfolds without end"));
        }
        held.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The room of the last piece that was given away, as long as that is on its way.
#[derive(Debug)]
struct Lent {
    rooms: Rc<Rooms>,
    piece: Bytes,
}

impl Lent {
    fn new(rooms: &Rc<Rooms>) -> Self {
        Self { rooms: Rc::clone(rooms), piece: Bytes::new() }
    }

    /// Room for the next piece: that of the last one where it was sent.
    fn room(&mut self) -> Vec<u8> {
        self.returned().unwrap_or_else(|| self.rooms.text())
    }

    fn returned(&mut self) -> Option<Vec<u8>> {
        let mut piece = std::mem::take(&mut self.piece).try_into_mut().ok()?;
        piece.clear();
        (piece.capacity() > 0).then(|| piece.into())
    }

    /// A piece to be given away.
    fn give(&mut self, text: Vec<u8>) -> Bytes {
        self.piece = text.into();
        self.piece.clone()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(text) = self.returned() {
            self.rooms.keep_text(text);
        }
    }
}

/// A body on its way through steps.
#[derive(Debug)]
pub(crate) struct Shaped {
    inner: Content,
    steps: Vec<Box<dyn Step>>,
    /// Bytes that are taken through the steps at once.
    most: usize,
    waiting: Bytes,
    lent: Lent,
    /// Something went in since the last flush.
    dirty: bool,
    ended: bool,
}

impl Shaped {
    fn new(inner: Content, steps: Vec<Box<dyn Step>>, most: usize, rooms: &Rc<Rooms>) -> Self {
        let (waiting, lent) = (Bytes::new(), Lent::new(rooms));
        Self { inner, steps, most, waiting, lent, dirty: false, ended: false }
    }

    fn content(inner: Content, step: impl Step + 'static, rooms: &Rc<Rooms>) -> Content {
        Content::Shaped(Box::new(Self::new(inner, vec![Box::new(step)], usize::MAX, rooms)))
    }

    pub(crate) fn is_done(&self) -> bool {
        self.ended
    }

    /// What is left, where every byte passes as it is.
    pub(crate) fn size_hint(&self) -> SizeHint {
        let waiting = self.waiting.len() as u64;
        let inner = self
            .inner
            .size_hint()
            .exact()
            .filter(|_| self.steps.iter().all(|one| one.is_transparent()));
        inner.map_or_else(SizeHint::default, |inner| SizeHint::with_exact(inner + waiting))
    }

    pub(crate) fn needs_request(&self) -> bool {
        self.inner.needs_request()
    }

    pub(crate) fn poll_frame(&mut self, context: &mut Context<'_>) -> Polled {
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            let changed = if self.waiting.is_empty() {
                match self.inner.poll_frame(context) {
                    Poll::Ready(Some(Ok(frame))) => {
                        // Trailers speak of a body that is another one now.
                        self.waiting = frame.into_data().unwrap_or_default();
                        continue;
                    }
                    Poll::Ready(Some(Err(error))) => {
                        self.ended = true;
                        self.steps.iter_mut().for_each(|step| step.cut());
                        return Poll::Ready(Some(Err(error)));
                    }
                    Poll::Ready(None) => {
                        self.ended = true;
                        self.finish()
                    }
                    Poll::Pending if self.dirty => {
                        self.dirty = false;
                        match self.flush() {
                            Ok(out) if out.is_empty() => return Poll::Pending,
                            other => other,
                        }
                    }
                    Poll::Pending => return Poll::Pending,
                }
            } else {
                let piece = self.waiting.split_to(self.most.min(self.waiting.len()));
                self.dirty = true;
                self.push(&piece)
            };
            match changed {
                Ok(out) if out.is_empty() => {}
                Ok(out) => return Poll::Ready(Some(Ok(Frame::data(self.lent.give(out))))),
                Err(error) => {
                    self.ended = true;
                    return Poll::Ready(Some(Err(error.into())));
                }
            }
        }
    }

    fn run(
        &mut self,
        data: &[u8],
        mut room: Vec<u8>,
        mut act: impl FnMut(&mut dyn Step, &[u8], &mut Vec<u8>) -> io::Result<()>,
    ) -> io::Result<Vec<u8>> {
        let mut current = Cow::Borrowed(data);
        let last = self.steps.len().saturating_sub(1);
        for (nth, step) in self.steps.iter_mut().enumerate() {
            let mut out = if nth == last { std::mem::take(&mut room) } else { Vec::new() };
            act(step.as_mut(), &current, &mut out)?;
            current = Cow::Owned(out);
        }
        Ok(current.into_owned())
    }

    /// Takes a piece through; the last one with the end, where it is known to be the last.
    fn push(&mut self, piece: &[u8]) -> io::Result<Vec<u8>> {
        let room = self.lent.room();
        let mut out = self.run(piece, room, |step, data, out| step.push(data, out))?;
        if self.waiting.is_empty() && self.inner.is_end_stream() {
            self.ended = true;
            out.append(&mut self.finish()?);
        }
        Ok(out)
    }

    fn flush(&mut self) -> io::Result<Vec<u8>> {
        self.run(&[], Vec::new(), |step, data, out| {
            step.push(data, out)?;
            step.flush(out)
        })
    }

    fn finish(&mut self) -> io::Result<Vec<u8>> {
        self.run(&[], Vec::new(), |step, data, out| {
            step.push(data, out)?;
            step.end(out)
        })
    }
}

/// Lets the text of an answer decide on an attempt.
pub(crate) fn settle(
    response: Response<ResponseBody>,
    attempt: Box<Attempt>,
    rooms: &Rc<Rooms>,
) -> Response<ResponseBody> {
    let (parts, body) = response.into_parts();
    let step = verdict::Verdict::new(attempt, parts.status, parts.headers.clone());
    let content = Shaped::content(body.into_content(), step, rooms);
    Response::from_parts(parts, content.into())
}

/// Copies an answer as it passes by.
pub(crate) fn keep(
    response: Response<ResponseBody>,
    mut keeping: Keeping,
    rooms: &Rc<Rooms>,
) -> Response<ResponseBody> {
    let (parts, body) = response.into_parts();
    let content = body.into_content();
    let length =
        parts.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    keeping.length = if content.is_end_stream() { Some(0) } else { length };
    let content = Shaped::content(content, keeping, rooms);
    Response::from_parts(parts, content.into())
}

/// Gives an answer its nonces and its coding, where its route says so.
pub(crate) fn shape(
    response: Response<ResponseBody>,
    record: &mut Record,
) -> Response<ResponseBody> {
    let busy = |route: &CompiledRoute| {
        let shape = &route.policy.shape;
        shape.compress.is_some() || shape.nonce
    };
    let Some(route) = record.route.as_ref().filter(|route| busy(route)).map(Arc::clone) else {
        return response;
    };
    let shape = &route.policy.shape;
    let (mut parts, body) = response.into_parts();
    if has_no_content(parts.status) {
        if parts.status == StatusCode::NOT_MODIFIED {
            unchanged(shape, record, &mut parts.headers);
        }
        return Response::from_parts(parts, body);
    }
    let mut steps: Vec<Box<dyn Step>> = Vec::new();
    let head_only = record.method == Method::HEAD;
    let mut most = usize::MAX;
    if let Some(nonce) = &record.nonce
        && let Some(page) = nonce::page(&parts.headers)
    {
        if let Ok(coding) = Coding::of(&parts.headers) {
            most = coding.map_or(most, |_| PIECE);
            steps.extend(coding.map(coding::decoder));
            steps.push(nonce::nonce(nonce, page));
            steps.extend(coding.map(coding::encoder));
            changed(&mut parts.headers);
        } else {
            record.cause = Some("no nonce: the page's content coding is unknown".to_owned());
        }
    }
    if let Some(rules) = &shape.compress
        && is_worth_compressing(rules, parts.status, &parts.headers, length(&parts.headers, &body))
    {
        add_vary(&mut parts.headers, "Accept-Encoding");
        if let Some(coding) = record.encodings.as_ref().and_then(best) {
            steps.push(coding::encoder(coding));
            changed(&mut parts.headers);
            parts.headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
        }
    }
    if steps.is_empty() {
        return Response::from_parts(parts, body);
    }
    if head_only {
        // Its length would be that of another body.
        return Response::from_parts(parts, Content::Empty.into());
    }
    let shaped = Shaped::new(body.into_content(), steps, most, &record.local.rooms);
    Response::from_parts(parts, Content::Shaped(Box::new(shaped)).into())
}

/// "Unchanged" says of an answer what it would say if it came (RFC 9110 § 15.4.5): with a strong validator a cache would not
/// know the one that it was given as a weak one.
fn unchanged(shape: &Shape, record: &Record, headers: &mut HeaderMap) {
    let may_be_packed = !headers.contains_key(CONTENT_TYPE) || becomes_smaller(headers);
    let packs =
        shape.compress.is_some() && may_be_packed && !headers.contains_key(CONTENT_ENCODING);
    if packs {
        add_vary(headers, "Accept-Encoding");
    }
    if shape.nonce || (packs && record.encodings.as_ref().and_then(best).is_some()) {
        weaken(headers);
    }
}

fn has_no_content(status: StatusCode) -> bool {
    status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// The bytes are others now: nothing may speak of the old ones. A validator stays, as a weak one.
fn changed(headers: &mut HeaderMap) {
    const DIGESTS: [&str; 4] = ["content-md5", "digest", "content-digest", "repr-digest"];
    headers.remove(CONTENT_LENGTH);
    headers.remove(ACCEPT_RANGES);
    DIGESTS.iter().for_each(|name| drop(headers.remove(HeaderName::from_static(name))));
    weaken(headers);
}

fn weaken(headers: &mut HeaderMap) {
    if let Some(tag) = headers.get(ETAG).filter(|tag| tag.as_bytes().starts_with(b"\""))
        && let Ok(weak) = HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat())
    {
        headers.insert(ETAG, weak);
    }
}

/// Media types beside texts that become much smaller.
const TYPES: [&str; 14] = [
    "application/javascript",
    "application/json",
    "application/ld+json",
    "application/manifest+json",
    "application/rss+xml",
    "application/atom+xml",
    "application/wasm",
    "application/x-javascript",
    "application/x-ndjson",
    "application/xhtml+xml",
    "application/xml",
    "font/otf",
    "font/ttf",
    "image/svg+xml",
];

/// The media type of an answer, without parameters.
fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Whether what an answer holds usually becomes much smaller.
pub(crate) fn becomes_smaller(headers: &HeaderMap) -> bool {
    is_usual(&media_type(headers))
}

fn is_usual(kind: &str) -> bool {
    kind.starts_with("text/") || kind.ends_with("+json") || TYPES.contains(&kind)
}

/// How long a body is, where that is known.
fn length(headers: &HeaderMap, body: &ResponseBody) -> Option<u64> {
    let said = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    // Of the answer to HEAD nothing comes, which says nothing.
    said.or_else(|| body.size_hint().exact().filter(|length| *length > 0))
}

fn is_worth_compressing(
    rules: &Compress,
    status: StatusCode,
    headers: &HeaderMap,
    length: Option<u64>,
) -> bool {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let kind = media_type(headers);
    let listed = |wanted: &String| match wanted.strip_suffix('*') {
        Some(start) => kind.starts_with(start),
        None => kind == *wanted,
    };
    let fits =
        if rules.types.is_empty() { is_usual(&kind) } else { rules.types.iter().any(listed) };
    // Events are small and must come at once; a part of a file has the file's coding.
    fits && kind != "text/event-stream"
        && status != StatusCode::PARTIAL_CONTENT
        && length.is_none_or(|length| length >= rules.min.0)
        && !headers.contains_key(CONTENT_ENCODING)
        && !text(CACHE_CONTROL)
            .is_some_and(|text| text.to_ascii_lowercase().contains("no-transform"))
}

#[cfg(test)]
mod tests;
