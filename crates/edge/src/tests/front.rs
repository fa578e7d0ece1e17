//! Who stands in front: proxies that are believed, balancers that announce the client, and others.

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

use super::*;
use crate::model::Settings;

/// A connection that comes from an address of loopback. `127.0.0.2` is a trusted proxy, `127.0.0.3` sends
/// PROXY headers.
fn ask_from(edge: &Edge, source: [u8; 4], bytes: &[u8]) -> String {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddr::from((Ipv4Addr::from(source), 0))).unwrap();
    connect(&socket, &edge.address).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(headers: &str) -> String {
    format!("GET /x HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n{headers}\r\n")
}

/// A value of the request that the instance saw last.
fn seen(upstream: &Upstream, name: &str) -> String {
    let last = upstream.last();
    let mut lines = last.lines().filter_map(|line| line.split_once(": "));
    let found = lines.find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.map_or_else(String::new, |(_, value)| value.to_owned())
}

#[test]
fn only_a_trusted_proxy_tells_who_the_client_is_and_how_it_came() {
    let upstream = Upstream::start(|_, _, _| {
        b"HTTP/1.1 302 Found\r\nLocation: http://a.example/y\r\nContent-Length: 0\r\n\r\n".to_vec()
    });
    let edge = Edge::start(to_web(), &[upstream.address]);
    let claims = "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\n";
    let answer = ask_from(&edge, [127, 0, 0, 2], get(claims).as_bytes());
    assert_eq!(seen(&upstream, "x-forwarded-for"), "192.0.2.7");
    assert_eq!(
        (seen(&upstream, "x-forwarded-proto"), seen(&upstream, "x-forwarded-port")),
        ("https".into(), "443".into())
    );
    let lower = answer.to_ascii_lowercase();
    assert!(lower.contains("location: https://a.example/y\r\n"), "{answer}");
    assert!(lower.contains("strict-transport-security: max-age=31536000"), "{answer}");
    let answer = ask_from(&edge, [127, 0, 0, 1], get(claims).as_bytes()).to_ascii_lowercase();
    assert_eq!(
        (seen(&upstream, "x-forwarded-for"), seen(&upstream, "x-forwarded-proto")),
        ("127.0.0.1".into(), "http".into())
    );
    assert!(!answer.contains("strict-transport-security"), "{answer}");
}

