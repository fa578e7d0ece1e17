//! Dynamic updates (RFC 2136), signed with TSIG (RFC 8945), over TCP.
//!
//! Invariant: an answer to a signed update counts only when it is signed, too.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hickory_proto::op::ResponseCode;
use hickory_proto::op::update_message;
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::rdata::tsig::TsigAlgorithm;
use hickory_proto::rr::{Name, RData, Record, RecordSet, TSigner};
use seaworthy_base::Timestamp;

use crate::dns::{self, Resolver};

/// How long the record may be remembered by others: it is needed for a minute.
const TTL: u32 = 60;
/// Seconds that the clocks may differ.
const FUDGE: u16 = 300;

/// One change.
#[derive(Debug)]
pub(super) struct Update<'a> {
    pub zone: Option<&'a str>,
    /// Name and key (base64).
    pub key: Option<(&'a str, &'a str)>,
    pub algorithm: &'a str,
    pub name: &'a str,
    pub value: &'a str,
    /// Whether the record is to be there.
    pub there: bool,
}

/// Writes or removes one value; others of the same name stay.
pub(super) async fn write(
    resolver: &Resolver,
    server: &str,
    update: &Update<'_>,
) -> Result<(), String> {
    let (host, port) = match server.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().map_err(|_| format!("`{server}` has no port"))?),
        None => (server, 53),
    };
    let addresses = resolver.addresses(host).await.map_err(|error| format!("{host}: {error}"))?;
    let address = addresses.first().ok_or_else(|| format!("`{host}` has no address"))?;
    let server = (*address, port).into();
    let zone = match update.zone {
        Some(zone) => zone.to_owned(),
        None => dns::zone_by(update.name, |candidate| async move {
            dns::ask(server, &candidate, hickory_proto::rr::RecordType::SOA).await
        })
        .await
        .ok_or_else(|| format!("{server} has no zone for `{}`", update.name))?,
    };
    let absolute = |text: &str| {
        Name::from_ascii(format!("{}.", text.trim_end_matches('.'))).map_err(|e| e.to_string())
    };
    let (zone, name) = (absolute(&zone)?, absolute(update.name)?);
    if !zone.zone_of(&name) {
        return Err(format!("`{name}` is not in the zone `{zone}`"));
    }
    let record = Record::from_rdata(name, TTL, RData::TXT(TXT::new(vec![update.value.to_owned()])));
    let set = RecordSet::from(record);
    let mut message = if update.there {
        update_message::append(set, zone, false, false)
    } else {
        update_message::delete_by_rdata(set, zone, false)
    };
    let mut verifier = None;
    if let Some((key, secret)) = update.key {
        let secret =
            BASE64_STANDARD.decode(secret.trim()).map_err(|_| "the key is no base64".to_owned())?;
        let signer = TSigner::new(secret, algorithm(update.algorithm), absolute(key)?, FUDGE)
            .map_err(|error| error.to_string())?;
        verifier = message
            .finalize(&signer, Timestamp::now().0 / 1000)
            .map_err(|error| error.to_string())?;
    }
    let bytes = message.to_vec().map_err(|error| error.to_string())?;
    let (answer, raw) = dns::exchange(server, &bytes)
        .await
        .map_err(|error| format!("{server} did not answer: {error}"))?;
    match answer.response_code {
        ResponseCode::NoError => {}
        code => return Err(format!("{server} refused the update: {code}")),
    }
    if let Some(mut verifier) = verifier {
        verifier.verify(&raw).map_err(|error| format!("{server} answered unsigned: {error}"))?;
    }
    Ok(())
}

fn algorithm(name: &str) -> TsigAlgorithm {
    match name {
        "hmac-sha384" => TsigAlgorithm::HmacSha384,
        "hmac-sha512" => TsigAlgorithm::HmacSha512,
        _ => TsigAlgorithm::HmacSha256,
    }
}
