//! Fields of a request, as widely as the laxest application would read them.
//!
//! Who counts by a field must not be evaded by writing the request differently. A field is therefore found
//! wherever an application may look for it: in a JSON body at any depth and each time that it stands there
//! (batches, doubled keys, operators within it), in a form of either kind, in the query; `json:F` and `form:F`
//! differ in nothing but what the manifest's reader expects, since most frameworks take both. What two
//! programs could read in two ways (another charset, JSON that only some parsers take, a part of a form with
//! headers that only some obey) is refused, as ambiguous paths are.
//! Invariants: what is not understood does not get past a count; at most [`MAX_VALUES`] values of a field
//! stand in one request; work is linear in the body. Rooms: [`json`], [`form`] and [`kind`] (`Content-Type`).

mod form;
mod json;
mod kind;
#[cfg(test)]
mod tests;

use http::header::CONTENT_ENCODING;
use http::{HeaderMap, StatusCode};
use seaworthy_base::policy::Key;

use self::kind::Kind;
use super::keys::account;

/// The longest body that is looked into; log-in forms are far smaller.
pub(crate) const MAX_BODY: usize = 64 << 10;
/// More accounts in one request are no log-in.
const MAX_VALUES: usize = 100;

/// Why a body cannot be looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unreadable {
    pub(crate) status: StatusCode,
    /// For the log.
    pub(crate) cause: &'static str,
}

const fn other_type(cause: &'static str) -> Unreadable {
    Unreadable { status: StatusCode::UNSUPPORTED_MEDIA_TYPE, cause }
}

const fn malformed(cause: &'static str) -> Unreadable {
    Unreadable { status: StatusCode::BAD_REQUEST, cause }
}

const UNREAD: Unreadable = other_type(
    "the body is to be looked into, and it is neither JSON nor a form: its fields cannot be read",
);

const TOO_MANY: Unreadable =
    malformed("more values of a field that is counted by than any log-in has");

/// The values of the fields that are counted by.
#[derive(Debug, Default)]
pub(crate) struct Fields(Vec<(Key, Vec<String>)>);

/// Whether the body can be read as it stands.
pub(crate) fn is_readable(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(CONTENT_ENCODING).iter();
    codings.all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

impl Fields {
    /// Reads a request whose body is there whole.
    ///
    /// # Errors
    /// What an application may read otherwise than we would.
    pub(crate) fn read(
        headers: &HeaderMap,
        query: Option<&str>,
        body: &[u8],
        keys: &[Key],
    ) -> Result<Self, Unreadable> {
        let kind = Kind::of(headers)?;
        let mut pairs = form::pairs(query.unwrap_or_default().as_bytes(), kind.charset)?;
        let json = json::of(&kind, body);
        if let Some(boundary) = kind.boundary()? {
            pairs.extend(form::parts(body, boundary, kind.charset)?);
        } else if kind.may_be_pairs() {
            pairs.extend(form::pairs(body, kind.charset)?);
        } else if !kind.is_json() && !body.is_empty() {
            return Err(UNREAD);
        }
        let mut fields = Vec::with_capacity(keys.len());
        for key in keys {
            let (Key::Json(name) | Key::Form(name)) = key else { continue };
            let field = Name::of(name);
            let mut values = Vec::new();
            if let Some(text) = json {
                json::values(text, &field.path, &mut values)?;
            }
            let named = pairs.iter().filter(|(name, _)| name.is_within(&field));
            values.extend(named.map(|(_, value)| value.clone()).take(MAX_VALUES + 1));
            if values.len() > MAX_VALUES {
                return Err(TOO_MANY);
            }
            fields.push((key.clone(), values));
        }
        Ok(Self(fields))
    }

    /// Every value of a field.
    pub(crate) fn values(&self, key: &Key) -> &[String] {
        self.0.iter().find(|(one, _)| one == key).map_or(&[], |(_, values)| values)
    }
}

/// The names that lead to a field: `user.email` of a manifest, `user[email]`, `emails[0]`, `Email` of a form.
fn path(name: &str) -> Vec<String> {
    let whole = || vec![account(name)];
    // Some applications take what stands before a NUL.
    let name = name.split('\0').next().unwrap_or_default();
    let steps = name.split(['.', '[', ']']).map(account);
    let steps: Vec<String> = steps
        .filter(|step| !step.is_empty() && !step.bytes().all(|byte| byte.is_ascii_digit()))
        .collect();
    if steps.is_empty() { whole() } else { steps }
}

/// The name of a field, as the different programs read it.
#[derive(Debug)]
struct Name {
    path: Vec<String>,
    /// As PHP spells it: one word.
    word: String,
}

impl Name {
    fn of(name: &str) -> Self {
        Self { path: path(name), word: word(name) }
    }

    /// Whether it leads through another: to it, or to what is within.
    fn is_within(&self, field: &Self) -> bool {
        self.word == field.word
            || self.path.windows(field.path.len()).any(|part| part == field.path)
    }
}

/// A name with `_` for what PHP does not have in names: spaces, full stops, a bracket that does not end.
fn word(name: &str) -> String {
    let name = name.trim_start();
    let closed = name.find('[').filter(|at| name.get(*at..).is_some_and(|rest| rest.contains(']')));
    account(&name.get(..closed.unwrap_or(name.len())).unwrap_or(name).replace([' ', '.', '['], "_"))
}
