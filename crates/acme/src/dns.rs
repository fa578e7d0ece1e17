//! Questions to name servers, over TCP.
//!
//! Why TCP only: the worker may open no UDP socket, and every server must answer over TCP (RFC 7766). Why not
//! the system's resolver: it reads files and uses UDP; and whether a fresh record is there is a question for
//! the zone's own servers, past every cache. Invariant: what the system knows (`resolv.conf`, `hosts`) is read
//! once, before the worker is shut in.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One question to one server.
const PATIENCE: Duration = Duration::from_secs(5);
/// The port of name servers.
const PORT: u16 = 53;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DnsError {
    /// The name does not exist.
    NoSuchName,
    /// Nobody answered, or not sensibly.
    Silent(String),
}

impl std::fmt::Display for DnsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoSuchName => f.write_str("the name does not exist"),
            Self::Silent(why) => f.write_str(why),
        }
    }
}

/// Whom to ask.
#[derive(Debug)]
pub(crate) struct Resolver {
    servers: Vec<SocketAddr>,
    /// Whether the servers were named by the manifest: then they are asked about fresh records, too.
    given: bool,
    hosts: BTreeMap<String, Vec<IpAddr>>,
    /// Addresses of this machine.
    own: Vec<IpAddr>,
}

impl Resolver {
    /// Reads what the system knows; `given` stands in for its servers.
    pub(crate) fn system(given: &[SocketAddr]) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let servers =
            if given.is_empty() { name_servers(&read("/etc/resolv.conf")) } else { given.to_vec() };
        let own = own_addresses(&read("/proc/net/fib_trie"), &read("/proc/net/if_inet6"));
        Self { servers, given: !given.is_empty(), hosts: hosts(&read("/etc/hosts")), own }
    }

    /// Whether an address is one of this machine's.
    pub(crate) fn is_own(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.own.contains(&address)
    }

    /// The records of a type, from the first server that answers.
    async fn records(&self, name: &str, kind: RecordType) -> Result<Vec<RData>, DnsError> {
        let mut last = DnsError::Silent("no name server is known".to_owned());
        for server in &self.servers {
            match ask(*server, name, kind).await {
                Ok(records) => return Ok(records),
                Err(DnsError::NoSuchName) => return Err(DnsError::NoSuchName),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The addresses of a host; those of this machine's own list count first.
    pub(crate) async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, DnsError> {
        if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse() {
            return Ok(vec![address]);
        }
        if let Some(known) = self.hosts.get(host) {
            return Ok(known.clone());
        }
        self.public_addresses(host).await
    }

    /// The addresses that the rest of the world sees.
    pub(crate) async fn public_addresses(&self, host: &str) -> Result<Vec<IpAddr>, DnsError> {
        let four = self.records(host, RecordType::A).await?;
        // A server that fails on AAAA only is common, and no reason to fail.
        let six = self.records(host, RecordType::AAAA).await.unwrap_or_default();
        Ok(four.iter().chain(&six).filter_map(RData::ip_addr).collect())
    }

    /// Where a TXT record can be asked for that was just written: the zone's own servers.
    pub(crate) async fn witnesses(&self, name: &str) -> Vec<SocketAddr> {
        if self.given {
            return self.servers.clone();
        }
        let Some(zone) = self.zone(name).await else { return self.servers.clone() };
        let mut all = Vec::new();
        for record in self.records(&zone, RecordType::NS).await.unwrap_or_default() {
            let RData::NS(server) = record else { continue };
            let found = self.public_addresses(&server.0.to_ascii()).await.unwrap_or_default();
            all.extend(found.into_iter().map(|address| SocketAddr::new(address, PORT)));
        }
        if all.is_empty() { self.servers.clone() } else { all }
    }

    /// The zone that a name belongs to: the nearest one above it with a SOA record.
    pub(crate) async fn zone(&self, name: &str) -> Option<String> {
        zone_by(name, |candidate| async move { self.records(&candidate, RecordType::SOA).await })
            .await
    }

    /// The nearest set of CAA records above a name: who may issue (`issue`, `issuewild`).
    pub(crate) async fn caa(&self, name: &str) -> Vec<(String, String)> {
        for candidate in above(name) {
            let Ok(records) = self.records(&candidate, RecordType::CAA).await else { continue };
            let said = records.into_iter().filter_map(|record| match record {
                RData::CAA(caa) => {
                    Some((caa.tag.clone(), String::from_utf8_lossy(&caa.value).into_owned()))
                }
                _ => None,
            });
            let said: Vec<_> = said.collect();
            if !said.is_empty() {
                return said;
            }
        }
        Vec::new()
    }
}

/// A name, then what is above it, without the top level.
fn above(name: &str) -> impl Iterator<Item = String> {
    let name = name.trim_end_matches('.').trim_start_matches("*.").to_owned();
    std::iter::successors(Some(name), |name| {
        name.split_once('.').map(|(_, rest)| rest.to_owned()).filter(|rest| rest.contains('.'))
    })
}

/// The nearest name with a SOA record, as `ask` tells.
pub(crate) async fn zone_by<F>(name: &str, ask: impl Fn(String) -> F) -> Option<String>
where
    F: Future<Output = Result<Vec<RData>, DnsError>>,
{
    for candidate in above(name) {
        let records = ask(candidate.clone()).await.unwrap_or_default();
        if records.iter().any(|record| matches!(record, RData::SOA(_))) {
            return Some(candidate);
        }
    }
    None
}

/// The values of a TXT record at one server.
pub(crate) async fn txt(server: SocketAddr, name: &str) -> Result<Vec<String>, DnsError> {
    let records = match ask(server, name, RecordType::TXT).await {
        Err(DnsError::NoSuchName) => return Ok(Vec::new()),
        other => other?,
    };
    let each = records.into_iter().filter_map(|record| match record {
        RData::TXT(txt) => Some(
            txt.txt_data.iter().map(|part| String::from_utf8_lossy(part).into_owned()).collect(),
        ),
        _ => None,
    });
    Ok(each.collect())
}

/// Asks one server.
pub(crate) async fn ask(
    server: SocketAddr,
    name: &str,
    kind: RecordType,
) -> Result<Vec<RData>, DnsError> {
    let name = Name::from_ascii(format!("{}.", name.trim_end_matches('.')))
        .map_err(|error| DnsError::Silent(error.to_string()))?;
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, kind));
    let bytes = message.to_vec().map_err(|error| DnsError::Silent(error.to_string()))?;
    let (answer, _) = exchange(server, &bytes)
        .await
        .map_err(|error| DnsError::Silent(format!("{server} did not answer: {error}")))?;
    if answer.id != message.id {
        return Err(DnsError::Silent(format!("{server} answered something else")));
    }
    match answer.response_code {
        ResponseCode::NoError => Ok(answer.answers.into_iter().map(|record| record.data).collect()),
        ResponseCode::NXDomain => Err(DnsError::NoSuchName),
        code => Err(DnsError::Silent(format!("{server} answered: {code}"))),
    }
}

