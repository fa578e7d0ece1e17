//! Which addresses the edge listens on, from what all sites ask for; and binding them.
//!
//! Invariants: an address stands once (a wildcard swallows the same port on one address); a platform
//! whose sites have local names only listens on loopback only (docs/decisions/005); a port that is
//! taken is named with who holds it. Sockets are bound here because control may be privileged and the
//! edge is not.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use seaworthy_base::{Code, Fault};
use seaworthy_manifest::site::{ListenAddress, Site, Tls};

/// A wanted listener: address, and whether TLS is spoken there.
pub(crate) type Listeners = BTreeMap<SocketAddr, bool>;

/// Names that never leave this machine (RFC 6761) and loopback addresses.
pub(crate) fn is_local(domain: &str) -> bool {
    let address = domain.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    domain == "localhost"
        || domain.ends_with(".localhost")
        || address.is_ok_and(|address| address.is_loopback())
}

/// What the sites ask for. Not yet by address: free ports are asked for with port 0, several times.
pub(crate) type Wanted = BTreeSet<(SocketAddr, bool)>;

/// The union of what the sites ask for. `root` decides between 80/443 and 8080/8443.
pub(crate) fn wanted<'a>(sites: impl IntoIterator<Item = &'a Site>, root: bool) -> Wanted {
    let (http, https) = if root { (80, 443) } else { (8080, 8443) };
    let mut all = Wanted::new();
    for site in sites {
        let local = site.domains.iter().all(|domain| is_local(domain));
        let plain = addresses(&site.listen.http, http, local);
        let secure = if site.tls == Tls::Off {
            Vec::new()
        } else {
            addresses(&site.listen.https, https, local)
        };
        all.extend(plain.into_iter().map(|address| (address, false)));
        all.extend(secure.into_iter().map(|address| (address, true)));
    }
    let wildcard = |address: &SocketAddr| match address.ip() {
        IpAddr::V4(_) => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()),
        IpAddr::V6(_) => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), address.port()),
    };
    let swallowed = |address: &SocketAddr, tls: bool| {
        !address.ip().is_unspecified()
            && address.port() != 0
            && all.contains(&(wildcard(address), tls))
    };
    all.iter().filter(|(address, tls)| !swallowed(address, *tls)).copied().collect()
}

fn addresses(given: &[ListenAddress], default: u16, local: bool) -> Vec<SocketAddr> {
    let both = |port: u16| -> [SocketAddr; 2] {
        let (v4, v6) = if local {
            (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST)
        } else {
            (Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED)
        };
        [SocketAddr::new(v4.into(), port), SocketAddr::new(v6.into(), port)]
    };
    if given.is_empty() {
        return both(default).to_vec();
    }
    let each = given.iter().flat_map(|one| match one {
        // A free port is asked for once: two families would get two different ones.
        ListenAddress::Port(0) => vec![SocketAddr::new(both(0)[0].ip(), 0)],
        ListenAddress::Port(port) => both(*port).to_vec(),
        ListenAddress::Address(address) => vec![*address],
    });
    each.collect()
}

/// Held addresses that a wanted wildcard of the same family and port cannot be bound beside.
pub(crate) fn in_the_way(wanted: &Listeners, held: &Listeners) -> Vec<SocketAddr> {
    let blocks = |narrow: &SocketAddr| {
        wanted.keys().any(|wide| {
            wide.ip().is_unspecified()
                && !held.contains_key(wide)
                && wide.port() == narrow.port()
                && wide.is_ipv4() == narrow.is_ipv4()
        })
    };
    held.keys().filter(|narrow| blocks(narrow)).copied().collect()
}

/// Binds one address; the fault names who holds the port.
pub(crate) fn bind(address: SocketAddr, site_hint: &str) -> Result<TcpListener, Fault> {
    seaworthy_sys::socket::listen_tcp(address).map_err(|error| {
        let what = format!("the edge could not listen on `{address}`");
        match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                let fault = Fault::new(Code::PortTaken, what);
                let fault = match seaworthy_sys::socket::port_holder(address) {
                    Some(holder) => fault
                        .because(format!("`{}` (pid {}) listens there", holder.program, holder.pid))
                        .next(format!("stop it (`ps -fp {}` shows what it is), or", holder.pid)),
                    None => fault.because("another program listens there"),
                };
                fault.next(format!(
                    "choose other ports in `[listen]` of {site_hint}: `http = 8080`, `https = 8443`"
                ))
            }
            std::io::ErrorKind::PermissionDenied => Fault::new(Code::PortDenied, what)
                .because("ports below 1024 are for root")
                .next("run as root, or choose ports from 1024 in `[listen]`: `https = 8443`"),
            _ => Fault::new(Code::PortDenied, what).because(error.to_string()).next(
                "check the address in `[listen]`: it must be one of this machine's (`ip addr`)",
            ),
        }
    })
}

/// Whether this host can bind IPv6 at all; without it IPv6 defaults are left out, given ones are an error.
pub(crate) fn has_ipv6() -> bool {
    seaworthy_sys::socket::listen_tcp(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(domains: &[&str], http: &[ListenAddress], https: &[ListenAddress]) -> Site {
        let text = format!(
            "site = \"x\"\ndomains = {domains:?}\n[tls]\nmode = \"internal\"\n[service.web]\nstatic = \".\"\n"
        );
        let dir = tempfile::tempdir().unwrap();
        let mut site =
            seaworthy_manifest::parse(&text, std::path::Path::new("seaworthy.toml"), dir.path())
                .unwrap();
        site.listen.http = http.to_vec();
        site.listen.https = https.to_vec();
        site
    }

    #[test]
    fn local_names_listen_on_loopback_only() {
        let all = wanted([&site(&["a.localhost"], &[], &[])], false);
        let texts: Vec<String> = all.iter().map(|(address, _)| address.to_string()).collect();
        assert_eq!(texts, ["127.0.0.1:8080", "127.0.0.1:8443", "[::1]:8080", "[::1]:8443"]);
    }

    #[test]
    fn a_public_site_swallows_the_loopback_listeners_of_a_local_one() {
        let all =
            wanted([&site(&["a.localhost"], &[], &[]), &site(&["a.example"], &[], &[])], true);
        let texts: Vec<String> = all.iter().map(|(address, _)| address.to_string()).collect();
        assert_eq!(texts, ["0.0.0.0:80", "0.0.0.0:443", "[::]:80", "[::]:443"]);
    }

    #[test]
    fn a_narrow_listener_makes_way_for_a_wildcard_of_its_port_only() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let held = Listeners::from([
            (address("127.0.0.1:443"), true),
            (address("[::1]:443"), true),
            (address("127.0.0.1:80"), false),
        ]);
        let wanted = Listeners::from([(address("0.0.0.0:443"), true)]);
        assert_eq!(in_the_way(&wanted, &held), [address("127.0.0.1:443")]);
        assert_eq!(in_the_way(&held, &held), []);
    }

    #[test]
    fn a_taken_port_is_named_with_its_holder() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let fault = bind(held.local_addr().unwrap(), "seaworthy.toml").unwrap_err();
        assert_eq!(fault.code, Code::PortTaken);
        assert!(fault.causes[0].contains(&format!("pid {}", std::process::id())), "{fault:?}");
    }
}
