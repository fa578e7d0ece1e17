//! Answers to an authority that looks whether a name is ours: http-01 (RFC 8555 § 8.3).
//!
//! Before every site and policy: a site that is closed, redirects or locks out must not lose its certificate by
//! that. Only tokens that control named are answered, so that an application may prove its own names. tls-alpn-01
//! is answered in the handshake ([`crate::tls`]).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use http::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use seaworthy_base::challenge::Shown;

use crate::body::{Content, ResponseBody};
use crate::model::Keys;

/// Where authorities look.
const PLACE: &str = "/.well-known/acme-challenge/";

/// The tokens that are answered now.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    /// Whether there are any: almost always not.
    any: AtomicBool,
    by_token: RwLock<HashMap<String, String>>,
}

impl Tokens {
    /// Takes those of a new input.
    pub(crate) fn swap(&self, keys: &Keys) {
        let each = keys.challenges.iter().filter_map(|challenge| match challenge {
            Shown::Http { token, answer } => Some((token.clone(), answer.clone())),
            Shown::TlsAlpn { .. } => None,
        });
        let tokens: HashMap<_, _> = each.collect();
        let any = !tokens.is_empty();
        *self.by_token.write().unwrap_or_else(PoisonError::into_inner) = tokens;
        self.any.store(any, Ordering::Release);
    }

    /// The answer, if this path asks for a token that is known.
    pub(crate) fn answer(&self, path: &str) -> Option<Response<ResponseBody>> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        let token = path.strip_prefix(PLACE)?;
        let tokens = self.by_token.read().unwrap_or_else(PoisonError::into_inner);
        let answer = tokens.get(token)?.clone();
        let mut response = Response::new(Content::Full(answer.into()).into());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Some(response)
    }
}
