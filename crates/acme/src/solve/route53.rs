//! Amazon Route 53: one API, signed with Signature Version 4 (the signing is `object_store`'s).
//!
//! Several values of one name are one record set there: what is written is the union of what is there and ours,
//! and ours alone is taken out again. Invariant: a change counts once the API says `INSYNC`.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::client::HttpRequestBody;
use tokio::time::Instant;

use crate::client::Client;

/// How long a change may take to reach Amazon's own servers.
const SYNC: Duration = Duration::from_secs(180);
/// How often that is asked.
const LOOK: Duration = Duration::from_secs(2);

/// Where the API is, and as whom it is called.
#[derive(Debug)]
pub(super) struct Api<'a> {
    pub client: &'a Client,
    pub credentials: &'a (String, String),
    pub region: &'a str,
    pub endpoint: &'a str,
}

impl Api<'_> {
    async fn call(&self, method: Method, path: &str, body: String) -> Result<String, String> {
        let (key, secret) = self.credentials;
        let credential =
            AwsCredential { key_id: key.clone(), secret_key: secret.clone(), token: None };
        let mut builder = Request::builder().method(method).uri(format!("{}{path}", self.endpoint));
        if !body.is_empty() {
            builder = builder.header("content-type", "text/xml");
        }
        let mut request =
            builder.body(HttpRequestBody::from(body.clone())).map_err(|error| error.to_string())?;
        AwsAuthorizer::new(&credential, "route53", self.region)
            .try_authorize(&mut request, None)
            .map_err(|error| error.to_string())?;
        let request = request.map(|_| Bytes::from(body));
        let answer = self.client.send(request).await.map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(answer.body()).into_owned();
        if answer.status().is_success() {
            return Ok(text);
        }
        let message = element(&text, "Message").unwrap_or_default();
        let code = element(&text, "Code").unwrap_or_default();
        Err(format!("Route 53 answered {}: {code} {message}", answer.status().as_u16()))
    }

    /// The hosted zone that a name belongs to: the one with the longest name.
    async fn zone(&self, name: &str) -> Result<String, String> {
        let mut rest = name.trim_end_matches('.');
        while let Some((_, above)) = rest.split_once('.') {
            rest = above;
            let path = format!("/2013-04-01/hostedzonesbyname?dnsname={rest}.&maxitems=1");
            let text = self.call(Method::GET, &path, String::new()).await?;
            let found = element(&text, "Name").is_some_and(|zone| zone == format!("{rest}."));
            if let (true, Some(id)) = (found, element(&text, "Id")) {
                return Ok(id.trim_start_matches("/hostedzone/").to_owned());
            }
        }
        Err(format!("there is no hosted zone for `{name}`"))
    }

    /// The values of a TXT record that are there.
    async fn values(&self, zone: &str, name: &str) -> Result<Vec<String>, String> {
        let path = format!("/2013-04-01/hostedzone/{zone}/rrset?maxitems=1&name={name}.&type=TXT");
        let text = self.call(Method::GET, &path, String::new()).await?;
        let Some(set) = element(&text, "ResourceRecordSet") else { return Ok(Vec::new()) };
        let same = element(set, "Name").is_some_and(|found| found == format!("{name}."));
        if !same || element(set, "Type") != Some("TXT") {
            return Ok(Vec::new());
        }
        let values = set.split("<Value>").skip(1);
        let values = values.filter_map(|rest| rest.split("</Value>").next());
        Ok(values.map(|value| value.replace("&quot;", "\"")).collect())
    }

    async fn wait(&self, change: &str) -> Result<(), String> {
        let until = Instant::now() + SYNC;
        let path = format!("/2013-04-01/change/{}", change.trim_start_matches("/change/"));
        loop {
            let text = self.call(Method::GET, &path, String::new()).await?;
            if element(&text, "Status") == Some("INSYNC") {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(format!("the change was not in sync after {} s", SYNC.as_secs()));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Writes or removes one value; others of the same name stay.
pub(super) async fn write(
    api: &Api<'_>,
    zone: Option<&str>,
    name: &str,
    value: &str,
    there: bool,
) -> Result<(), String> {
    let zone = match zone {
        Some(zone) => zone.to_owned(),
        None => api.zone(name).await?,
    };
    let ours = format!("\"{value}\"");
    let before = api.values(&zone, name).await?;
    let mut after: Vec<String> = before.iter().filter(|one| **one != ours).cloned().collect();
    if there {
        after.push(ours);
    }
    if before == after {
        return Ok(());
    }
    // Removing names the set as it is.
    let (verb, values) = if after.is_empty() { ("DELETE", &before) } else { ("UPSERT", &after) };
    let (open, close) = ("<ResourceRecord><Value>", "</Value></ResourceRecord>");
    let records = format!("{open}{}{close}", values.join(&format!("{close}{open}")));
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ChangeResourceRecordSetsRequest \
         xmlns=\"https://route53.amazonaws.com/doc/2013-04-01/\"><ChangeBatch><Changes><Change>\
         <Action>{verb}</Action><ResourceRecordSet><Name>{name}.</Name><Type>TXT</Type>\
         <TTL>60</TTL><ResourceRecords>{records}</ResourceRecords></ResourceRecordSet></Change>\
         </Changes></ChangeBatch></ChangeResourceRecordSetsRequest>"
    );
    let path = format!("/2013-04-01/hostedzone/{zone}/rrset");
    let text = api.call(Method::POST, &path, body).await?;
    match element(&text, "Id") {
        Some(change) if there => api.wait(change).await,
        _ => Ok(()),
    }
}

/// The text of the first element of that name. The API's answers are flat, and ours is the only reader.
fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(inner, _)| inner.trim())
}
