//! The bucket's rules, against the clock, against a simple model, and against nginx itself.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

/// Accepts or refuses at each moment.
fn run(rule: Rule, moments: &[u64]) -> Vec<bool> {
    let mut state = None;
    let decide = |now: &u64| match rule.take(state, *now) {
        Ok(after) => {
            state = Some(after);
            true
        }
        Err(_) => false,
    };
    moments.iter().map(decide).collect()
}

fn accepted(rule: Rule, moments: &[u64]) -> usize {
    run(rule, moments).into_iter().filter(|accepted| *accepted).count()
}

#[test]
fn a_burst_comes_at_once_and_then_the_rate() {
    let rule = Rule::new(10, 1000, Some(20));
    assert_eq!(accepted(rule, &[5; 100]), 21);
    let second: Vec<u64> = (0..1000).collect();
    assert_eq!(accepted(rule, &second), 21 + 9);
    // A burst of nothing: one each 100 ms.
    assert_eq!(
        run(Rule::new(10, 1000, Some(0)), &[0, 0, 99, 100, 150, 200]),
        [true, false, false, true, false, true]
    );
}

#[test]
fn a_rate_without_a_burst_may_come_at_once() {
    assert_eq!(accepted(Rule::new(100, 60_000, None), &[0; 500]), 100);
    // As slowly as once an hour it still drains.
    let hourly = Rule::new(1, 3_600_000, None);
    assert_eq!(run(hourly, &[0, 1000, 3_599_000, 3_600_000]), [true, false, false, true]);
}

#[test]
fn who_is_refused_is_told_when_to_come_again() {
    let rule = Rule::new(5, 60_000, Some(0));
    let first = rule.take(None, 1000).unwrap();
    let wait = rule.take(Some(first), 1000).unwrap_err();
    assert!((12_000..=12_100).contains(&wait), "{wait}");
    assert!(rule.take(Some(first), 1000 + wait).is_ok());
    assert!(rule.take(Some(first), 1000 + wait - 20).is_err());
}

#[test]
fn a_clock_that_another_thread_read_later_is_no_time_travel() {
    let rule = Rule::new(10, 1000, Some(1));
    let first = rule.take(None, 1000).unwrap();
    assert_eq!(rule.take(Some(first), 990).unwrap(), State { excess: 1000, last: 1000 });
}

#[test]
fn all_limits_agree_or_none_counts() {
    let buckets = Buckets::new(Arc::default());
    let site = crate::route::CompiledSite::for_tests(&["a.example"], Vec::new());
    let headers = http::HeaderMap::new();
    let ip = [192, 0, 2, 1].into();
    let caller = crate::policy::keys::Caller { ip, headers: &headers, fields: None, place: 0 };
    let keys = Keys { caller, site: &site, hasher: buckets.hasher() };
    let limit = |name: &str, rate: &str| {
        let (name, rate) = (name.to_owned(), rate.parse().unwrap());
        Limit::build("a", &said::Limit { name, rate, burst: None, by: Key::Ip, store: None })
    };
    let narrow = [limit("few", "2/m"), limit("many", "5/m")];
    let ask = |limits: &[Limit]| check(&buckets, limits, &keys, 0).is_ok();
    assert_eq!(
        [ask(&narrow), ask(&narrow), ask(&narrow), ask(&narrow)],
        [true, true, false, false]
    );
    // Of `many` only two were taken.
    let wide = [limit("many", "5/m")];
    assert_eq!([ask(&wide), ask(&wide), ask(&wide), ask(&wide)], [true, true, true, false]);
    let refused = check(&buckets, &wide, &keys, 0).unwrap_err();
    let said: Vec<String> = refused
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    assert_eq!(
        said,
        ["retry-after: 13", "ratelimit-policy: \"many\";q=5;w=60", "ratelimit: \"many\";r=0;t=13"]
    );
}

#[test]
fn threads_share_one_count() {
    let buckets = Buckets::new(Arc::default());
    let rule = Rule::new(1000, 60_000, Some(999));
    buckets.take(7, rule, 0).unwrap();
    let accepted: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| (0..1000).filter(|_| buckets.take(7, rule, 0).is_ok()).count()))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(accepted, 999);
}

#[test]
fn the_table_does_not_grow_and_forgets_the_quiet_first() {
    let buckets = Buckets::new(Arc::default());
    let rule = Rule::new(1, 60_000, Some(0));
    // One row for all.
    let key = |n: u64| (n + 1) << 42 | 1;
    for n in 0..4 {
        buckets.take(key(n), rule, n * 10).unwrap();
    }
    buckets.take(key(9), rule, 100).unwrap();
    let kept: Vec<bool> = [0, 1, 2, 3, 9].iter().map(|n| buckets.get(key(*n)).is_some()).collect();
    assert_eq!(kept, [false, true, true, true, true]);
}

#[test]
fn a_bucket_that_its_rule_could_not_have_filled_is_a_full_one() {
    let rule = Rule::new(10, 1000, Some(2));
    let wait = rule.take(Some(State { excess: u32::MAX, last: 1000 }), 1000).unwrap_err();
    assert_eq!(wait, 100);
    assert!(rule.take(Some(State { excess: u32::MAX, last: 1000 }), 1100).is_ok());
}

