//! By what requests are told apart, as numbers: keyed hashes, so that nothing of a person is kept.
//!
//! Invariants: leaving out a header or cookie does not leave the count (the address takes its place); an
//! IPv6 client is its /64, since it has 2⁶⁴ addresses; two names that an application takes for one
//! account (`Ann@x`, ` ann@X`, `Ánn@x`) are one.

use std::hash::Hasher as _;
use std::net::IpAddr;

use http::header::{AUTHORIZATION, COOKIE};
use http::request::Parts;
use http::{HeaderMap, HeaderName};
use icu_normalizer::DecomposingNormalizerBorrowed;
use icu_normalizer::properties::CanonicalCombiningClassMapBorrowed;
use seaworthy_base::policy::{Identity, Key};
use siphasher::sip::SipHasher13;

use super::fields::Fields;
use crate::route::CompiledSite;

/// What is secret about the hashes of a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hasher {
    pub(crate) secret: (u64, u64),
}

impl Hasher {
    /// With a secret of its own.
    pub(crate) fn random() -> Self {
        Self { secret: (rand::random(), rand::random()) }
    }

    /// With a secret that others have too.
    pub(crate) fn keyed(key: [u8; 16]) -> Self {
        let whole = u128::from_le_bytes(key);
        Self { secret: (whole as u64, (whole >> 64) as u64) }
    }

    /// Never 0, which stands for nothing.
    pub(crate) fn hash(&self, ident: u64, kind: u8, value: &[u8]) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.secret.0, self.secret.1);
        hasher.write_u64(ident);
        hasher.write_u8(kind);
        hasher.write(value);
        hasher.finish().max(1)
    }
}

impl Hasher {
    /// The keys that a text may stand for: an address, an account, a cookie or header.
    pub(crate) fn names(&self, ident: u64, text: &str) -> Vec<u64> {
        let bare = text.split('/').next().unwrap_or_default();
        let ip = bare.parse::<IpAddr>().ok().map(|ip| self.hash(ident, IP, &network(ip)));
        let account = self.hash(ident, FIELD, account(text).as_bytes());
        let others = [HEADER, COOKIE_VALUE].map(|kind| self.hash(ident, kind, text.as_bytes()));
        ip.into_iter().chain([account]).chain(others).collect()
    }
}

/// A number for a name within a site: the same in every process and after every restart.
pub(crate) fn ident(site: &str, name: &str) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(0x5ea_4047, 0x11);
    hasher.write(site.as_bytes());
    hasher.write_u8(0);
    hasher.write(name.as_bytes());
    hasher.finish()
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller<'a> {
    pub(crate) ip: IpAddr,
    pub(crate) headers: &'a HeaderMap,
    /// Of the body, where it was looked at.
    pub(crate) fields: Option<&'a Fields>,
    /// Names method and path.
    pub(crate) place: u64,
}

impl<'a> Caller<'a> {
    /// Of whose body nothing is known.
    pub(crate) fn new(ip: IpAddr, parts: &'a Parts) -> Self {
        let place = ident(parts.method.as_str(), parts.uri.path());
        Self { ip, headers: &parts.headers, fields: None, place }
    }
}

/// Makes the keys of one request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keys<'a> {
    pub(crate) caller: Caller<'a>,
    pub(crate) site: &'a CompiledSite,
    pub(crate) hasher: Hasher,
}

/// The kinds of values, so that a cookie never counts as an address.
const IP: u8 = 1;
const HEADER: u8 = 2;
const COOKIE_VALUE: u8 = 3;
const FIELD: u8 = 4;
const ALL: u8 = 5;
const BEARER: u8 = 6;
/// Of calls to others.
pub(crate) const CALL: u8 = 7;

/// The bytes of an address that count.
pub(crate) fn network(ip: IpAddr) -> [u8; 16] {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => {
            let mut octets = ip.octets();
            octets[8..].fill(0);
            octets
        }
    }
}

/// An account in its one spelling: without case, accents, forms of letters that only look different, and what
/// nobody sees. Databases compare so (MySQL's usual collations take `Ánn@x` for `ann@x`), and of two that are
/// one account to the application none may have a count of its own.
pub(crate) fn account(value: &str) -> String {
    if value.is_ascii() {
        let seen: String = value.chars().filter(|c| !c.is_ascii_control()).collect();
        return seen.trim().to_ascii_lowercase();
    }
    let marks = CanonicalCombiningClassMapBorrowed::new();
    let letters = DecomposingNormalizerBorrowed::new_nfkd().normalize_iter(value.chars());
    let seen = letters.filter(|c| marks.get_u8(*c) == 0 && !c.is_control() && !is_ignored(*c));
    // By the capitals: `ß` is `SS` there, and the long `ſ` an `S`; before them, for the capital `ẞ`.
    let folded = seen.collect::<String>().to_lowercase().to_uppercase().to_lowercase();
    folded.trim().to_owned()
}

/// Without a width or a meaning of its own: soft hyphens, joiners, marks of direction, variation selectors, and whatever
/// else collations give no weight (Unicode's categories Cf and Me, U+0640, U+180A).
fn is_ignored(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{34f}' | '\u{488}'..='\u{489}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{640}'
        | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}' | '\u{8e2}' | '\u{180a}'..='\u{180f}' | '\u{1abe}'
        | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{20dd}'..='\u{20e0}' | '\u{20e2}'..='\u{20e4}' | '\u{a670}'..='\u{a672}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}'
        | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

