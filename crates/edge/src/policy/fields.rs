//! Fields of a request's body, as widely as the laxest application would read them.
//!
//! Who counts by a field must not be evaded by writing the body differently: a JSON field is found at any
//! depth and each time it stands there (batches, doubled keys), whatever `Content-Type` says; a form's in
//! `application/x-www-form-urlencoded` and in multipart bodies. Invariant: at most [`MAX_VALUES`] values
//! are looked at, and work is linear in the body.

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use percent_encoding::percent_decode;
use seaworthy_base::policy::Key;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// The longest body that is looked into; log-in forms are far smaller.
pub(crate) const MAX_BODY: usize = 64 << 10;
/// More accounts in one request are no log-in.
const MAX_VALUES: usize = 100;

/// A body that was read whole.
#[derive(Debug)]
pub(crate) struct Fields {
    body: Bytes,
    boundary: Option<String>,
}

/// Whether the body can be read as it stands.
pub(crate) fn is_readable(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_ENCODING)
        .is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

impl Fields {
    pub(crate) fn new(headers: &HeaderMap, body: Bytes) -> Self {
        let kind =
            headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let boundary = kind.split(';').skip(1).find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            let value = value.trim().trim_matches('"');
            (name.trim().eq_ignore_ascii_case("boundary") && !value.is_empty())
                .then(|| value.to_owned())
        });
        Self { body, boundary }
    }

    /// Every value of a field.
    pub(crate) fn values(&self, key: &Key) -> Vec<String> {
        match key {
            Key::Json(path) => self.json(path),
            Key::Form(name) if self.boundary.is_some() => self.multipart(name),
            Key::Form(name) => self.form(name),
            _ => Vec::new(),
        }
    }

    fn json(&self, path: &str) -> Vec<String> {
        let text = self.body.trim_ascii_start();
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let path: Vec<&str> = path.split('.').collect();
        let mut found = Vec::new();
        let mut deserializer = serde_json::Deserializer::from_slice(text);
        // What was found before an error counts: an application may read that far too.
        Walk { path: &path, at: &[], found: &mut found }.deserialize(&mut deserializer).ok();
        found
    }

    fn form(&self, name: &str) -> Vec<String> {
        let decode = |part: &[u8]| {
            let spaced: Vec<u8> = part.iter().map(|b| if *b == b'+' { b' ' } else { *b }).collect();
            percent_decode(&spaced).decode_utf8_lossy().into_owned()
        };
        let pairs = self.body.split(|byte| *byte == b'&' || *byte == b';');
        let named = pairs.filter_map(|pair| {
            let at = pair.iter().position(|byte| *byte == b'=')?;
            (decode(&pair[..at]).trim() == name).then(|| decode(&pair[at + 1..]))
        });
        named.take(MAX_VALUES).collect()
    }

    fn multipart(&self, name: &str) -> Vec<String> {
        let Some(boundary) = &self.boundary else { return Vec::new() };
        let text = String::from_utf8_lossy(&self.body);
        let between = format!("--{boundary}");
        let parts = text.split(between.as_str()).filter_map(|part| {
            let (head, value) = part.split_once("\r\n\r\n").or_else(|| part.split_once("\n\n"))?;
            let fits = head.lines().any(|line| {
                let lower = line.to_ascii_lowercase();
                lower.starts_with("content-disposition:") && disposition_name(line) == Some(name)
            });
            fits.then(|| value.trim_end_matches(['\r', '\n']).to_owned())
        });
        parts.take(MAX_VALUES).collect()
    }
}

/// `name` of a `Content-Disposition`.
fn disposition_name(line: &str) -> Option<&str> {
    line.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("name").then(|| value.trim().trim_matches('"'))
    })
}

/// Walks a JSON document and keeps what stands under a path, wherever the path begins.
struct Walk<'a, 'k> {
    path: &'a [&'a str],
    /// The innermost keys on the way here, as many as the path has at most.
    at: &'a [&'k str],
    found: &'a mut Vec<String>,
}

impl Walk<'_, '_> {
    fn fits(&self) -> bool {
        self.at.len() >= self.path.len()
            && self.at[self.at.len() - self.path.len()..] == *self.path
            && self.found.len() < MAX_VALUES
    }

    fn keep(self, value: impl ToString) {
        if self.fits() {
            self.found.push(value.to_string());
        }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.keep(value);
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.keep(value);
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.keep(value);
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Self { path, at, found } = self;
        while items.next_element_seed(Walk { path, at, found: &mut *found })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { path, at, found } = self;
        while let Some(key) = map.next_key::<String>()? {
            let from = (at.len() + 1).saturating_sub(path.len()).min(at.len());
            let inner: Vec<&str> = at[from..].iter().copied().chain([key.as_str()]).collect();
            map.next_value_seed(Walk { path, at: &inner, found: &mut *found })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn values(kind: &str, body: &str, key: Key) -> Vec<String> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_str(kind).unwrap());
        Fields::new(&headers, Bytes::copy_from_slice(body.as_bytes())).values(&key)
    }

    #[test]
    fn a_json_field_is_found_at_any_depth_and_each_time() {
        let email = || Key::Json("email".to_owned());
        for (body, expected) in [
            (r#"{"email":"a","password":"x"}"#, vec!["a"]),
            (r#"{"json":{"email":"a"}}"#, vec!["a"]),
            (r#"[{"email":"a"},{"email":"b"}]"#, vec!["a", "b"]),
            (r#"{"email":"a","email":"b"}"#, vec!["a", "b"]),
            (r#"{"em\u0061il":"a"}"#, vec!["a"]),
            (r#"{"email":5}"#, vec!["5"]),
            (r#"{"email":["a","b"]}"#, vec!["a", "b"]),
            ("\u{feff}{\"email\":\"a\"", vec!["a"]),
            (r#"{"email":null}"#, vec![]),
            ("email=a", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(values("text/plain", body, email()), expected, "{body}");
        }
        let nested = Key::Json("user.email".to_owned());
        let body = r#"{"email":"no","user":{"email":"yes"},"x":{"user":{"email":"too"}}}"#;
        assert_eq!(values("application/json", body, nested), ["yes", "too"]);
    }

    #[test]
    fn a_form_field_is_found_however_the_form_is_sent() {
        let email = || Key::Form("email".to_owned());
        let urlencoded = "application/x-www-form-urlencoded";
        assert_eq!(values(urlencoded, "x=1&%65mail=a%40b+c&email=d", email()), ["a@b c", "d"]);
        let body = "--B\r\nContent-Disposition: form-data; name=\"email\"\r\n\r\na@b\r\n--B\r\nContent-Disposition: form-data; name=\"x\"\r\n\r\ny\r\n--B--\r\n";
        assert_eq!(values("multipart/form-data; boundary=B", body, email()), ["a@b"]);
    }

    proptest::proptest! {
        #[test]
        fn no_body_makes_the_readers_panic(kind in "[ -~]{0,40}", body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_str(&kind).unwrap());
            let fields = Fields::new(&headers, body.into());
            for key in [Key::Json("a".into()), Key::Form("a".into())] {
                proptest::prop_assert!(fields.values(&key).len() <= MAX_VALUES);
            }
        }
    }
}
