//! What an authority says of itself, at the URL that everything begins with (RFC 8555 § 7.1.1).
//!
//! Asked for besides the library, which keeps most of it for itself: whose CAA records count, whether accounts must be
//! bound, what it offers, where it says when to renew. Not here: what follows from any of it.

use bytes::Bytes;
use http::Request;
use seaworthy_base::{Code, Fault};
use serde_json::Value;

use crate::client::Client;

/// An authority's own words.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    /// The names by which CAA records call it.
    pub(crate) identities: Vec<String>,
    /// It takes accounts only that are bound to one of its own.
    pub(crate) bound: bool,
    /// Profiles that orders may name (draft-ietf-acme-profiles-00 § 3), sorted; most authorities have none.
    pub(crate) profiles: Vec<String>,
    /// Where it says when a certificate should be renewed (RFC 9773 § 4.1).
    pub(crate) renewal_info: Option<String>,
}

impl Meta {
    /// Asks; whoever does not answer with a directory is none.
    pub(crate) async fn ask(client: &Client, url: &str) -> Result<Self, Fault> {
        let unreachable = |why: String| {
            let what = format!("the authority `{url}` cannot be reached");
            Fault::new(Code::AuthorityUnreachable, what)
                .because(why)
                .next(format!("curl -sS {url}"))
        };
        let request = Request::get(url).body(Bytes::new());
        let request = request.map_err(|error| unreachable(error.to_string()))?;
        let answer = client.send(request).await;
        let answer = answer.map_err(|error| unreachable(error.to_string()))?;
        if !answer.status().is_success() {
            return Err(unreachable(format!("it answered with {}", answer.status().as_u16())));
        }
        let document = serde_json::from_slice(answer.body());
        let document = document
            .map_err(|_| unreachable("what it answered is no ACME directory".to_owned()))?;
        Ok(Self::read(&document))
    }

    fn read(document: &Value) -> Self {
        let meta = &document["meta"];
        let named = meta["caaIdentities"].as_array().into_iter().flatten();
        let mut profiles: Vec<String> = meta["profiles"]
            .as_object()
            .map(|offered| offered.keys().cloned().collect())
            .unwrap_or_default();
        profiles.sort();
        Self {
            identities: named.filter_map(|name| name.as_str().map(str::to_owned)).collect(),
            bound: meta["externalAccountRequired"] == true,
            profiles,
            renewal_info: document["renewalInfo"].as_str().map(str::to_owned),
        }
    }
}

/// An authority as people call it.
pub(crate) fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

/// What an authority says, in one line and without control characters.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(600).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_authority_does_not_say_is_nothing_and_nonsense_is_the_same() {
        let said = serde_json::json!({
            "renewalInfo": "https://ca.example/ari",
            "meta": {
                "caaIdentities": ["ca.example", 7],
                "externalAccountRequired": true,
                "profiles": { "short": "six days", "classic": "https://ca.example/classic" },
            },
        });
        let read = Meta::read(&said);
        assert_eq!((read.identities, read.bound), (vec!["ca.example".to_owned()], true));
        assert_eq!(read.profiles, ["classic", "short"]);
        assert_eq!(read.renewal_info.as_deref(), Some("https://ca.example/ari"));
        for nonsense in
            ["{}", "[]", r#"{"meta":7,"renewalInfo":{}}"#, r#"{"meta":{"profiles":[1]}}"#]
        {
            assert_eq!(Meta::read(&serde_json::from_str(nonsense).unwrap()), Meta::default());
        }
    }
}