impl Keys<'_> {
    /// The one key of a request by something in its head.
    pub(crate) fn by_head(&self, ident: u64, by: &Key) -> u64 {
        let headers = self.caller.headers;
        let found = match by {
            Key::Ip | Key::Json(_) | Key::Form(_) => None,
            Key::Site => Some(self.hasher.hash(ident, ALL, &[])),
            Key::User => self.site.identity.iter().find_map(|one| self.user(ident, one)),
            Key::Header(name) => self.header(ident, HEADER, name),
            Key::Cookie(name) => cookie(headers, name)
                .map(|value| self.hasher.hash(ident, COOKIE_VALUE, value.as_bytes())),
        };
        found.unwrap_or_else(|| self.hasher.hash(ident, IP, &network(self.caller.ip)))
    }

    /// The keys of a request by a field of its body: one for each time that the field stands there.
    pub(crate) fn by_body(&self, ident: u64, by: &Key) -> Vec<u64> {
        let Some(fields) = self.caller.fields else { return Vec::new() };
        let values = fields.values(by).iter().map(|value| account(value));
        values.map(|value| self.hasher.hash(ident, FIELD, value.as_bytes())).collect()
    }

    fn user(&self, ident: u64, one: &Identity) -> Option<u64> {
        match one {
            Identity::Cookie(name) => cookie(self.caller.headers, name)
                .map(|value| self.hasher.hash(ident, COOKIE_VALUE, value.as_bytes())),
            Identity::Header(name) => self.header(ident, HEADER, name),
            Identity::Bearer => {
                let value = self.caller.headers.get(AUTHORIZATION)?.to_str().ok()?;
                let (scheme, token) = value.split_once(' ')?;
                scheme
                    .eq_ignore_ascii_case("bearer")
                    .then(|| self.hasher.hash(ident, BEARER, token.trim().as_bytes()))
            }
        }
    }

    fn header(&self, ident: u64, kind: u8, name: &str) -> Option<u64> {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        let value = self.caller.headers.get(name)?;
        Some(self.hasher.hash(ident, kind, value.as_bytes()))
    }
}

/// The first cookie of a name, over all `Cookie` lines (HTTP/2 splits them).
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site() -> CompiledSite {
        let identity = vec![Identity::Cookie("session".to_owned()), Identity::Bearer];
        CompiledSite::for_tests(&["shop.example"], identity)
    }

    fn key(ip: &str, headers: &[(&str, &str)], by: &Key) -> u64 {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        let caller = Caller { ip: ip.parse().unwrap(), headers: &map, fields: None, place: 0 };
        let hasher = Hasher { secret: (1, 2) };
        Keys { caller, site: &site(), hasher }.by_head(7, by)
    }

    #[test]
    fn an_address_is_itself_or_its_64() {
        let ip = |ip: &str| key(ip, &[], &Key::Ip);
        assert_eq!(ip("192.0.2.1"), ip("::ffff:192.0.2.1"));
        assert_ne!(ip("192.0.2.1"), ip("192.0.2.2"));
        assert_eq!(ip("2001:db8:1:2::1"), ip("2001:db8:1:2:ffff::9"));
        assert_ne!(ip("2001:db8:1:2::1"), ip("2001:db8:1:3::1"));
    }

    #[test]
    fn a_user_is_known_by_session_then_token_then_address() {
        let user = |ip: &str, headers: &[(&str, &str)]| key(ip, headers, &Key::User);
        let session = [("cookie", "a=1; session=x")];
        assert_eq!(user("192.0.2.1", &session), user("192.0.2.2", &session));
        // As HTTP/2 sends it.
        assert_eq!(
            user("192.0.2.1", &session),
            user("::1", &[("cookie", "a=1"), ("cookie", "session=x")])
        );
        let token = [("authorization", "Bearer x")];
        assert_eq!(user("192.0.2.1", &token), user("192.0.2.2", &[("authorization", "bearer x")]));
        assert_ne!(user("192.0.2.1", &session), user("192.0.2.1", &token));
        assert_eq!(user("192.0.2.1", &[]), key("192.0.2.1", &[], &Key::Ip));
    }

    #[test]
    fn leaving_out_what_is_counted_by_does_not_leave_the_count() {
        let by = Key::Header("x-key".to_owned());
        assert_eq!(key("192.0.2.1", &[], &by), key("192.0.2.1", &[], &Key::Ip));
        assert_ne!(
            key("192.0.2.1", &[("x-key", "1")], &by),
            key("192.0.2.1", &[("x-key", "2")], &by)
        );
    }

    #[test]
    fn an_account_is_one_however_a_database_lets_it_be_written() {
        for name in [
            "ann@x",
            " Ann@X ",
            "\u{c1}nn@x",
            "a\u{301}nn@x",
            "ａｎｎ＠ｘ",
            "a\u{ad}nn@x",
            "ann\u{200b}@x",
            "ann@x\0",
            "ann@x\u{a0}",
            "ann\u{fff9}@x",
            "a\u{488}nn@x",
            "a\u{640}nn@x",
            "ann\u{1d173}@x",
            "ann\u{20dd}@x",
        ] {
            assert_eq!(account(name), "ann@x", "{name:?}");
        }
        assert_eq!([account("Straße"), account("STRASSE")], ["strasse", "strasse"]);
        assert_eq!(account("\u{17f}am"), "sam");
        assert_eq!(account("Ἀθήνα"), account("ΑΘΗΝΑ"));
        for other in ["bob@x", "an@x", "ann.x", "山田"] {
            assert_ne!(account(other), "ann@x");
        }
        assert_ne!(account("山田"), account("山本"));
    }

    proptest::proptest! {
        #[test]
        fn an_account_in_its_one_spelling_is_spelt_so(name in ".{0,20}") {
            let one = account(&name);
            proptest::prop_assert_eq!(account(&one), one);
        }
    }
}
