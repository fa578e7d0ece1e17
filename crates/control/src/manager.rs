//! systemd as the one that started this control process: told when it serves, and keeper of its sockets.
//!
//! Control and edge both hold the sockets that others come in by, so that the death of either loses no connection; a
//! copy in systemd's descriptor store is for the case that both end. Invariants: what lies there is what is listened
//! on, over TCP and UDP, by visitors and by our own applications, no more and no less; a socket that comes back is taken
//! only where the record says that it is ours; where nobody keeps anything, nothing is different but that case. Not here:
//! the protocol (`seaworthy_sys::systemd`).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use seaworthy_sys::socket::socket_cookie;
use seaworthy_sys::systemd::{self, Manager};

/// It answers in milliseconds, unless it has other things to do.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether this process is a service's main one: whoever has a keeper of ours is not, whatever it inherited.
pub(crate) fn is_ours() -> bool {
    std::env::var_os("SEAWORTHY_KEEPER").is_none() && std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// The way to it.
pub(crate) fn find() -> Option<Arc<Manager>> {
    match Manager::from_environment().filter(|_| is_ours())? {
        Ok(manager) => Some(Arc::new(manager)),
        Err(error) => {
            crate::say(&format!("systemd cannot be told anything: {error}"));
            None
        }
    }
}

/// Whether it is stopping everything, and not us alone.
pub(crate) async fn machine_goes_down() -> bool {
    let mut asking = tokio::process::Command::new("systemctl");
    asking.arg("is-system-running").stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let said = tokio::time::timeout(PATIENCE, asking.output()).await;
    said.is_ok_and(|said| said.is_ok_and(|said| said.stdout == b"stopping\n"))
}

/// Tells it something, if there is one.
pub(crate) fn tell(manager: Option<&Manager>, lines: &str) {
    if let Some(Err(error)) = manager.map(|manager| manager.say(lines)) {
        crate::say(&format!("systemd was not told `{lines}`: {error}"));
    }
}

/// Reports that this process is not stuck, where that is asked for: thrice as often, since one of them may come late.
pub(crate) async fn report(manager: Arc<Manager>) {
    let Some(limit) = systemd::watchdog() else { return };
    loop {
        tokio::time::sleep(limit / 3).await;
        tell(Some(&manager), "WATCHDOG=1");
    }
}

/// What a socket in the store is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Visitors come in, without TLS.
    Http,
    /// Visitors come in, with TLS.
    Https,
    /// Applications come in that call others.
    Outgoing,
    /// Packets of HTTP/3 come in: the socket's slot (`seaworthy_sys::datagram`).
    Http3(u8),
}

/// What a socket is for, and its address.
pub(crate) type Purpose = (Kind, SocketAddr);

/// The sockets in the descriptor store.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    manager: Option<Arc<Manager>>,
    /// Cookies by name, as they lie there.
    there: BTreeMap<String, u64>,
    /// What came back from there.
    back: Vec<(String, OwnedFd)>,
}

impl Kept {
    /// Takes what came back.
    pub(crate) fn new(manager: Option<Arc<Manager>>) -> Self {
        let back = if manager.is_some() { systemd::kept() } else { Vec::new() };
        let cookie = |fd: &OwnedFd| socket_cookie(fd.as_fd()).unwrap_or(0);
        let there = back.iter().map(|(name, fd)| (name.clone(), cookie(fd))).collect();
        Self { manager, there, back }
    }

    /// The sockets that came back, once. What has no name of ours is closed, and goes from there at the next
    /// [`Self::settle`].
    pub(crate) fn take_back(&mut self) -> impl Iterator<Item = (Purpose, OwnedFd)> + use<> {
        let back = std::mem::take(&mut self.back).into_iter();
        back.filter_map(|(name, fd)| Some((purpose(&name)?, fd)))
    }

    /// Makes what lies there what is held.
    pub(crate) fn settle<'a>(&mut self, held: impl Iterator<Item = (Purpose, BorrowedFd<'a>)>) {
        let Some(manager) = &self.manager else { return };
        let wanted: BTreeMap<String, (u64, BorrowedFd<'_>)> = held
            .map(|(purpose, socket)| (name(purpose), (socket_cookie(socket).unwrap_or(0), socket)))
            .collect();
        let failed = |name: &str, error| {
            crate::say(&format!("the descriptor store of systemd did not take `{name}`: {error}"));
        };
        let same = |name: &String, cookie: u64| {
            wanted.get(name).is_some_and(|(wanted, _)| *wanted == cookie)
        };
        self.there.retain(|name, cookie| {
            let stays = same(name, *cookie);
            if !stays && let Err(error) = manager.forget(name) {
                failed(name, error);
            }
            stays
        });
        for (name, (cookie, socket)) in wanted {
            if self.there.contains_key(&name) {
                continue;
            }
            // A control process that became this one, in an upgrade, may have left it there.
            let kept = manager.forget(&name).and_then(|()| manager.keep(&name, socket));
            match kept {
                Ok(()) => drop(self.there.insert(name, cookie)),
                Err(error) => failed(&name, error),
            }
        }
    }
}

/// Before the slot in the name of a UDP socket.
const HTTP3: &str = "http3.";

/// A socket's name there, which holds no colons: `https-127.0.0.1+443`, `http3.2-[++]+443`.
fn name((kind, address): Purpose) -> String {
    let kind = match kind {
        Kind::Http => "http".to_owned(),
        Kind::Https => "https".to_owned(),
        Kind::Outgoing => "outgoing".to_owned(),
        Kind::Http3(slot) => format!("{HTTP3}{slot}"),
    };
    format!("{kind}-{}", address.to_string().replace(':', "+"))
}

/// What a name says.
fn purpose(name: &str) -> Option<Purpose> {
    let (kind, address) = name.split_once('-')?;
    let kind = match kind {
        "http" => Kind::Http,
        "https" => Kind::Https,
        "outgoing" => Kind::Outgoing,
        _ => Kind::Http3(kind.strip_prefix(HTTP3)?.parse().ok()?),
    };
    Some((kind, address.replace('+', ":").parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hold_no_colons_and_say_what_they_name() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(name((Kind::Https, at("[::1]:443"))), "https-[++1]+443");
        assert_eq!(name((Kind::Http, at("127.0.0.1:80"))), "http-127.0.0.1+80");
        assert_eq!(name((Kind::Http3(2), at("[::]:443"))), "http3.2-[++]+443");
        for kind in [Kind::Http, Kind::Https, Kind::Outgoing, Kind::Http3(0), Kind::Http3(3)] {
            for address in ["127.0.0.1:80", "[::1]:80", "[::]:180", "[fe80::1%2]:443"] {
                let named = name((kind, at(address)));
                assert!(!named.contains(':'), "{named}");
                assert_eq!(purpose(&named), Some((kind, at(address))));
            }
        }
        for other in
            ["", "stored", "http-", "http3.-127.0.0.1+1", "https+127.0.0.1+80", "ftp-[++]+21"]
        {
            assert_eq!(purpose(other), None, "{other}");
        }
    }
}
