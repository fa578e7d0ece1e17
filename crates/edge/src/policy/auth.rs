//! A password at the door (HTTP Basic, RFC 7617).
//!
//! The passwords come with the keys, in memory only, and are kept hashed. Invariants: comparing takes the
//! same time wherever the first difference is; without its secret a route lets nobody in; what the client
//! sent is not passed on to the instance.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, HeaderMap, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use seaworthy_base::policy as said;
use sha2::{Digest as _, Sha256};

use super::Refused;

/// `auth` of a route.
#[derive(Debug)]
pub(crate) struct Auth {
    /// Of the passwords.
    key: String,
    challenge: HeaderValue,
}

/// Who may come in, by `site/SECRET`: digests of `user:password`.
#[derive(Debug, Default)]
pub(crate) struct Passwords {
    current: RwLock<Arc<HashMap<String, Vec<[u8; 32]>>>>,
}

impl Passwords {
    /// Takes the values of secrets; each line is `user:password`.
    pub(crate) fn swap<'a>(&self, secrets: impl Iterator<Item = (&'a String, &'a String)>) {
        let lines = |value: &str| -> Vec<[u8; 32]> {
            let lines = value.lines().map(str::trim).filter(|line| line.contains(':'));
            lines.map(|line| Sha256::digest(line).into()).collect()
        };
        let all = secrets.map(|(key, value)| (key.clone(), lines(value))).collect();
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(all);
    }

    fn knows(&self, key: &str, credentials: &[u8]) -> bool {
        let all = Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner));
        let given: [u8; 32] = Sha256::digest(credentials).into();
        let Some(known) = all.get(key) else { return false };
        // Every digest is compared whole.
        known.iter().fold(false, |found, one| found | same(one, &given))
    }
}

fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

impl Auth {
    pub(super) fn build(site: &str, given: &said::Auth) -> Self {
        let challenge = format!("Basic realm=\"{site}\", charset=\"UTF-8\"");
        Self {
            key: format!("{site}/{}", given.basic),
            challenge: HeaderValue::from_str(&challenge)
                .unwrap_or(HeaderValue::from_static("Basic realm=\"site\"")),
        }
    }

    /// Whether the request brings a password that is known.
    pub(super) fn check(&self, headers: &HeaderMap, passwords: &Passwords) -> Result<(), Refused> {
        let given = headers.get(AUTHORIZATION);
        let cause = match given.and_then(credentials) {
            Some(given) if passwords.knows(&self.key, &given) => return Ok(()),
            Some(_) => "wrong user or password",
            None => "no password was sent",
        };
        let mut refused = Refused::plain(StatusCode::UNAUTHORIZED, cause);
        refused.headers.push((WWW_AUTHENTICATE, self.challenge.clone()));
        Err(refused)
    }
}

/// `user:password` of an `Authorization: Basic` header.
fn credentials(header: &HeaderValue) -> Option<Vec<u8>> {
    let (scheme, rest) = header.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("basic").then_some(())?;
    STANDARD.decode(rest.trim()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_passwords_open_the_door() {
        let passwords = Passwords::default();
        let auth = Auth::build("shop", &said::Auth { basic: "STAFF".to_owned() });
        let status = |authorization: Option<String>| {
            let mut headers = HeaderMap::new();
            if let Some(text) = authorization {
                headers.insert(AUTHORIZATION, text.parse().unwrap());
            }
            auth.check(&headers, &passwords).err().map_or(200, |refused| refused.status.as_u16())
        };
        let basic = |text: &str| Some(format!("Basic {}", STANDARD.encode(text)));
        // Without its secret nobody comes in.
        assert_eq!(status(basic("ann:pw")), 401);
        let (key, value) = ("shop/STAFF".to_owned(), "ann:pw\nbob:p:w \n\n".to_owned());
        passwords.swap([(&key, &value)].into_iter());
        for (given, expected) in [
            (basic("ann:pw"), 200),
            (basic("bob:p:w"), 200),
            (basic("ann:p"), 401),
            (basic(""), 401),
            (Some("Bearer x".to_owned()), 401),
            (Some("Basic !!!".to_owned()), 401),
            (None, 401),
        ] {
            assert_eq!(status(given.clone()), expected, "{given:?}");
        }
    }
}
