//! When an authority wants a certificate renewed (RFC 9773).
//!
//! Asked for by hand: the library takes an answer without `Retry-After` for none, which the RFC only recommends, and needs
//! an account where the authority needs none. Invariants: a question ends within [`PATIENCE`], since whoever wants to
//! renew waits for it; what makes no sense counts as no answer. Not here: what is done with a window (`due`).

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use instant_acme::{CertificateIdentifier, Problem, RenewalInfo};
use seaworthy_base::{Code, Fault, Timestamp};

use crate::client::{Client, retry_after};
use crate::directory::{Meta, host_of, printable};
use crate::due::WINDOW_AGAIN;
use crate::model::Window;
use crate::x509;

/// For the whole question: two small documents.
const PATIENCE: Duration = Duration::from_secs(10);
/// Not more often, whatever an authority says, and not more rarely (RFC 9773 § 4.3.2).
const AGAIN: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(86_400)];

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
    let window = info.map_err(|_| unsaid("what it answered names no window".to_owned()))?;
    let window = window.suggested_window;
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
    }))
}
