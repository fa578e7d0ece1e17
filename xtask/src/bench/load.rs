//! The load, and what is read of it.
//!
//! `wrk` for HTTP/1.1 and full handshakes, `h2load` for HTTP/2. Invariants: the first second is not counted;
//! an answer that is not 2xx, or a socket error, is an error of the bench and not a figure. Not here: resumed handshakes
//! ([`super::resumed`]) and HTTP/3 ([`super::http3`]), for which no distribution has a load.

use std::process::Command;

use anyhow::{Context, Result, bail};

use super::peers::Running;

/// What is asked of a proxy.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Case {
    KeepAlive,
    /// With limits, which the peers are told to have too.
    Features,
    Large,
    Http2,
    Handshake,
    /// A page as it is.
    Page,
    /// The same with a nonce put on its scripts.
    Nonce,
    /// As keep-alive, of the host with that number.
    Routes(usize),
}

/// What one proxy did in one round.
pub(super) struct Figures {
    /// Answers in a second.
    pub(super) rate: f64,
    /// Microseconds of CPU for each answer, user and system, all processes.
    pub(super) cpu_us: f64,
    /// As the load generator prints it.
    pub(super) p99: String,
}

impl Case {
    /// Those that are compared with the peers.
    pub(super) const ALL: [Self; 5] =
        [Self::KeepAlive, Self::Features, Self::Large, Self::Http2, Self::Handshake];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::KeepAlive => "keep-alive",
            Self::Features => "features",
            Self::Page => "page",
            Self::Nonce => "nonce",
            Self::Large => "large",
            Self::Http2 => "http2",
            Self::Handshake => "handshake",
            Self::Routes(_) => "routes",
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::KeepAlive => "keep-alive: HTTP/1.1, 64 connections, 190 bytes of JSON",
            Self::Features => {
                "features: as keep-alive, with a limit by address (nginx: limit_req), CSRF check, log"
            }
            Self::Page => "a page of 50 KiB as it is",
            Self::Nonce => {
                "nonce: a page of 50 KiB whose 20 scripts get a nonce, beside the page as it is"
            }
            Self::Large => "large: HTTP/1.1, 64 connections, 64 KiB",
            Self::Http2 => "http2: over TLS, 16 connections, 8 streams each, 190 bytes of JSON",
            Self::Handshake => "handshake: a full TLS handshake (ECDSA P-256) for each request",
            Self::Routes(_) => "routes: as keep-alive, one host of many",
        }
    }

    /// Our CPU per request over nginx's, at most.
    pub(super) fn bound(self) -> Option<f64> {
        match self {
            Self::KeepAlive => Some(1.2),
            Self::Features => Some(1.05),
            Self::Nonce => Some(1.3),
            Self::Large => Some(0.7),
            Self::Page | Self::Routes(_) => None,
            // 1.1 times as many requests per CPU second, and twice as many handshakes.
            Self::Http2 => Some(1.0 / 1.1),
            Self::Handshake => Some(0.5),
        }
    }

    fn command(self, proxy: &Running) -> Command {
        let mut command = Command::new("taskset");
        command.args(["-c", "1"]);
        let (plain, tls) = (
            format!("http://127.0.0.1:{}", proxy.http),
            format!("https://127.0.0.1:{}", proxy.https),
        );
        let wrk = |command: &mut Command, connections: &str| {
            command.args(["wrk", "-t1", "-c", connections, "--latency", "-d", "1s"]);
        };
        match self {
            Self::KeepAlive => {
                wrk(&mut command, "64");
                command.args(["-H", "Host: plain.localhost"]).arg(format!("{plain}/"));
            }
            Self::Features => {
                wrk(&mut command, "64");
                command.args(["-H", "Host: featured.localhost", "-H", "Cookie: session=1"]);
                command.arg(format!("{plain}/"));
            }
            Self::Page | Self::Nonce => {
                wrk(&mut command, "16");
                let host = if self == Self::Page { "plain" } else { "nonce" };
                command.args(["-H", &format!("Host: {host}.localhost")]);
                command.arg(format!("{plain}/page.html"));
            }
            Self::Routes(number) => {
                wrk(&mut command, "64");
                command.args(["-H", &format!("Host: h{number}.localhost")]);
                command.arg(format!("{plain}/"));
            }
            Self::Large => {
                wrk(&mut command, "64");
                command.args(["-H", "Host: plain.localhost"]).arg(format!("{plain}/big"));
            }
            Self::Handshake => {
                wrk(&mut command, "16");
                command.args(["-H", "Connection: close", "-H", "Host: tls.localhost"]);
                command.arg(format!("{tls}/"));
            }
            Self::Http2 => {
                command.args(["h2load", "-t1", "-c16", "-m8", "-D", "1"]);
                command.arg(format!("--connect-to=127.0.0.1:{}", proxy.https));
                command.arg("https://tls.localhost/");
            }
        }
        command
    }
}

