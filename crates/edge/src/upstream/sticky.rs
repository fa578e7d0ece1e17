//! The cookie by which a visitor stays with an instance.
//!
//! It names the instance's place by a number that says nothing, and is signed (SipHash-2-4, 128 bits, with a
//! key that only edges know), so that nobody chooses the instance that he attacks. Invariants: a cookie of
//! another service or key is none; the name of the cookie is the service's own, so that two services of one
//! site keep their visitors apart.

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};
use siphasher::sip128::{Hasher128 as _, SipHasher24};
use std::hash::Hasher as _;

use crate::policy::keys::ident;

/// What cookies are signed with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Key(pub(crate) [u8; 16]);

fn sign(key: Key, service: &str, tag: u64) -> u128 {
    let mut hasher = SipHasher24::new_with_key(&key.0);
    hasher.write(service.as_bytes());
    hasher.write_u8(0);
    hasher.write_u64(tag);
    hasher.finish128().as_u128()
}

fn name(service: &str) -> String {
    format!("seaworthy-at-{:08x}", ident(service, "sticky") as u32)
}

/// The tag of the instance that a visitor belongs to.
pub(crate) fn read(key: Key, service: &str, headers: &HeaderMap) -> Option<u64> {
    let name = name(service);
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(given, _)| given.trim() == name)?;
    let (tag, signature) = value.trim().split_once('.')?;
    if tag.len() != 16 || signature.len() != 32 {
        return None;
    }
    let tag = u64::from_str_radix(tag, 16).ok()?;
    let signature = u128::from_str_radix(signature, 16).ok()?;
    // The numbers are compared in constant time.
    (signature ^ sign(key, service, tag) == 0).then_some(tag)
}

/// The cookie that keeps a visitor with an instance.
pub(crate) fn cookie(key: Key, service: &str, tag: u64, secure: bool) -> Option<HeaderValue> {
    let signature = sign(key, service, tag);
    let secure = if secure { "; Secure" } else { "" };
    let text = format!(
        "{}={tag:016x}.{signature:032x}; Path=/; HttpOnly; SameSite=Lax{secure}",
        name(service)
    );
    HeaderValue::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with(cookie: &str) -> HeaderMap {
        HeaderMap::from_iter([(COOKIE, HeaderValue::from_str(cookie).unwrap())])
    }

    fn made(service: &str, tag: u64) -> String {
        let cookie = cookie(Key([7; 16]), service, tag, true).unwrap();
        cookie.to_str().unwrap().split(';').next().unwrap().to_owned()
    }

    #[test]
    fn a_cookie_leads_back_and_a_forged_or_foreign_one_does_not() {
        let (key, mine) = (Key([7; 16]), made("shop/web", 42));
        assert_eq!(read(key, "shop/web", &with(&format!("a=b; {mine}"))), Some(42));
        assert_eq!(read(Key([8; 16]), "shop/web", &with(&mine)), None);
        assert_eq!(read(key, "shop/api", &with(&mine)), None);
        let renamed = format!("{}={}", name("shop/api"), mine.split('=').nth(1).unwrap());
        assert_eq!(read(key, "shop/api", &with(&renamed)), None);
        assert_eq!(read(key, "shop/web", &with(&mine.replace("2a.", "2b."))), None);
        assert_eq!(read(key, "shop/web", &HeaderMap::new()), None);
    }

    proptest! {
        #[test]
        fn what_somebody_made_up_is_nothing(value in "[0-9a-f.+]{0,60}") {
            let line = format!("{}={value}", name("shop/web"));
            prop_assert_eq!(read(Key([7; 16]), "shop/web", &with(&line)), None);
        }
    }
}