/// One message there, one back, as it was read and as it came.
pub(crate) async fn exchange(server: SocketAddr, bytes: &[u8]) -> io::Result<(Message, Vec<u8>)> {
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    let both = async {
        let mut stream = TcpStream::connect(server).await?;
        stream.write_all(&[&length.to_be_bytes()[..], bytes].concat()).await?;
        let mut answer = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut answer).await?;
        let message = Message::from_vec(&answer).map_err(io::Error::other)?;
        Ok((message, answer))
    };
    tokio::time::timeout(PATIENCE, both).await.map_err(io::Error::from)?
}

/// The servers of a `resolv.conf`; the local one when it names none, as the C library does it.
fn name_servers(text: &str) -> Vec<SocketAddr> {
    let words = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let found = words.filter_map(|rest| {
        let address = rest.split_whitespace().next()?.split('%').next()?;
        Some(SocketAddr::new(address.parse().ok()?, PORT))
    });
    let servers: Vec<SocketAddr> = found.collect();
    if servers.is_empty() {
        vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT)]
    } else {
        servers
    }
}

/// The addresses that the kernel delivers here: of its routing table, and of its interfaces for IPv6.
fn own_addresses(trie: &str, six: &str) -> Vec<IpAddr> {
    let lines: Vec<&str> = trie.lines().map(str::trim).collect();
    let local = lines.windows(2).filter(|pair| pair[1] == "/32 host LOCAL");
    let four = local.filter_map(|pair| pair[0].strip_prefix("|-- ")?.parse().ok());
    let six = six.lines().filter_map(|line| {
        let digits = line.split_whitespace().next()?;
        let number = u128::from_str_radix(digits, 16).ok()?;
        Some(IpAddr::from(std::net::Ipv6Addr::from(number)))
    });
    four.chain(six).collect()
}

fn hosts(text: &str) -> BTreeMap<String, Vec<IpAddr>> {
    let mut all: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse().ok()) else { continue };
        for name in words {
            all.entry(name.to_ascii_lowercase()).or_default().push(address);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_knows_is_read() {
        let servers =
            name_servers("# x\nsearch a\nnameserver 127.0.0.53\n nameserver fe80::1%eth0\n");
        let texts: Vec<String> = servers.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["127.0.0.53:53", "[fe80::1]:53"]);
        assert_eq!(name_servers("")[0].to_string(), "127.0.0.1:53");
        let known = hosts("127.0.0.1 localhost A.Example # b.example\n::1 localhost\n");
        assert_eq!(known["localhost"].len(), 2);
        assert_eq!(known.len(), 2);
        let own = own_addresses(
            "Local:\n  |-- 10.0.2.15\n     /32 host LOCAL\n  |-- 10.0.2.255\n     /32 link BROADCAST\n",
            "fe80000000000000505400fffe123456 02 40 20 80 eth0\n",
        );
        let texts: Vec<String> = own.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["10.0.2.15", "fe80::5054:ff:fe12:3456"]);
    }

    #[test]
    fn zones_are_looked_for_upwards_and_never_at_the_top() {
        let names: Vec<String> = above("*.a.b.example.").collect();
        assert_eq!(names, ["a.b.example", "b.example"]);
    }
}