proptest! {
    /// No window of the rate's length ever lets more through than the rate and the burst together.
    #[test]
    fn never_more_than_rate_and_burst(count in 1u32..50, per in 1000u64..100_000, burst in 0u32..30, steps in proptest::collection::vec(0u64..5000, 1..200)) {
        let rule = Rule::new(count, per, Some(burst));
        let moments: Vec<u64> = steps.iter().scan(0, |now, step| { *now += step; Some(*now) }).collect();
        let passed: Vec<u64> = run(rule, &moments).into_iter().zip(&moments).filter(|(ok, _)| *ok).map(|(_, at)| *at).collect();
        for (at, from) in passed.iter().enumerate() {
            let within = passed[at..].iter().take_while(|to| **to - from <= per).count();
            prop_assert!(within as u32 <= count + burst + 2, "{within} in {per} ms");
        }
    }
}

/// nginx in front of a small file, with a limit; killed at the end.
struct Nginx {
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Nginx {
    fn start(rate: &str, burst: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().display().to_string();
        std::fs::write(dir.path().join("x"), "x").unwrap();
        // Free a moment ago; nobody else is given it so soon.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let extra = if burst == 0 { String::new() } else { format!(" burst={burst} nodelay") };
        let config = format!(
            "daemon off; master_process off; pid {root}/pid; error_log {root}/error;\n\
             events {{}}\nhttp {{ client_body_temp_path {root}/b; proxy_temp_path {root}/p; fastcgi_temp_path {root}/f; uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;\n\
             log_format t '$msec $status'; access_log {root}/log t;\n\
             limit_req_zone $binary_remote_addr zone=z:1m rate={rate};\n\
             server {{ listen 127.0.0.1:{port}; root {root}; limit_req_status 429;  location = /x {{ limit_req zone=z{extra}; }} }} }}\n"
        );
        let file = dir.path().join("nginx.conf");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new("nginx");
        // Debian has it where only root looks.
        let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
        command.env("PATH", path).arg("-p").arg(dir.path()).arg("-c").arg(&file);
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx (cargo xtask setup installs it)");
        let nginx = Self { child, port, dir };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let error = std::fs::read_to_string(nginx.dir.path().join("error")).unwrap_or_default();
            assert!(begun.elapsed() < Duration::from_secs(20), "nginx does not listen: {error}");
            std::thread::yield_now();
        }
        nginx
    }

    /// Asks so many times as fast as it goes, with a pause of some milliseconds after each.
    fn ask(&self, count: usize, pause_ms: u64) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let mut answer = [0; 4096];
        for _ in 0..count {
            stream.write_all(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            let mut text = Vec::new();
            while !(text.ends_with(b"</html>\r\n") || text.ends_with(b"\r\n\r\nx")) {
                let read = stream.read(&mut answer).unwrap();
                assert!(read > 0, "{}", String::from_utf8_lossy(&text));
                text.extend_from_slice(&answer[..read]);
            }
            // The trace needs gaps of different lengths; nobody waits for anything here.
            let until = Instant::now() + Duration::from_millis(pause_ms);
            while Instant::now() < until {
                std::thread::yield_now();
            }
        }
    }

    /// When each request came, in milliseconds, and whether it was accepted.
    fn trace(&self, count: usize) -> Vec<(u64, bool)> {
        let begun = Instant::now();
        loop {
            let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            if log.lines().count() == count {
                let one = |line: &str| {
                    let (time, status) = line.split_once(' ').unwrap();
                    (time.replace('.', "").parse().unwrap(), status == "200")
                };
                return log.lines().map(one).collect();
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{log}");
            std::thread::yield_now();
        }
    }
}

#[test]
fn the_same_requests_are_refused_as_by_nginx() {
    for (rate, count, per_ms, burst) in
        [("50r/s", 50, 1000, 5), ("10r/s", 10, 1000, 20), ("300r/m", 300, 60_000, 0)]
    {
        let nginx = Nginx::start(rate, burst);
        let plan = [(30, 0), (20, 7), (10, 31), (20, 1), (5, 120), (30, 0)];
        plan.iter().for_each(|(count, pause)| nginx.ask(*count, *pause));
        let trace = nginx.trace(plan.iter().map(|(count, _)| count).sum());
        let rule = Rule::new(count, per_ms, Some(burst));
        let (mut state, mut certain, mut refused) = (None, 0, 0);
        for (at, (now, accepted)) in trace.iter().enumerate() {
            // nginx counts by a clock that may tick up to 2 ms beside the one that it logs.
            let sooner = rule.take(state, now.saturating_sub(2)).is_ok();
            let later = rule.take(state, now + 2).is_ok();
            if sooner == later {
                certain += 1;
                assert_eq!(sooner, *accepted, "{rate} burst {burst}: request {at} of {trace:?}");
            }
            refused += usize::from(!accepted);
            if *accepted {
                let after = rule.take(state, *now).or_else(|_| rule.take(state, now + 2));
                state = after.map_or(state, Some);
            }
        }
        assert!(
            certain * 10 >= trace.len() * 8 && refused > 10,
            "{rate}: {certain} certain, {refused} refused of {}",
            trace.len()
        );
    }
}
