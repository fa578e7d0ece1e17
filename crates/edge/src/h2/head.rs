//! Requests' heads and trailers, made of the fields of a block (RFC 9113 § 8).
//!
//! Invariants: a request that is made here has one method, one path and one host, and nothing in it that could
//! be read in another way over HTTP/1.1; a block of more than [`LARGEST`] or [`MOST_FIELDS`] is
//! read to its end, for the table's sake, but not kept.

use std::borrow::Cow;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{COOKIE, HeaderName, HeaderValue};
use http::uri::{Authority, Parts, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Uri, Version};

use super::hpack::{Entry, Kind, Name, Pseudo, Value};
use crate::h1::plain_length;
use crate::head::{
    LARGEST, LONGEST_METHOD, LONGEST_TARGET, MOST_FIELDS, Refusal, TARGET_TOO_LONG, TOO_LARGE, bad,
};
use crate::route::canonical_host;

/// Headers of usual requests, and those that are put in later.
const USUAL: usize = 16;

/// What a block holds.
#[derive(Debug, Default)]
pub(super) struct Fields {
    method: Option<Bytes>,
    scheme: Option<Bytes>,
    authority: Option<Bytes>,
    path: Option<Bytes>,
    headers: HeaderMap,
    host: Option<HeaderValue>,
    cookies: BytesMut,
    length: Option<u64>,
    size: usize,
    count: usize,
    /// The first thing that was wrong.
    wrong: Option<&'static str>,
}

/// A request, and the length that its body was announced with.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) request: Request<()>,
    pub(super) length: Option<u64>,
}

impl Fields {
    /// Takes one field.
    pub(super) fn take(&mut self, entry: Cow<'_, Entry>) {
        self.size += entry.size();
        if self.size > LARGEST || self.count > MOST_FIELDS {
            return;
        }
        let added = match (&entry.name, &entry.value) {
            (Name::Wrong, _) => Err("a header name is no token in lower case"),
            (_, Value::Wrong) => {
                Err("a value begins or ends with blanks, or holds a control character")
            }
            (Name::Pseudo(pseudo), Value::Raw(value)) => self.pseudo(*pseudo, value),
            _ => self.header(entry),
        };
        if let Err(wrong) = added {
            self.wrong.get_or_insert(wrong);
        }
    }

