//! When an authority wants a certificate renewed (RFC 9773).
//!
//! Asked for by hand: the library takes an answer without `Retry-After` for none, which the RFC only recommends, and needs
//! an account where the authority needs none. Invariants: a question ends within [`PATIENCE`], since whoever wants to
//! renew waits for it; what makes no sense counts as no answer; a page that explains a window is shown to people only where
//! it is a plain link ([`is_link`]), and costs no window where it is none. Not here: what is done with a window (`due`).

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Uri};
use instant_acme::{CertificateIdentifier, Problem, SuggestedWindow};
use seaworthy_base::{Code, Fault, Timestamp};
use serde::Deserialize;

use crate::client::{Client, retry_after};
use crate::directory::{Meta, host_of, printable};
use crate::due::WINDOW_AGAIN;
use crate::model::Window;
use crate::x509;

/// For the whole question: two small documents.
const PATIENCE: Duration = Duration::from_secs(10);
/// Not more often, whatever an authority says, and not more rarely (RFC 9773 § 4.3.2).
const AGAIN: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(86_400)];
/// Longer links are no use to people, and take the place of everything else in a log.
const LONGEST_LINK: usize = 512;

/// What an authority answers (RFC 9773 § 4.2).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RenewalInfo {
    suggested_window: SuggestedWindow,
    /// Of any kind: one that is no link must not cost the window.
    #[serde(default, rename = "explanationURL")]
    explanation: serde_json::Value,
}

impl RenewalInfo {
    fn explanation(&self) -> Option<String> {
        self.explanation.as_str().filter(|text| is_link(text)).map(str::to_owned)
    }
}

/// Whether a text may be shown to people as the address of a page: `http` or `https`, of a host without a login before it, in
/// printable ASCII, at most 512 bytes. What a terminal would act upon is none.
pub fn is_link(text: &str) -> bool {
    let fits = text.len() <= LONGEST_LINK && text.bytes().all(|byte| byte.is_ascii_graphic());
    let Some(url) = text.parse::<Uri>().ok().filter(|_| fits) else { return false };
    let is_web = matches!(url.scheme_str(), Some("http" | "https"));
    is_web && url.authority().is_some_and(|to| !to.host().is_empty() && !to.as_str().contains('@'))
}

/// When an authority wants a certificate renewed; none when it does not say.
pub(crate) async fn ask(
    client: &Client,
    directory: &str,
    chain_pem: &str,
) -> Result<Option<Window>, Fault> {
    let leaf = x509::leaf(chain_pem).map_err(|why| unsaid(directory, why))?;
    // One that names no key of its issuer's cannot be asked about.
    let Ok(id) = CertificateIdentifier::try_from(&leaf) else { return Ok(None) };
    let asked = tokio::time::timeout(PATIENCE, asked(client, directory, &id)).await;
    asked.unwrap_or_else(|_| {
        Err(unsaid(directory, format!("no answer within {} s", PATIENCE.as_secs())))
    })
}

fn unsaid(directory: &str, why: String) -> Fault {
    let what = format!("the authority {} did not say when to renew", host_of(directory));
    Fault::new(Code::AuthorityUnreachable, what).because(why)
}

async fn asked(
    client: &Client,
    directory: &str,
    id: &CertificateIdentifier<'_>,
) -> Result<Option<Window>, Fault> {
    let unsaid = |why: String| unsaid(directory, why);
    let Some(url) = Meta::ask(client, directory).await?.renewal_info else { return Ok(None) };
    let request = Request::get(format!("{}/{id}", url.trim_end_matches('/'))).body(Bytes::new());
    let request = request.map_err(|error| unsaid(error.to_string()))?;
    let answer = client.send(request).await.map_err(|error| unsaid(error.to_string()))?;
    if !answer.status().is_success() {
        let problem = serde_json::from_slice::<Problem>(answer.body()).ok();
        let detail = problem.and_then(|problem| problem.detail).unwrap_or_default();
        let status = answer.status().as_u16();
        return Err(unsaid(printable(format!("it answered with {status} {detail}").trim())));
    }
    let info = serde_json::from_slice::<RenewalInfo>(answer.body());
    let info = info.map_err(|_| unsaid("what it answered names no window".to_owned()))?;
    let window = &info.suggested_window;
    if window.start >= window.end {
        return Err(unsaid("its window ends before it begins".to_owned()));
    }
    let now = Timestamp::now();
    let wait = retry_after(&answer).map_or(WINDOW_AGAIN, |until| until.since(now));
    let wait = wait.clamp(AGAIN[0], AGAIN[1]);
    let millis = |at: i128| Timestamp(u64::try_from(at / 1_000_000).unwrap_or(0));
    Ok(Some(Window {
        start: millis(window.start.unix_timestamp_nanos()),
        end: millis(window.end.unix_timestamp_nanos()),
        ask_again: Timestamp(now.0 + wait.as_millis() as u64),
        explanation: info.explanation(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_explains_is_a_plain_link_or_none() {
        let long = format!("https://ca.example/{}", "x".repeat(LONGEST_LINK));
        for text in ["https://ca.example/why?id=1", "http://[::1]:80/", &long[..LONGEST_LINK]] {
            assert!(is_link(text), "{text}");
        }
        let refused = [
            "",
            "why",
            "/why",
            "ca.example/why",
            "ftp://ca.example/",
            "javascript:alert(1)",
            "data:text/html,x",
            "https://",
            "https:///why",
            "https://ca.example@evil.example/",
            "https://ca.example/\u{1b}[2J",
            "https://ca.example/\n",
            "https://ca.example/a b",
            "https://ca.example/\u{202e}",
            "https://ca\u{e9}.example/",
            "https://ca.example/\u{7f}",
            &long[..=LONGEST_LINK],
        ];
        for text in refused {
            assert!(!is_link(text), "{text:?}");
        }
    }

    #[test]
    fn an_explanation_that_is_none_costs_no_window() {
        let read = |explanation: &str| {
            let window = r#"{"start":"2026-01-01T00:00:00Z","end":"2026-01-02T00:00:00Z"}"#;
            let text = format!(r#"{{"suggestedWindow":{window}{explanation}}}"#);
            serde_json::from_str::<RenewalInfo>(&text).unwrap().explanation()
        };
        let given = r#","explanationURL":"https://ca.example/why""#;
        assert_eq!(read(given).as_deref(), Some("https://ca.example/why"));
        for none in
            ["", r#","explanationURL":null"#, r#","explanationURL":7"#, r#","explanationURL":"x""#]
        {
            assert_eq!(read(none), None, "{none}");
        }
    }
}
