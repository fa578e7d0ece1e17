//! The head of an instance's response: read strictly, because what two readers could take for the end of
//! a response in two ways would let one client's bytes become another client's answer.
//!
//! Invariants: a head that passes has exactly one framing; its values share the bytes that were read; a
//! `Connection` that says nothing but the usual ends here. Not here: what is done with the headers.

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use crate::forwarded::lists;
use crate::h1::{Framing, plain_length};
use crate::rooms::Rooms;

/// The longest head, as many fields as hyper takes.
const MAX_HEAD: usize = 64 << 10;
const MAX_FIELDS: usize = 100;

/// A head, and what it says about the bytes behind it.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) framing: Framing,
    /// The connection may be used again after the body.
    pub(super) keep: bool,
}

/// Takes a head from the front of `bytes`; nothing when it is not there whole. The error says what is
/// wrong with it.
pub(super) fn take(
    bytes: &mut BytesMut,
    method: &Method,
    rooms: &Rooms,
) -> Result<Option<Head>, &'static str> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut fields = [const { std::mem::MaybeUninit::uninit() }; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut response, bytes, &mut fields)
        .map_err(|error| match error {
            httparse::Error::TooManyHeaders => "its head has more than 100 fields",
            _ => "it is not HTTP/1",
        })?;
    let httparse::Status::Complete(length) = parsed else {
        return if bytes.len() > MAX_HEAD { Err(TOO_LONG) } else { Ok(None) };
    };
    if length >= MAX_HEAD {
        return Err(TOO_LONG);
    }
    let status = StatusCode::from_u16(response.code.unwrap_or(0))
        .map_err(|_| "its status is no number from 100 to 999")?;
    let is_1_1 = response.version == Some(1);
    // The fields borrow from `bytes`: their places are kept while it becomes shared.
    let start = bytes.as_ptr() as usize;
    let mut places = [Place::default(); MAX_FIELDS];
    let count = response.headers.len();
    for (place, field) in places.iter_mut().zip(response.headers.iter()) {
        let of = |part: &[u8]| {
            // Below 64 KiB.
            let at = (part.as_ptr() as usize).wrapping_sub(start);
            (at as u16, part.len() as u16)
        };
        *place = Place { name: of(field.name.as_bytes()), value: of(field.value) };
    }
    let head = bytes.split_to(length).freeze();
    let (headers, said) = headers(&head, &places[..count], rooms)?;
    let framing = framing(&headers, method, status, is_1_1)?;
    let keep = framing != Framing::ToEnd && said.may_keep(is_1_1);
    Ok(Some(Head { status, headers, framing, keep }))
}

const TOO_LONG: &str = "its head is larger than 64 KiB";

/// Where a field lies in its head: the start and length of each part.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    name: (u16, u16),
    value: (u16, u16),
}

/// What `Connection` says of the connection itself (RFC 9112 § 9.3).
#[derive(Debug, Default)]
struct Said {
    close: bool,
    keep_alive: bool,
}

impl Said {
    /// Whether that was all that a line says.
    fn note(&mut self, line: &[u8]) -> bool {
        let close = line.eq_ignore_ascii_case(b"close");
        let keep_alive = line.eq_ignore_ascii_case(b"keep-alive");
        self.close |= close;
        self.keep_alive |= keep_alive;
        close || keep_alive
    }

    fn may_keep(&self, is_1_1: bool) -> bool {
        !self.close && (is_1_1 || self.keep_alive)
    }
}

fn headers(
    head: &Bytes,
    places: &[Place],
    rooms: &Rooms,
) -> Result<(HeaderMap, Said), &'static str> {
    // Room for what is put in later: the map need not grow.
    let mut headers = rooms.fields(places.len() + 4);
    let mut said = Said::default();
    for place in places {
        let part =
            |(at, length): (u16, u16)| usize::from(at)..usize::from(at) + usize::from(length);
        let name = HeaderName::from_bytes(head.get(part(place.name)).unwrap_or_default())
            .map_err(|_| "a header's name is none")?;
        let bytes = head.get(part(place.value)).unwrap_or_default();
        if name == CONNECTION && said.note(bytes) {
            continue;
        }
        let value = if place.value.1 == 0 {
            HeaderValue::from_static("")
        } else {
            HeaderValue::from_maybe_shared(head.slice(part(place.value)))
                .map_err(|_| "a header's value holds a forbidden character")?
        };
        headers.append(name, value);
    }
    said.close |= lists(&headers, &CONNECTION, "close");
    said.keep_alive |= lists(&headers, &CONNECTION, "keep-alive");
    Ok((headers, said))
}

