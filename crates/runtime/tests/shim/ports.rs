//! Ports: two programs on one, found soon, found elsewhere, kept from others.

use crate::instance::{GIVEN, Instance, LONG, argv, get, server};
use seaworthy_base::Code;
use seaworthy_runtime::model::Phase;
use seaworthy_runtime::model::Ports;
use seaworthy_runtime::model::User;
use std::io::Read;
use std::io::Write;
use std::net::TcpStream;
use std::time::Instant;

fn two_on_8000(bind: &str, prepare: impl Fn(Instance) -> Instance) {
    let start = |number: u32| {
        let one = prepare(Instance::new(server(bind, ""))).with(|spec| {
            spec.ports = Ports::Fixed(8000);
            spec.id.slot = number as u16;
        });
        one.launch()
    };
    let (a, b) = (start(0), start(1));
    let (one, two) = (a.ready(), b.ready());
    for status in [&one, &two] {
        let address = status.listening["http"];
        assert!(address.ip().is_loopback() && address.port() != 8000, "{address}");
        assert_eq!(get(address), status.pid.unwrap().to_string());
        assert_eq!(status.fault, None);
    }
    assert_ne!(one.listening, two.listening);
}

#[test]
fn two_servers_on_one_fixed_port_run_side_by_side_ipv4() {
    two_on_8000("'0.0.0.0',8000", |one| one);
}

#[test]
fn two_servers_on_one_fixed_port_run_side_by_side_ipv6() {
    two_on_8000("'::',8000", |one| one);
}

#[test]
fn two_servers_on_one_fixed_port_run_side_by_side_as_a_user() {
    two_on_8000("'0.0.0.0',8000", |one| {
        one.with(|spec| {
            spec.user = Some(User {
                name: "nobody".to_owned(),
                uid: 65534,
                gid: 65534,
                groups: vec![65534],
            });
            spec.environment = vec![("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned())];
        })
    });
}

#[test]
fn two_servers_on_one_fixed_port_run_side_by_side_without_root() {
    two_on_8000("'::',8000", Instance::unprivileged);
}

#[test]
fn a_program_restarted_on_its_fixed_port_serves_though_old_connections_linger() {
    // Without SO_REUSEADDR a port with lingering connections cannot be bound again for a minute.
    let one = Instance::new(server("'0.0.0.0',8000", "S.allow_reuse_address=False"))
        .with(|spec| spec.ports = Ports::Fixed(8000))
        .launch();
    let before = one.ready();
    for _ in 0..5 {
        let mut stream = TcpStream::connect(before.listening["http"]).unwrap();
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
    }
    one.client().restart().unwrap();
    one.until("ready again", |status| {
        status.phase == Phase::Ready && status.pid.is_some() && status.pid != before.pid
    });
}

#[test]
fn workers_that_rebind_the_fixed_port_share_it() {
    let extra = "
class R(S):
  def server_bind(self):
    self.socket.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEPORT,1)
    ThreadingHTTPServer.server_bind(self)
S=R
if os.fork()==0: pass
";
    let one = Instance::new(server("'0.0.0.0',8000", extra))
        .with(|spec| spec.ports = Ports::Fixed(8000))
        .launch();
    let address = one.ready().listening["http"];
    let begun = Instant::now();
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 2 {
        seen.insert(get(address));
        assert!(begun.elapsed() < LONG, "only {seen:?} answer\n{}", one.log());
    }
}

#[test]
fn ready_is_known_soon_after_listening() {
    let one = Instance::new(server(GIVEN, "print('now',time.time(),flush=True)")).launch();
    one.ready();
    let at = seaworthy_base::Timestamp::now().0;
    let log = one.until_log("now ");
    let listened: f64 =
        log.lines().find_map(|line| line.split_once("now ")?.1.trim().parse().ok()).unwrap();
    let late = at.saturating_sub((listened * 1000.0) as u64);
    assert!(late < 400, "ready was known {late} ms after listening");
}

#[test]
fn wrong_port_other_address_and_silence_are_named() {
    // A slow machine may see "never listened" first: the right name must come and stay.
    let named = |one: Instance, code: Code| {
        let one = one.with(|spec| spec.ready.start_ms = 500).launch();
        one.until(code.as_str(), |status| {
            status.fault.as_ref().is_some_and(|fault| fault.code == code)
        });
    };
    named(Instance::new(server("'127.0.0.1',0", "")), Code::WrongPort);
    named(Instance::new(argv(&["sleep", "600"])), Code::NeverListened);
    let open = Instance::new(server("'0.0.0.0',int(os.environ['PORT'])", "")).launch();
    let status = open.ready();
    assert_eq!(status.fault.unwrap().code, Code::OtherAddress);
    assert_eq!(get(status.listening["http"]), status.pid.unwrap().to_string());
}

#[test]
fn ipv4_mapped_loopback_is_loopback() {
    let one = Instance::new(server("'::ffff:127.0.0.1',int(os.environ['PORT'])", "")).launch();
    assert_eq!(one.ready().fault, None);
}