#[test]
fn a_proxy_header_is_required_of_who_is_listed_and_of_nobody_else() {
    let upstream = Upstream::echo();
    let edge = Edge::start(to_web(), &[upstream.address]);
    let header = "PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n";
    let announced = format!("{header}{}", get(""));
    let answer = ask_from(&edge, [127, 0, 0, 3], announced.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(seen(&upstream, "x-forwarded-for"), "192.0.2.7");
    // Without it nothing is answered; from others it is no HTTP.
    assert_eq!(ask_from(&edge, [127, 0, 0, 3], get("").as_bytes()), "");
    assert!(ask_from(&edge, [127, 0, 0, 1], announced.as_bytes()).starts_with("HTTP/1.1 400 "));
    assert_eq!(upstream.count(), 1);
}

/// To the instance, with so many requests of an address at once, and then the rate.
fn limited(rate: &str, burst: u32) -> Vec<Route> {
    let limit = seaworthy_base::policy::Limit {
        name: "x".into(),
        rate: rate.parse().unwrap(),
        burst: Some(burst),
        by: seaworthy_base::policy::Key::Ip,
        store: None,
    };
    let policy = seaworthy_base::policy::Policy { limits: vec![limit], ..Default::default() };
    let settings = Settings { policy, ..Settings::default() };
    vec![Route { settings, ..route("*", Action::Proxy("shop/web".into())) }]
}

#[test]
fn a_limit_is_one_limit_for_all_threads() {
    let upstream = Upstream::echo();
    let edge = Edge::start(limited("1/h", 5), &[upstream.address]);
    let mut streams = [edge.connect(), edge.connect()];
    let mut ask = |nth: usize| {
        let stream = &mut streams[nth];
        stream.write_all(b"GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
        let (mut answer, mut room) = (String::new(), [0; 4096]);
        loop {
            let read = stream.read(&mut room).unwrap();
            answer.push_str(std::str::from_utf8(&room[..read]).unwrap());
            let Some((head, body)) = answer.split_once("\r\n\r\n") else { continue };
            let head = head.to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.unwrap().parse().unwrap() {
                return statuses(&answer)[0].to_owned();
            }
            assert!(read > 0, "{answer}");
        }
    };
    let mut threads = std::collections::BTreeSet::new();
    let mut passed = 0;
    for nth in 0..20 {
        if ask(nth % 2) == "200" {
            passed += 1;
            let id: seaworthy_base::RequestId = seen(&upstream, "x-request-id").parse().unwrap();
            threads.insert(id.thread());
        }
    }
    assert_eq!((passed, threads.len()), (6, 2));
}

#[test]
fn a_limit_counts_the_client_that_a_balancer_announced() {
    let upstream = Upstream::echo();
    let edge = Edge::start(limited("1/h", 0), &[upstream.address]);
    let status = |client: &str| {
        let bytes = format!("PROXY TCP4 {client} 198.51.100.1 4711 443\r\n{}", get(""));
        statuses(&ask_from(&edge, [127, 0, 0, 3], bytes.as_bytes()))
            .first()
            .map(|one| (*one).to_owned())
    };
    let asked = ["192.0.2.7", "192.0.2.7", "192.0.2.8"].map(status);
    assert_eq!(asked, ["200", "429", "200"].map(|one| Some(one.to_owned())));
}

#[test]
fn an_address_holds_so_many_connections_and_a_trusted_proxy_any_number() {
    let upstream = Upstream::echo();
    let edge = Edge::start(to_web(), &[upstream.address]);
    edge.configure_site(Site { connections_per_address: Some(2), ..edge.site(to_web()) });
    let held: Vec<TcpStream> = (0..2)
        .map(|_| {
            let mut stream = edge.connect();
            stream.write_all(b"GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
            assert!(stream.read(&mut [0; 12]).unwrap() > 0);
            stream
        })
        .collect();
    assert_eq!(ask_from(&edge, [127, 0, 0, 1], get("").as_bytes()), "");
    assert!(ask_from(&edge, [127, 0, 0, 9], get("").as_bytes()).starts_with("HTTP/1.1 200 "));
    let proxied: Vec<String> =
        (0..4).map(|_| ask_from(&edge, [127, 0, 0, 2], get("").as_bytes())).collect();
    assert!(proxied.iter().all(|one| one.starts_with("HTTP/1.1 200 ")), "{proxied:?}");
    drop(held);
    eventually("its seats are given back", || {
        ask_from(&edge, [127, 0, 0, 1], get("").as_bytes()).starts_with("HTTP/1.1 200 ")
    });
    assert!(edge.shared.status().turned_away > 0);
}

#[test]
fn where_open_files_run_short_the_client_goes_that_was_waited_for_longest() {
    let upstream = Upstream::echo();
    let edge = Edge::start(to_web(), &[upstream.address]);
    let asked = || {
        let mut stream = edge.connect();
        stream.write_all(b"GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        stream
    };
    let here = u64::try_from(edge.connect().as_raw_fd()).unwrap();
    // 32 of them are kept for other things.
    edge.shared.allow_open_files(here + 200);
    let mut held = Vec::new();
    while edge.shared.status().made_room == 0 {
        held.push(asked());
        assert!(held.len() < 4000, "nobody went");
    }
    // The first of one of the two threads are gone: after what is left of the answer comes the end.
    let ended = |mut stream: &TcpStream| {
        stream.set_nonblocking(true).unwrap();
        let mut room = [0; 4096];
        std::iter::repeat_with(|| stream.read(&mut room)).find(|read| !matches!(read, Ok(1..)))
    };
    eventually("the first ones go", || {
        held.iter().take(8).any(|stream| matches!(ended(stream), Some(Ok(0))))
    });
    // Nobody is refused meanwhile, and who came last stays.
    let mut last = asked();
    last.write_all(b"GET /y HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n").unwrap();
    let mut rest = String::new();
    last.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("HTTP/1.1 200"), "{rest}");
}

#[test]
fn a_guess_whose_answer_the_client_does_not_take_is_counted_and_what_breaks_is_not() {
    use seaworthy_base::policy::{Key, Lockout, Policy, Refusal};
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = upstream.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in upstream.incoming().flatten() {
            let request = one_request(&mut stream, &mut Vec::new()).unwrap_or_default();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\nbegun").ok();
            // One breaks; the other one has much to say.
            while !request.contains("/breaks") && stream.write_all(&[b'.'; 1 << 13]).is_ok() {}
        }
    });
    let wrong = Refusal { status: vec![200], body: Some("Wrong".into()), location: None };
    let lockout = Lockout {
        name: "x".into(),
        failures: 3,
        within: Duration::from_secs(60),
        locked: Duration::from_secs(60),
        by: vec![Key::Ip],
        refusals: vec![wrong],
        store: None,
    };
    let policy = Policy { lockouts: vec![lockout], ..Policy::default() };
    let settings = Settings { policy, ..Settings::default() };
    let routes = vec![Route { settings, ..route("*", Action::Proxy("shop/web".into())) }];
    let edge = Edge::start(routes, &[address]);
    let locked = || edge.shared.lockouts.list().len();
    for _ in 0..4 {
        let answer = ask_from(&edge, [127, 0, 0, 1], get("").replace("/x", "/breaks").as_bytes());
        assert!(answer.ends_with("begun"), "{answer}");
    }
    assert_eq!(locked(), 0);
    for _ in 0..3 {
        let mut stream = edge.connect();
        stream.write_all(get("").as_bytes()).unwrap();
        // Closed with bytes that were not read, a connection is reset.
        let begun = || {
            let mut room = [0; 4096];
            stream
                .peek(&mut room)
                .is_ok_and(|read| room[..read].windows(5).any(|part| part == b"begun"))
        };
        eventually("the answer has begun", begun);
    }
    eventually("the address is locked", || locked() == 1);
}