fn framing(
    headers: &HeaderMap,
    method: &Method,
    status: StatusCode,
    is_1_1: bool,
) -> Result<Framing, &'static str> {
    let length = length(headers)?;
    let bodiless = *method == Method::HEAD
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if bodiless {
        return Ok(Framing::Length(0));
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next(), length) {
        (None, _, Some(length)) => Ok(Framing::Length(length)),
        (None, _, None) => Ok(Framing::ToEnd),
        (Some(_), _, Some(_)) => Err("it has both Transfer-Encoding and Content-Length"),
        (Some(coding), None, None)
            if is_1_1 && coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") =>
        {
            Ok(Framing::CHUNKED)
        }
        _ => Err("its Transfer-Encoding is not plainly `chunked`"),
    }
}

/// The one announced length; the same one said twice counts once.
fn length(headers: &HeaderMap) -> Result<Option<u64>, &'static str> {
    let mut found = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        let number = plain_length(value.as_bytes());
        match (number, found) {
            (None, _) => return Err("its Content-Length is no plain number"),
            (Some(number), Some(other)) if number != other => {
                return Err("it has two different Content-Length");
            }
            _ => found = number,
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Option<(u16, Framing, bool)>, &'static str> {
        let mut bytes = BytesMut::from(text);
        Ok(take(&mut bytes, &Method::GET, &Rooms::default())?.map(|head| {
            assert!(bytes.is_empty(), "{text}");
            (head.status.as_u16(), head.framing, head.keep)
        }))
    }

    #[test]
    fn every_way_to_end_a_body_is_found() {
        let chunked = Framing::CHUNKED;
        for (text, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", (200, Framing::Length(5), true)),
            (
                "HTTP/1.1 200 \r\ncontent-length:5\r\ncontent-length: 5\r\n\r\n",
                (200, Framing::Length(5), true),
            ),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: CHUNKED\r\n\r\n", (200, chunked, true)),
            ("HTTP/1.1 200 OK\r\n\r\n", (200, Framing::ToEnd, false)),
            ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", (200, Framing::Length(5), false)),
            (
                "HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: Keep-Alive\r\n\r\n",
                (200, Framing::Length(5), true),
            ),
            (
                "HTTP/1.1 204 No\r\nContent-Length: 5\r\nConnection: x, close\r\n\r\n",
                (204, Framing::Length(0), false),
            ),
            ("HTTP/1.1 304 No\r\nContent-Length: 5\r\n\r\n", (304, Framing::Length(0), true)),
        ] {
            assert_eq!(read(text), Ok(Some(expected)), "{text}");
            for cut in 0..text.len() {
                assert_eq!(read(&text[..cut]), Ok(None), "{text:?} cut at {cut}");
            }
        }
        let usual = "HTTP/1.1 200 OK\r\nConnection: Keep-Alive\r\nConnection: x-hop\r\n\r\n";
        let head = take(&mut usual.into(), &Method::HEAD, &Rooms::default()).unwrap().unwrap();
        assert_eq!(head.headers.get_all(CONNECTION).iter().collect::<Vec<_>>(), ["x-hop"]);
        let mut bytes =
            BytesMut::from("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: a\r\nX:\r\n\r\nrest");
        let head = take(&mut bytes, &Method::HEAD, &Rooms::default()).unwrap().unwrap();
        assert_eq!((head.framing, &bytes[..]), (Framing::Length(0), &b"rest"[..]));
        let values: Vec<_> = head.headers.get_all("x").iter().collect();
        assert_eq!(values, ["a", ""]);
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for fields in [
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Content-Length: 5, 5\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: -1\r\n",
            "Content-Length: 0x5\r\n",
            "Content-Length:\r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: xchunked\r\n",
            "Transfer-Encoding : chunked\r\n",
            "X: a\r\n folded\r\n",
            "no colon\r\n",
            "X: a\0b\r\n",
        ] {
            assert!(read(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n")).is_err(), "{fields}");
        }
        assert!(read("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
        assert!(read("HTTP/2 200 OK\r\n\r\n").is_err());
        assert!(read("HTTP/1.1 099 OK\r\n\r\n").is_err());
        assert!(read(&format!("HTTP/1.1 200 OK\r\nX: {}", "a".repeat(MAX_HEAD))).is_err());
        assert!(read(&format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: a\r\n".repeat(101))).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_and_what_passes_lies_within(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut text = BytesMut::from(&b"HTTP/1.1 200 OK\r\n"[..]);
            text.extend_from_slice(&bytes);
            let before = text.len();
            if let Ok(Some(_)) = take(&mut text, &Method::GET, &Rooms::default()) {
                prop_assert!(text.len() < before);
            }
        }
    }
}