    fn pseudo(&mut self, pseudo: Pseudo, value: &Bytes) -> Result<(), &'static str> {
        if self.count > 0 {
            return Err("a pseudo-header behind a header");
        }
        let place = match pseudo {
            Pseudo::Method => &mut self.method,
            Pseudo::Scheme => &mut self.scheme,
            Pseudo::Authority => &mut self.authority,
            Pseudo::Path => &mut self.path,
            Pseudo::Other => return Err("an unknown pseudo-header"),
        };
        if place.replace(value.clone()).is_some() {
            return Err("a pseudo-header twice");
        }
        Ok(())
    }

    fn header(&mut self, entry: Cow<'_, Entry>) -> Result<(), &'static str> {
        let (name, kind, value) = match entry {
            Cow::Borrowed(Entry {
                name: Name::Header(name, kind),
                value: Value::Header(value),
                ..
            }) => (name.clone(), *kind, value.clone()),
            Cow::Owned(Entry {
                name: Name::Header(name, kind),
                value: Value::Header(value),
                ..
            }) => (name, kind, value),
            _ => return Err("a field is none"),
        };
        match kind {
            Kind::Cookie => return self.cookie(&value),
            Kind::Connection => return Err("a header of HTTP/1.1 connections"),
            Kind::Te if value != "trailers" => return Err("TE other than trailers"),
            Kind::Plain | Kind::Te => {}
            Kind::Host => {
                if self.host.replace(value.clone()).is_some() {
                    return Err("more than one Host header");
                }
            }
            Kind::ContentLength => {
                let length = plain_length(value.as_bytes());
                let length = length.ok_or("the Content-Length is no plain number")?;
                if self.length.replace(length).is_some() {
                    return Err("more than one Content-Length");
                }
            }
        }
        self.count += 1;
        self.add(name, value)
    }

    fn add(&mut self, name: HeaderName, value: HeaderValue) -> Result<(), &'static str> {
        if self.headers.is_empty() {
            self.headers.reserve(USUAL);
        }
        self.headers.try_append(name, value).map(drop).map_err(|_| "too many headers")
    }

    /// Crumbs become one header again (§ 8.2.3).
    fn cookie(&mut self, crumb: &HeaderValue) -> Result<(), &'static str> {
        self.count = self.count.max(1);
        // Joined it would leave a space at the end of the line.
        if crumb.is_empty() {
            return Ok(());
        }
        if !self.cookies.is_empty() {
            self.cookies.put_slice(b"; ");
        }
        self.cookies.put_slice(crumb.as_bytes());
        Ok(())
    }

    fn refused(&self) -> Option<Refusal> {
        if self.size > LARGEST || self.count > MOST_FIELDS {
            return Some(TOO_LARGE);
        }
        self.wrong.map(bad)
    }

    /// As the head of a request. `last`: the authority of the one before, most often the same.
    pub(super) fn request(mut self, last: &mut Option<Authority>) -> Result<Head, Refusal> {
        if let Some(refusal) = self.refused() {
            return Err(refusal);
        }
        if !self.cookies.is_empty() {
            let cookies = HeaderValue::from_maybe_shared(self.cookies.split().freeze());
            let cookies = cookies.map_err(|_| bad("a cookie holds a control character"))?;
            self.headers.insert(COOKIE, cookies);
        }
        let method = self.method.take().ok_or(bad("no method"))?;
        if method.len() > LONGEST_METHOD {
            return Err(bad("the method is no token"));
        }
        let method = Method::from_bytes(&method).map_err(|_| bad("the method is no token"))?;
        let uri = self.target(&method, last)?;
        let mut request = Request::new(());
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = self.headers;
        Ok(Head { request, length: self.length })
    }

    fn target(&mut self, method: &Method, last: &mut Option<Authority>) -> Result<Uri, Refusal> {
        let authority = self.authority(last)?;
        let mut parts = Parts::default();
        if *method == Method::CONNECT {
            if self.scheme.is_some() || self.path.is_some() || authority.is_none() {
                return Err(bad("CONNECT names an authority and nothing else"));
            }
            parts.authority = authority;
            return Uri::from_parts(parts).map_err(|_| bad("no authority"));
        }
        let scheme = match self.scheme.as_deref() {
            Some(b"https") => Scheme::HTTPS,
            Some(b"http") => Scheme::HTTP,
            Some(_) => return Err(bad("the scheme is neither http nor https")),
            None => return Err(bad("no scheme")),
        };
        let path = self.path.take().ok_or(bad("no path"))?;
        if path.len() > LONGEST_TARGET {
            return Err(TARGET_TOO_LONG);
        }
        let is_path = path.first() == Some(&b'/') || (*path == *b"*" && *method == Method::OPTIONS);
        // A fragment would be cut off silently by who parses the target as a URI.
        if !is_path || !path.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'#') {
            return Err(bad("the path is none"));
        }
        let path = PathAndQuery::from_maybe_shared(path)
            .map_err(|_| bad("the path holds a forbidden character"))?;
        parts.path_and_query = Some(path);
        if authority.is_some() {
            parts.scheme = Some(scheme);
            parts.authority = authority;
        }
        Uri::from_parts(parts).map_err(|_| bad("the target is none"))
    }

    /// The authority, which must be what `Host` says (§ 8.3.1).
    fn authority(&mut self, last: &mut Option<Authority>) -> Result<Option<Authority>, Refusal> {
        let Some(given) = self.authority.take() else { return Ok(None) };
        if let Some(host) = &self.host
            && host.as_bytes() != given
        {
            let same = canonical_host(host.as_bytes())
                .is_ok_and(|host| canonical_host(&given).is_ok_and(|given| host == given));
            if !same {
                return Err(bad("the target and the Host header differ"));
            }
        }
        if last.as_ref().is_none_or(|last| last.as_str().as_bytes() != given) {
            let parsed = Authority::from_maybe_shared(given);
            *last = Some(parsed.map_err(|_| bad("the authority is none"))?);
        }
        Ok(last.clone())
    }

    /// As what follows a body; nothing where HTTP allows no such trailers.
    pub(super) fn trailers(self) -> Option<HeaderMap> {
        let pseudo = [&self.method, &self.scheme, &self.authority, &self.path];
        let is_wrong = self.refused().is_some()
            || pseudo.iter().any(|one| one.is_some())
            || self.length.is_some()
            || self.host.is_some()
            || !self.cookies.is_empty();
        (!is_wrong).then_some(self.headers)
    }
}
