//! When an authority wants a certificate renewed (RFC 9773).

use std::time::Duration;

use instant_acme::{Account, CertificateIdentifier, Error};
use seaworthy_base::{Code, Fault, Timestamp};

use crate::client::Client;
use crate::model::{Job, Window};
use crate::order::host_of;
use crate::x509;

/// When an authority wants a certificate renewed; none when it does not say.
pub(crate) async fn ask(
    job: &Job,
    client: &Client,
    directory: &str,
    chain_pem: &str,
) -> Result<Option<Window>, Fault> {
    let failed = |why: String| {
        let what = format!("the authority {} was not asked when to renew", host_of(directory));
        Fault::new(Code::AuthorityUnreachable, what).because(why)
    };
    let Some(credentials) = job.accounts.get(directory) else { return Ok(None) };
    let credentials =
        serde_json::from_value(credentials.clone()).map_err(|error| failed(error.to_string()))?;
    let builder = Account::builder_with_http(Box::new(client.clone()));
    let account = builder.from_credentials(credentials).await;
    let account = account.map_err(|error| failed(error.to_string()))?;
    let leaf = x509::leaf(chain_pem).map_err(failed)?;
    let Ok(id) = CertificateIdentifier::try_from(&leaf) else { return Ok(None) };
    match account.renewal_info(&id).await {
        Err(Error::Unsupported(_)) => Ok(None),
        Err(error) => Err(failed(error.to_string())),
        Ok((info, wait)) => {
            let millis = |at: i128| Timestamp(u64::try_from(at / 1_000_000).unwrap_or(0));
            let window = info.suggested_window;
            // RFC 9773 § 4.3.2: neither every moment nor never.
            let wait = wait.clamp(Duration::from_secs(60), Duration::from_secs(86_400));
            Ok(Some(Window {
                start: millis(window.start.unix_timestamp_nanos()),
                end: millis(window.end.unix_timestamp_nanos()),
                ask_again: Timestamp(Timestamp::now().0 + wait.as_millis() as u64),
            }))
        }
    }
}