/// A second of load that is not counted.
pub(super) fn warm(proxy: &Running, case: Case) -> Result<()> {
    load(proxy, case).map(drop)
}

/// A second of load on a proxy that is warm.
pub(super) fn second(proxy: &Running, case: Case) -> Result<Figures> {
    let before = proxy.cpu_ticks()?;
    let (answers, rate, p99) = load(proxy, case)?;
    let spent = proxy.cpu_ticks()? - before;
    Ok(Figures { rate, cpu_us: cpu_us(spent, answers), p99 })
}

/// Microseconds for each answer. A tick is a hundredth of a second (USER_HZ) on every Linux that this runs on.
pub(super) fn cpu_us(ticks: u64, answers: u64) -> f64 {
    ticks as f64 * 10_000.0 / answers as f64
}

/// Runs the load for a second; answers, answers in a second, 99th percentile.
fn load(proxy: &Running, case: Case) -> Result<(u64, f64, String)> {
    let mut command = case.command(proxy);
    let output = command.output().with_context(|| format!("could not run {command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let wrong =
        || format!("{command:?} printed\n{text}{}", String::from_utf8_lossy(&output.stderr));
    let read = if case == Case::Http2 { of_h2load(&text) } else { of_wrk(&text) };
    let (answers, rate, p99) = read.with_context(wrong)?;
    if answers == 0 || !output.status.success() {
        bail!("{}", wrong());
    }
    Ok((answers, rate, p99))
}

fn of_wrk(text: &str) -> Result<(u64, f64, String)> {
    if text.contains("Non-2xx") || text.contains("Socket errors") {
        bail!("requests failed");
    }
    let find = |what: &str| {
        text.lines().find(|line| line.contains(what)).with_context(|| format!("no `{what}`"))
    };
    let first = find("requests in")?.split_whitespace().next().unwrap_or_default();
    let rate = find("Requests/sec")?.split_whitespace().nth(1).unwrap_or_default();
    let p99 = find("99%")?.split_whitespace().nth(1).unwrap_or_default();
    Ok((first.parse()?, rate.parse()?, p99.to_owned()))
}

fn of_h2load(text: &str) -> Result<(u64, f64, String)> {
    let find = |what: &str| {
        text.lines().find(|line| line.starts_with(what)).with_context(|| format!("no `{what}`"))
    };
    let number = |line: &str, after: &str| -> Result<u64> {
        let words: Vec<&str> = line.split([' ', ',']).filter(|word| !word.is_empty()).collect();
        let at =
            words.iter().position(|word| *word == after).with_context(|| format!("no {after}"))?;
        Ok(words[at.saturating_sub(1)].parse()?)
    };
    let requests = find("requests:")?;
    let (done, ok) = (number(requests, "done")?, number(find("status codes:")?, "2xx")?);
    if number(requests, "failed")? + number(requests, "errored")? > 0 || ok < done {
        bail!("requests failed");
    }
    let rate = find("finished in")?
        .split(", ")
        .nth(1)
        .and_then(|part| part.strip_suffix(" req/s"))
        .context("no rate")?;
    // h2load prints no percentiles: the longest stands in, and says so.
    let longest = find("time for request:")?.split_whitespace().nth(4).unwrap_or_default();
    Ok((ok, rate.parse()?, format!("<{longest}")))
}
