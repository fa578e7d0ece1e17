//! Files of a folder: validators, ranges, an index, a fallback for single-page applications.
//!
//! A file that lies beside another one, packed (`app.js.br`, `.zst`, `.gz`), is sent to who understands it.
//! Invariants: nothing outside the folder is ever opened (the kernel resolves beneath it, without
//! symbolic links that leave); names that begin with a dot are not served, `/.well-known/` excepted.

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH,
    CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri};
use percent_encoding::percent_decode_str;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use crate::body::{Content, ResponseBody as Body};
use crate::respond;
use crate::route::matches;
use crate::shape::{self, Coding};

/// Read at once.
const PIECE: usize = 64 << 10;

/// What a request for a file comes to; `Err` is a status for the error page.
pub(crate) fn serve(
    root: &Path,
    spa: bool,
    cache_control: &[(String, String)],
    uri: &Uri,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response<Body>, StatusCode> {
    let path = uri.path();
    if method != Method::GET && method != Method::HEAD {
        let mut response = respond::fixed(405, "", "text/plain");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(response);
    }
    let decoded = percent_decode_str(path).decode_utf8().map_err(|_| StatusCode::NOT_FOUND)?;
    let relative = decoded.trim_start_matches('/');
    if relative
        .split('/')
        .enumerate()
        .any(|(depth, part)| part.starts_with('.') && !(depth == 0 && part == ".well-known"))
        || relative.contains('\0')
    {
        return Err(StatusCode::NOT_FOUND);
    }
    let base = File::open(root).map_err(|_| StatusCode::NOT_FOUND)?;
    let wanted = if relative.is_empty() || relative.ends_with('/') {
        format!("{relative}index.html")
    } else {
        relative.to_owned()
    };
    let found = match open(&base, &wanted) {
        Some((_, meta)) if meta.is_dir() => {
            let query = uri.query().map_or_else(String::new, |query| format!("?{query}"));
            let place = format!("{path}/{query}");
            return Ok(respond::redirect(StatusCode::PERMANENT_REDIRECT, &place));
        }
        Some((file, meta)) => Some((file, meta, wanted)),
        // A name with a dot is a file's, and that is missing: `/app.js/` is no page of the application.
        None if spa
            && !relative
                .trim_end_matches('/')
                .rsplit('/')
                .next()
                .is_some_and(|last| last.contains('.')) =>
        {
            open(&base, "index.html").map(|(file, meta)| (file, meta, "index.html".to_owned()))
        }
        None => None,
    };
    let (file, meta, name) =
        found.filter(|(_, meta, _)| meta.is_file()).ok_or(StatusCode::NOT_FOUND)?;
    let packed = packed(&base, &name, headers);
    let coding = packed.as_ref().map(|(.., coding)| *coding);
    let (file, meta) = packed.map_or((file, meta), |(file, meta, _)| (file, meta));
    let etag = etag(&meta, coding);
    let mut response = answer(file, &meta, &etag, method, headers)?;
    let is_refused = response.status().is_client_error();
    let out = response.headers_mut();
    if is_refused {
        // What holds of the file does not hold of the refusal: above all not for how long it may be kept.
        return Ok(response);
    }
    out.insert(CONTENT_TYPE, content_type(&name));
    if let Some(coding) = coding {
        out.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
    }
    // Also of what is sent as it is: others may get it packed.
    if coding.is_some() || shape::becomes_smaller(out) {
        out.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    // By the file that is sent, not by what was asked for: the page of a single-page application must not be
    // kept for a year because `/assets/gone` was asked for.
    let rule = cache_control
        .iter()
        .find(|(pattern, _)| matches(pattern.as_bytes(), format!("/{name}").as_bytes()));
    if let Some(value) = rule.and_then(|(_, value)| HeaderValue::from_str(value).ok()) {
        out.insert(CACHE_CONTROL, value);
    }
    Ok(response)
}

fn open(base: &File, relative: &str) -> Option<(File, Metadata)> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let fd: OwnedFd = openat2(base, relative, flags, Mode::empty(), resolve).ok()?;
    let file = File::from(fd);
    let meta = file.metadata().ok()?;
    Some((file, meta))
}

/// The file beside that the client likes best.
fn packed(base: &File, name: &str, headers: &HeaderMap) -> Option<(File, Metadata, Coding)> {
    let wanted = shape::accepted(headers.get(ACCEPT_ENCODING)?);
    wanted.into_iter().find_map(|coding| {
        let (file, meta) = open(base, &format!("{name}{}", coding.suffix()))?;
        meta.is_file().then_some((file, meta, coding))
    })
}

fn content_type(name: &str) -> HeaderValue {
    let kind = mime_guess::from_path(name).first_or_octet_stream();
    let text = kind.type_() == "text"
        || matches!(
            kind.essence_str(),
            "application/javascript" | "application/json" | "image/svg+xml"
        );
    let value = if text {
        format!("{}; charset=utf-8", kind.essence_str())
    } else {
        kind.essence_str().to_owned()
    };
    HeaderValue::from_str(&value).unwrap_or(HeaderValue::from_static("application/octet-stream"))
}

/// One for each content, in each coding.
fn etag(meta: &Metadata, coding: Option<Coding>) -> String {
    let nanos = meta.mtime().unsigned_abs() * 1_000_000_000 + meta.mtime_nsec().unsigned_abs();
    let coding = coding.map_or("", Coding::suffix).replace('.', "-");
    format!("\"{nanos:x}-{:x}{coding}\"", meta.len())
}

fn answer(
    mut file: File,
    meta: &Metadata,
    etag: &str,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response<Body>, StatusCode> {
    let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(meta.mtime().max(0) as u64);
    let mut response = Response::new(respond::empty());
    let out = response.headers_mut();
    out.insert(ETAG, HeaderValue::from_str(etag).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?);
    if let Ok(value) = HeaderValue::from_str(&httpdate::fmt_http_date(modified)) {
        out.insert(LAST_MODIFIED, value);
    }
    out.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if !is_as_demanded(headers, etag, Some(modified)) {
        *response.status_mut() = StatusCode::PRECONDITION_FAILED;
        return Ok(response);
    }
    if is_unchanged(headers, etag, modified) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    // Of other methods it says nothing (RFC 9110 § 14.2).
    let wanted =
        if method == Method::GET { range(headers, etag, meta.len()) } else { Range::Whole };
    let (from, length) = match wanted {
        Range::Whole => (0, meta.len()),
        Range::Part(from, to) => {
            let value = format!("bytes {from}-{}/{}", to - 1, meta.len());
            response.headers_mut().insert(
                CONTENT_RANGE,
                HeaderValue::from_str(&value).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?,
            );
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            (from, to - from)
        }
        Range::Impossible => {
            let value = format!("bytes */{}", meta.len());
            response.headers_mut().insert(
                CONTENT_RANGE,
                HeaderValue::from_str(&value).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?,
            );
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            return Ok(response);
        }
    };
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    if method == Method::GET && length > 0 {
        file.seek(SeekFrom::Start(from)).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
        *response.body_mut() = Content::File(FileBody { file, left: length }).into();
    }
    Ok(response)
}

fn is_unchanged(headers: &HeaderMap, etag: &str, modified: SystemTime) -> bool {
    if headers.contains_key(IF_NONE_MATCH) {
        let lines = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        return lines
            .flat_map(|line| line.split(','))
            .any(|tag| tag.trim() == "*" || tag.trim().trim_start_matches("W/") == etag);
    }
    date(headers, &IF_MODIFIED_SINCE).is_some_and(|since| modified <= since)
}

/// Whether the file is the one that the client means (RFC 9110 § 13.2.2): who goes on with what it began must not get
/// the rest of another one. Only strong tags say so; a date that is none says nothing.
pub(crate) fn is_as_demanded(
    headers: &HeaderMap,
    etag: &str,
    modified: Option<SystemTime>,
) -> bool {
    if headers.contains_key(IF_MATCH) {
        let lines = headers.get_all(IF_MATCH).iter().filter_map(|value| value.to_str().ok());
        let mut tags = lines.flat_map(|line| line.split(',')).map(str::trim);
        return tags.any(|tag| tag == "*" || (tag == etag && etag.starts_with('"')));
    }
    let is_older = |since| modified.is_some_and(|modified| modified <= since);
    date(headers, &IF_UNMODIFIED_SINCE).is_none_or(is_older)
}

/// A date that a head says.
pub(crate) fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    let text = headers.get(name)?.to_str().ok()?;
    httpdate::parse_http_date(text).ok()
}

/// What part of a file is wanted.
pub(crate) enum Range {
    Whole,
    Part(u64, u64),
    Impossible,
}

/// One range; several are answered with the whole, as RFC 9110 § 14.2 allows. So is a condition that is no strong
/// validator (§ 13.1.5): a weak one says that two answers mean the same, not that their bytes are the same.
pub(crate) fn range(headers: &HeaderMap, etag: &str, size: u64) -> Range {
    let mut lines = headers.get_all(RANGE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return Range::Whole };
    let holds = |condition: &HeaderValue| condition == etag && etag.starts_with('"');
    if !headers.get_all(IF_RANGE).iter().all(holds) {
        return Range::Whole;
    }
    let spec = line.to_str().ok().and_then(|text| text.split_once('='));
    let spec = spec.filter(|(unit, _)| unit.eq_ignore_ascii_case("bytes"));
    let Some((first, last)) = spec.and_then(|(_, spec)| spec.trim().split_once('-')) else {
        return Range::Whole;
    };
    let number = |text: &str| {
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
        // What is beyond all numbers is beyond the end.
        (is_plain && !text.is_empty()).then(|| text.parse().unwrap_or(u64::MAX))
    };
    let (from, to) = match (number(first), number(last)) {
        (Some(from), Some(last)) if from <= last => (from, last.saturating_add(1).min(size)),
        (Some(from), None) if last.is_empty() => (from, size),
        // Of nothing the last bytes are nothing, which no `Content-Range` can say.
        (None, Some(1..)) if first.is_empty() && size == 0 => return Range::Whole,
        (None, Some(suffix)) if first.is_empty() => (size.saturating_sub(suffix), size),
        _ => return Range::Whole,
    };
    if from >= to { Range::Impossible } else { Range::Part(from, to) }
}

/// Reads a file in pieces. Local files answer at once; a read this small does not hold up a thread.
#[derive(Debug)]
pub(crate) struct FileBody {
    file: File,
    left: u64,
}

impl FileBody {
    /// Bytes that are still to be sent.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// Whether all was read.
    pub(crate) fn is_done(&self) -> bool {
        self.left == 0
    }

    /// The next bytes; none at the end.
    pub(crate) fn next_piece(&mut self) -> Option<io::Result<Bytes>> {
        if self.left == 0 {
            return None;
        }
        let mut piece = vec![0; PIECE.min(usize::try_from(self.left).unwrap_or(PIECE))];
        Some(match self.file.read(&mut piece) {
            // The file became shorter: the promised length cannot be kept.
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                piece.truncate(n);
                self.left -= n as u64;
                Ok(piece.into())
            }
            Err(error) => Err(error),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(
        root: &Path,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Response<Body>, StatusCode> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        serve(root, !path.starts_with("/none"), &[], &path.parse().unwrap(), &Method::GET, &map)
    }

    #[test]
    fn nothing_outside_the_folder_is_served() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("sub")).unwrap();
        std::fs::write(dir.path().join("secret"), "x").unwrap();
        std::fs::write(root.join(".env"), "x").unwrap();
        std::os::unix::fs::symlink(dir.path().join("secret"), root.join("link")).unwrap();
        for path in ["/../secret", "/link", "/.env", "/sub/../../secret", "/none", "/a%00b"] {
            assert_eq!(get(&root, path, &[]).err(), Some(StatusCode::NOT_FOUND), "{path}");
        }
    }

    #[test]
    fn an_application_of_one_page_answers_for_pages_and_not_for_files() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("index.html"), "page").unwrap();
        for (path, expected) in [
            ("/", Ok(200)),
            ("/users/john.doe/settings", Ok(200)),
            ("/app.js", Err(404)),
            ("/app.js/", Err(404)),
            ("/sub?x=1", Ok(308)),
        ] {
            let found = get(dir.path(), path, &[]);
            let status =
                found.as_ref().map(|one| one.status().as_u16()).map_err(StatusCode::as_u16);
            assert_eq!(status, expected, "{path}");
        }
        let moved = get(dir.path(), "/sub?x=1", &[]).unwrap();
        assert_eq!(moved.headers()[http::header::LOCATION], "/sub/?x=1");
    }

    #[test]
    fn the_packed_file_beside_is_sent_to_who_understands_it() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("a.js", "plain"), ("a.js.br", "b"), ("a.js.gz", "gz"), ("b.js", "b")]
        {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        for (path, accept, coding) in [
            ("/a.js", "gzip, br, zstd", Some("br")),
            ("/a.js", "gzip", Some("gzip")),
            ("/a.js", "zstd", None),
            ("/b.js", "gzip, br", None),
        ] {
            let found = get(dir.path(), path, &[("accept-encoding", accept)]).unwrap();
            assert_eq!(
                found.headers().get(CONTENT_ENCODING).map(|one| one.to_str().unwrap()),
                coding,
                "{path} {accept}"
            );
            assert_eq!(found.headers()[CONTENT_TYPE], "text/javascript; charset=utf-8");
        }
        let tag = |accept| {
            get(dir.path(), "/a.js", &[("accept-encoding", accept)]).unwrap().headers()[ETAG]
                .clone()
        };
        assert_ne!(tag("br"), tag("gzip"));
    }

    #[test]
    fn validators_and_ranges_are_answered() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.txt"), "0123456789").unwrap();
        let whole = get(dir.path(), "/a.txt", &[]).unwrap();
        let etag = whole.headers()[ETAG].to_str().unwrap().to_owned();
        assert_eq!(get(dir.path(), "/a.txt", &[("if-none-match", &etag)]).unwrap().status(), 304);
        let part = get(dir.path(), "/a.txt", &[("range", "bytes=2-4")]).unwrap();
        assert_eq!(
            (part.status().as_u16(), &part.headers()[CONTENT_RANGE]),
            (206, &HeaderValue::from_static("bytes 2-4/10"))
        );
        assert_eq!(get(dir.path(), "/a.txt", &[("range", "bytes=10-")]).unwrap().status(), 416);
    }

    #[test]
    fn of_several_odd_or_conditional_ranges_the_answer_is_the_whole_or_what_is_meant() {
        let part = |range: &str, condition: Option<&str>, etag: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RANGE, range.parse().unwrap());
            if let Some(condition) = condition {
                headers.insert(IF_RANGE, condition.parse().unwrap());
            }
            match super::range(&headers, etag, 10) {
                Range::Whole => "whole".to_owned(),
                Range::Part(from, to) => format!("{from}-{to}"),
                Range::Impossible => "none".to_owned(),
            }
        };
        for (range, expected) in [
            ("bytes=0-0", "0-1"),
            ("BYTES=2-4", "2-5"),
            ("bytes=5-", "5-10"),
            ("bytes=-3", "7-10"),
            ("bytes=-99", "0-10"),
            ("bytes=0-99999999999999999999999", "0-10"),
            ("bytes=99999999999999999999999-", "none"),
            ("bytes=-0", "none"),
            ("bytes=10-", "none"),
            ("bytes=0-1,5-6", "whole"),
            ("bytes=0-,0-,0-,0-,0-", "whole"),
            ("bytes=5-4", "whole"),
            ("bytes=+0-1", "whole"),
            ("bytes=0x0-1", "whole"),
            ("bytes=--1", "whole"),
            ("bytes=-", "whole"),
            ("bytes", "whole"),
            ("pages=0-1", "whole"),
        ] {
            assert_eq!(part(range, None, "\"x\""), expected, "{range}");
        }
        for (condition, etag, expected) in [
            ("\"x\"", "\"x\"", "0-2"),
            ("\"y\"", "\"x\"", "whole"),
            ("W/\"x\"", "\"x\"", "whole"),
            ("W/\"x\"", "W/\"x\"", "whole"),
            ("", "", "whole"),
            ("Thu, 13 Nov 2025 02:13:20 GMT", "\"x\"", "whole"),
        ] {
            assert_eq!(part("bytes=0-1", Some(condition), etag), expected, "{condition} {etag}");
        }
    }

    #[test]
    fn a_refused_range_is_not_kept_for_as_long_as_its_file_and_head_has_no_ranges() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.js"), "0123456789").unwrap();
        std::fs::write(dir.path().join("a.js.br"), "packed").unwrap();
        let long = [("/*".to_owned(), "public, max-age=31536000, immutable".to_owned())];
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, HeaderValue::from_static("bytes=99-"));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("br"));
        let uri = Uri::from_static("/a.js");
        let ask = |method| serve(dir.path(), false, &long, &uri, &method, &headers).unwrap();
        let refused = ask(Method::GET);
        assert_eq!(
            (refused.status(), &refused.headers()[CONTENT_RANGE]),
            (StatusCode::RANGE_NOT_SATISFIABLE, &HeaderValue::from_static("bytes */6"))
        );
        for name in [CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE] {
            assert!(!refused.headers().contains_key(&name), "{name}");
        }
        let head = ask(Method::HEAD);
        assert_eq!(
            (head.status(), &head.headers()[CONTENT_LENGTH]),
            (StatusCode::OK, &HeaderValue::from_static("6"))
        );
    }
}
