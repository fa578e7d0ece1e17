//! A password at the door (HTTP Basic, RFC 7617), and the key to what only some are told.
//!
//! Passwords and keys come with the certificates, in memory only, and are kept hashed. Invariants: comparing takes the
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

/// Who may come in, by `site/SECRET`.
#[derive(Debug, Default)]
pub(crate) struct Passwords {
    current: RwLock<Arc<HashMap<String, Known>>>,
}

/// Digests of a secret.
#[derive(Debug)]
struct Known {
    /// Of each `user:password`.
    lines: Vec<[u8; 32]>,
    /// Of all of it; an empty one opens nothing.
    whole: Option<[u8; 32]>,
}

impl Known {
    fn of(value: &str) -> Self {
        let lines = value.lines().map(str::trim).filter(|line| line.contains(':'));
        let whole = Some(value.trim()).filter(|value| !value.is_empty());
        Self {
            lines: lines.map(|line| Sha256::digest(line).into()).collect(),
            whole: whole.map(|value| Sha256::digest(value).into()),
        }
    }
}

impl Passwords {
    /// Takes the values of secrets.
    pub(crate) fn swap<'a>(&self, secrets: impl Iterator<Item = (&'a String, &'a String)>) {
        let all = secrets.map(|(key, value)| (key.clone(), Known::of(value))).collect();
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(all);
    }

    fn current(&self) -> Arc<HashMap<String, Known>> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether these are a line of the secret.
    fn knows(&self, key: &str, credentials: &[u8]) -> bool {
        let given: [u8; 32] = Sha256::digest(credentials).into();
        let all = self.current();
        let Some(known) = all.get(key) else { return false };
        // Every digest is compared whole.
        known.lines.iter().fold(false, |found, one| found | same(one, &given))
    }

    /// Whether this is the secret.
    pub(crate) fn is_value(&self, key: &str, value: &[u8]) -> bool {
        let given: [u8; 32] = Sha256::digest(value).into();
        let all = self.current();
        all.get(key).and_then(|known| known.whole).is_some_and(|whole| same(&whole, &given))
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

    #[test]
    fn a_key_is_all_of_its_secret_and_an_empty_secret_is_none() {
        let passwords = Passwords::default();
        assert!(!passwords.is_value("shop/KEY", b"k3y"));
        let secrets = [("shop/KEY", "k3y\n"), ("shop/EMPTY", " \n")];
        let secrets = secrets.map(|(key, value)| (key.to_owned(), value.to_owned()));
        passwords.swap(secrets.iter().map(|(key, value)| (key, value)));
        for (key, value, expected) in [
            ("shop/KEY", "k3y", true),
            ("shop/KEY", "k3", false),
            ("shop/KEY", "k3y0", false),
            ("shop/KEY", "", false),
            ("shop/EMPTY", "", false),
            ("shop/OTHER", "k3y", false),
        ] {
            assert_eq!(passwords.is_value(key, value.as_bytes()), expected, "{key} {value}");
        }
    }
}
