//! A look before the authority looks: does the name lead here, and may this authority issue for it?
//!
//! Why: a failed validation costs one of a few tries an hour, and the authority's words rarely say what to
//! change. Invariants: what surely fails is refused with what was seen; what only cannot be seen from here (a
//! router that does not lead back in) is a warning. Not here: dns-01, which asks nothing of this server.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Collected, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rand::distr::{Alphanumeric, SampleString};
use seaworthy_base::challenge::Shown;
use seaworthy_base::{Code, Fault};
use tokio::net::TcpStream;

use crate::client::Client;
use crate::dns::DnsError;
use crate::model::{Challenge, Event, Job};
use crate::worker::Voice;

/// To connect and to be answered.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was found at one address.
enum Found {
    /// It is us.
    Us,
    /// It surely is not.
    Wrong(String),
    /// It cannot be told from here.
    Unknown(String),
}

/// Looks at every name; the first that surely fails ends it.
pub(crate) async fn look(job: &Job, client: &Client, voice: &Voice) -> Result<(), Fault> {
    if job.challenge == Challenge::Dns01 {
        return Ok(());
    }
    voice.step("looking whether the names lead to this server");
    let token = Alphanumeric.sample_string(&mut rand::rng(), 24);
    let answer = Alphanumeric.sample_string(&mut rand::rng(), 24);
    let shown = Shown::Http { token: token.clone(), answer: answer.clone() };
    voice.ask(&Event::Show { challenges: vec![shown] }).await?;
    for host in &job.hosts {
        let addresses = addresses(client, host).await?;
        for address in addresses {
            let found = match job.challenge {
                Challenge::Http01 => over_http(job, client, host, address, (&token, &answer)).await,
                _ => over_tls(job, client, address).await,
            };
            match found {
                Found::Us => {}
                Found::Wrong(seen) => return Err(wrong(job, host, address, &seen)),
                Found::Unknown(seen) => voice.say(&Event::Warning {
                    fault: Fault::new(
                        Code::NameElsewhere,
                        format!("whether `{host}` leads here could not be seen from here"),
                    )
                    .because(seen),
                }),
            }
        }
    }
    Ok(())
}

/// Whether CAA records let one of these authorities issue. An authority that names no identity is not judged.
pub(crate) async fn may_issue(
    client: &Client,
    hosts: &[String],
    identities: &[String],
) -> Result<(), Fault> {
    if identities.is_empty() {
        return Ok(());
    }
    for host in hosts {
        let records = client.resolver.caa(host).await;
        let wild = host.starts_with("*.") && records.iter().any(|(tag, _)| tag == "issuewild");
        let wanted = if wild { "issuewild" } else { "issue" };
        let values: Vec<&str> = records
            .iter()
            .filter(|(tag, _)| tag == wanted)
            .map(|(_, value)| value.split(';').next().unwrap_or_default().trim())
            .collect();
        let named = |value: &&str| identities.iter().any(|identity| identity == value);
        if !values.is_empty() && !values.iter().any(named) {
            return Err(Fault::new(
                Code::AuthorityRefused,
                format!("a CAA record of `{host}` does not let this authority issue"),
            )
            .because(format!("it names `{}`", values.join("`, `")))
            .next(format!("add to the zone: CAA 0 {wanted} \"{}\"", identities[0])));
        }
    }
    Ok(())
}

async fn addresses(client: &Client, host: &str) -> Result<Vec<IpAddr>, Fault> {
    let fault = |why: &str| {
        Fault::new(Code::NameElsewhere, format!("the name `{host}` leads nowhere"))
            .because(why.to_owned())
            .next(format!("make an A record for `{host}` that names this server's public address"))
            .next(format!("dig {host}"))
    };
    match client.resolver.public_addresses(host).await {
        Ok(addresses) if addresses.is_empty() => Err(fault("it has no address (A or AAAA)")),
        Ok(addresses) => Ok(addresses),
        Err(DnsError::NoSuchName) => Err(fault("the name does not exist in the DNS")),
        Err(error) => Err(fault(&error.to_string())),
    }
}

fn wrong(job: &Job, host: &str, address: IpAddr, seen: &str) -> Fault {
    let port = if job.challenge == Challenge::Http01 { 80 } else { 443 };
    Fault::new(Code::NameElsewhere, format!("`{host}` does not lead to this server"))
        .because(format!(
            "its address {address} is somebody else, or does not let visitors in: {seen}"
        ))
        .next(format!(
            "point `{host}` to this server's public address, or open port {port} of its firewall"
        ))
        .next("seaworthy cert renew --dry-run")
}

/// Connects as an authority would. What visitors of this machine's own address find is at our own ports, whatever
/// leads there from the usual one.
async fn connect(
    client: &Client,
    address: IpAddr,
    ports: &[u16],
    usual: u16,
) -> Result<TcpStream, Found> {
    let port = if client.resolver.is_own(address) && !ports.contains(&usual) {
        ports.first().copied().unwrap_or(usual)
    } else {
        usual
    };
    let at = SocketAddr::new(address, port);
    match tokio::time::timeout(PATIENCE, TcpStream::connect(at)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            Err(Found::Wrong(format!("nobody listens on port {port}")))
        }
        Ok(Err(error)) => Err(Found::Unknown(format!("{at}: {error}"))),
        Err(_) => Err(Found::Unknown(format!("{at} did not answer within 5 s"))),
    }
}

async fn over_tls(job: &Job, client: &Client, address: IpAddr) -> Found {
    match connect(client, address, &job.ways.https, 443).await {
        Ok(_) => Found::Us,
        Err(found) => found,
    }
}

async fn over_http(
    job: &Job,
    client: &Client,
    host: &str,
    address: IpAddr,
    (token, answer): (&str, &str),
) -> Found {
    let stream = match connect(client, address, &job.ways.http, 80).await {
        Ok(stream) => stream,
        Err(found) => return found,
    };
    let asked = tokio::time::timeout(PATIENCE, fetch(stream, host, token)).await;
    match asked {
        Ok(Ok((200, body, _))) if body == answer.as_bytes() => Found::Us,
        Ok(Ok((status, _, server))) => {
            let by = server.map_or_else(String::new, |server| format!(" by `{server}`"));
            Found::Wrong(format!("a request there was answered with {status}{by}"))
        }
        Ok(Err(error)) => Found::Wrong(format!("no HTTP is spoken there: {error}")),
        Err(_) => Found::Unknown("a request was not answered within 5 s".to_owned()),
    }
}

type Fetched = (u16, Bytes, Option<String>);

async fn fetch(
    stream: TcpStream,
    host: &str,
    token: &str,
) -> Result<Fetched, Arc<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| Arc::new(error) as Arc<_>)?;
    tokio::spawn(async move { drop(connection.await) });
    let request = Request::builder()
        .uri(format!("/.well-known/acme-challenge/{token}"))
        .header("host", host)
        .header("user-agent", concat!("seaworthy/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(Bytes::new()))
        .map_err(|error| Arc::new(error) as Arc<_>)?;
    let answer = sender.send_request(request).await.map_err(|error| Arc::new(error) as Arc<_>)?;
    let (parts, body) = answer.into_parts();
    let body = Limited::new(body, 64 << 10).collect().await.map(Collected::to_bytes);
    let server = parts.headers.get("server").and_then(|value| value.to_str().ok());
    let server = server.map(|text| text.chars().filter(|c| !c.is_control()).take(60).collect());
    Ok((parts.status.as_u16(), body.unwrap_or_default(), server))
}
