//! systemd as the one that started this control process: told when it serves, and keeper of its sockets.
//!
//! Control and edge both hold the listening sockets, so that the death of either loses no connection; a copy in
//! systemd's descriptor store is for the case that both end. Invariants: what lies there is what is listened on, no
//! more and no less; a socket that comes back is taken only where the record says that it is ours; where nobody
//! keeps anything, nothing is different but that case. Not here: the protocol (`seaworthy_sys::systemd`).

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
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

/// The listening sockets in the descriptor store.
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

    /// The sockets that came back, and whether TLS is spoken there; once.
    pub(crate) fn take_back(&mut self) -> impl Iterator<Item = (OwnedFd, bool)> + use<> {
        std::mem::take(&mut self.back).into_iter().map(|(name, fd)| (fd, name.starts_with(TLS)))
    }

    /// Makes what lies there what is listened on.
    pub(crate) fn settle<'a>(
        &mut self,
        listening: impl Iterator<Item = (SocketAddr, bool, &'a TcpListener)>,
    ) {
        let Some(manager) = &self.manager else { return };
        let wanted: BTreeMap<String, (u64, &TcpListener)> = listening
            .map(|(address, tls, socket)| {
                (name(address, tls), (socket_cookie(socket.as_fd()).unwrap_or(0), socket))
            })
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
            let kept = manager.forget(&name).and_then(|()| manager.keep(&name, socket.as_fd()));
            match kept {
                Ok(()) => drop(self.there.insert(name, cookie)),
                Err(error) => failed(&name, error),
            }
        }
    }
}

/// Before the address of a listener that speaks TLS.
const TLS: &str = "https-";

/// Names hold no colons.
fn name(address: SocketAddr, tls: bool) -> String {
    let scheme = if tls { TLS } else { "http-" };
    format!("{scheme}{}", address.to_string().replace(':', "+"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hold_no_colons_and_are_as_different_as_addresses() {
        let name = |text: &str, tls| name(text.parse().unwrap(), tls);
        assert_eq!(name("[::1]:443", true), "https-[++1]+443");
        assert_eq!(name("127.0.0.1:80", false), "http-127.0.0.1+80");
        assert_ne!(name("[::1]:80", false), name("[::]:180", false));
    }
}
