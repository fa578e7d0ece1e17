//! Instances of other kinds than HTTP/1.1 on a port: a gRPC server, a server of somebody else behind a
//! Unix socket that is asked whether it is well.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use seaworthy_testkit::{FakeApp, Sandbox, Site, eventually};

use crate::{LIMIT, sandbox};

/// The one that has the packages of the distribution.
const PYTHON: &str = "/usr/bin/python3";

/// Methods of bytes, so that no code need be generated: one answer, a conversation, a refusal.
const SERVER: &str = r#"
import grpc, os
from concurrent import futures

def say(request, context):
    context.set_trailing_metadata((("x-pid", str(os.getpid())),))
    return request + dict(context.invocation_metadata()).get("x-forwarded-proto", "").encode()

def talk(requests, context):
    for request in requests:
        yield request.upper()
        if request == b"stop":
            context.abort(grpc.StatusCode.OUT_OF_RANGE, "said stop")

class Shop(grpc.GenericRpcHandler):
    def service(self, call):
        if call.method == "/shop.Shop/Say":
            return grpc.unary_unary_rpc_method_handler(say)
        if call.method == "/shop.Shop/Talk":
            return grpc.stream_stream_rpc_method_handler(talk)

server = grpc.server(futures.ThreadPoolExecutor(8))
server.add_generic_rpc_handlers((Shop(),))
server.add_insecure_port(f"127.0.0.1:{os.environ['PORT']}")
server.start()
server.wait_for_termination()
"#;

/// Its client: what it sees, a line for each thing.
const CLIENT: &str = r#"
import grpc, queue, sys
address, ca = sys.argv[1:]
options = [("grpc.ssl_target_name_override", "shop.localhost"), ("grpc.enable_http_proxy", 0)]
channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(open(ca, "rb").read()), options)
say, talk = channel.unary_unary("/shop.Shop/Say"), channel.stream_stream("/shop.Shop/Talk")

pids = set()
for number in range(20):
    answer, call = say.with_call(b"%d " % number, timeout=20)
    assert answer == b"%d https" % number, answer
    pids.add(dict(call.trailing_metadata())["x-pid"])
print("instances", len(pids))
large = b"x" * (3 << 20)
print("large", len(say(large, timeout=20)) - len(large))

asked = queue.Queue()
talked = talk(iter(asked.get, None), timeout=20)
for word in [b"one", b"two"]:
    asked.put(word)
    print("said", next(talked).decode())
asked.put(b"stop")
print("said", next(talked).decode())
try:
    next(talked)
except grpc.RpcError as error:
    print(error.code().name, error.details())
try:
    channel.unary_unary("/shop.Shop/Nothing")(b"", timeout=20)
except grpc.RpcError as error:
    print(error.code().name)
"#;

#[test]
fn a_grpc_server_is_spoken_to_with_conversations_and_trailers() {
    let sandbox = sandbox();
    let site = Site::new("shop").file("server.py", SERVER).file("client.py", CLIENT).more(
        "[service.web]\nrun = \"/usr/bin/python3 server.py\"\nprotocol = \"h2c\"\ninstances = 2\nstop = { grace = \"2s\" }\n\
         health = { ready = { every = \"200ms\", timeout = \"2s\", failures = 3, start = \"20s\" } }\n\
         [[route]]\npaths = [\"/*\"]\nto = \"web\"\nbalance = \"round-robin\"",
    );
    sandbox.up(&site);
    let mut client = Command::new(PYTHON);
    client.arg(sandbox.write(&site).join("client.py"));
    client.arg(sandbox.status().https().to_string()).arg(sandbox.ca());
    let output = client.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let expected = "instances 2\nlarge 5\nsaid ONE\nsaid TWO\nsaid STOP\nOUT_OF_RANGE said stop\nUNIMPLEMENTED\n";
    assert_eq!(said, expected, "{}", String::from_utf8_lossy(&output.stderr));
}

/// Answers by a switch, for as long as the test runs.
fn serve(listener: UnixListener, name: &'static str, well: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let well = Arc::clone(&well);
            std::thread::spawn(move || {
                let mut head = Vec::new();
                let mut byte = [0];
                while matches!(stream.read(&mut byte), Ok(1)) {
                    head.push(byte[0]);
                    if !head.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    let ill = head.starts_with(b"GET /health ") && !well.load(Ordering::Relaxed);
                    let status = if ill { "500 No" } else { "200 OK" };
                    let length = name.len();
                    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{name}")
                        .ok();
                    head.clear();
                }
            });
        }
    });
}

#[test]
fn a_server_of_somebody_else_that_is_not_well_gets_nothing_and_explain_says_why() {
    let sandbox = sandbox();
    let well = Arc::new(AtomicBool::new(true));
    let sockets = [("one", Arc::clone(&well)), ("two", Arc::new(AtomicBool::new(true)))];
    let urls = sockets.map(|(name, well)| {
        let (listener, url) = on_socket(&sandbox, name);
        serve(listener, name, well);
        url
    });
    let site = Site::new("shop").more(&format!(
        "[service.web]\nupstreams = [{}]\nhealth = {{ ready = {{ path = \"/health\", every = \"100ms\", timeout = \"2s\", failures = 2 }} }}\n\
         [[route]]\npaths = [\"/*\"]\nto = \"web\"\nbalance = \"round-robin\"",
        urls.join(", ")
    ));
    sandbox.up(&site);
    let client = sandbox.https(&site);
    let both = || (0..4).map(|_| client.get("/").text()).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(both().len(), 2);
    well.store(false, Ordering::Relaxed);
    eventually("explain says why", LIMIT, || {
        sandbox
            .run(["explain", "instance", "shop/web"])
            .stdout()
            .contains("left out: GET /health was answered with 500")
    });
    assert_eq!(both().into_iter().collect::<Vec<_>>(), ["two"]);
    well.store(true, Ordering::Relaxed);
    eventually("it is back", LIMIT, || both().len() == 2);
}

/// A socket in the sandbox, and its URL.
fn on_socket(sandbox: &Sandbox, name: &str) -> (UnixListener, String) {
    let path = sandbox.folder().join(format!("{name}.sock"));
    let listener = UnixListener::bind(&path).unwrap();
    // The edge may run as a user of its own.
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    (listener, format!("\"unix:{}\"", path.display()))
}

/// Hangs up on whoever asks, unless it may answer.
fn hang_up(listener: UnixListener, answers: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _some = stream.read(&mut [0; 4096]);
            if answers.load(Ordering::Relaxed) {
                write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    .ok();
            }
        }
    });
}

#[test]
fn servers_that_refuse_or_hang_up_are_left_out_but_the_last_and_explain_says_why() {
    let sandbox = sandbox();
    let [(closed, one), (mute, two), (last, three)] =
        ["closed", "mute", "last"].map(|name| on_socket(&sandbox, name));
    let answers = Arc::new(AtomicBool::new(true));
    hang_up(mute, Arc::default());
    hang_up(last, Arc::clone(&answers));
    let site = Site::new("shop").more(&format!(
        "[service.web]\nupstreams = [{one}, {two}, {three}]\n\
         [[route]]\npaths = [\"/*\"]\nto = \"web\"\nbalance = \"round-robin\"\npassive = {{ failures = 2, within = \"10m\", for = \"10m\" }}"
    ));
    sandbox.up(&site);
    drop(closed);
    let client = sandbox.https(&site);
    let explained = || sandbox.run(["explain", "instance", "shop/web"]).stdout();
    eventually("both are left out", LIMIT, || {
        // Each request finds the one that answers, whom it meets first.
        assert_eq!([0; 6].map(|_| client.get("/").status), [200; 6]);
        let said = explained();
        said.contains("left out: it refused a connection")
            && said.contains("left out: answers did not come too often")
    });
    answers.store(false, Ordering::Relaxed);
    assert_eq!([0; 6].map(|_| client.get("/").status), [502; 6]);
    let said = explained();
    assert!(
        said.contains("2 of them left out") && said.contains("last.sock in rotation"),
        "{said}"
    );
    answers.store(true, Ordering::Relaxed);
    assert_eq!(client.get("/").status, 200);
}

/// Reads the PROXY header of each connection and answers with the address that it tells.
fn tell_the_announced(listener: TcpListener) {
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut header = [0; 28];
            if stream.read_exact(&mut header).is_err() || header[13] != 0x11 {
                continue;
            }
            let said = Ipv4Addr::new(header[16], header[17], header[18], header[19]).to_string();
            let _request = stream.read(&mut [0; 4096]);
            let length = said.len();
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{said}").ok();
        }
    });
}

#[test]
fn a_server_that_expects_proxy_headers_learns_each_clients_address() {
    let sandbox = sandbox();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    tell_the_announced(listener);
    let site = Site::new("shop").more(&format!(
        "[service.web]\nupstreams = [\"http://127.0.0.1:{port}\"]\nproxy_protocol = true\n\
         [[route]]\npaths = [\"/*\"]\nto = \"web\"\n"
    ));
    sandbox.up(&site);
    for last in [7, 8, 7] {
        let client = sandbox.https(&site).at(Ipv4Addr::new(127, 0, 0, last));
        assert_eq!(client.get("/").text(), format!("127.0.0.{last}"));
    }
}

#[test]
fn a_resolver_that_does_not_answer_holds_up_nothing_but_the_names_it_is_asked_for() {
    if !seaworthy_testkit::is_root("a resolver that does not answer") {
        return;
    }
    // It takes every question, and tells us of it; answers come when we say so.
    let [_, _, a, b] = (std::process::id() | 1).to_be_bytes();
    let address = format!("127.84.{a}.{b}");
    let resolver = std::net::UdpSocket::bind((address.as_str(), 53)).unwrap();
    let (answers, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (may, was) = (Arc::clone(&answers), Arc::clone(&asked));
    std::thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((length, from)) = resolver.recv_from(&mut question) {
            was.store(true, Ordering::Relaxed);
            let kind = question[length - 4..length - 2] == [0, 1];
            if may.load(Ordering::Relaxed) {
                let mut answer = question[..length].to_vec();
                (answer[2], answer[3]) = (0x81, 0x80);
                answer[7] = u8::from(kind);
                answer[10..12].fill(0);
                if kind {
                    answer.truncate(length);
                    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 127, 0, 0, 1]);
                }
                resolver.send_to(&answer, from).ok();
            }
        }
    });
    let config = format!("nameserver {address}\noptions timeout:2 attempts:5\n");
    let sandbox = sandbox().with_file("/etc/resolv.conf", &config);
    let page = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = page.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in page.incoming().flatten() {
            let mut request = [0; 4096];
            let _some = stream.read(&mut request);
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nfar!")
                .ok();
        }
    });
    let far = format!(
        "[service.far]\nupstreams = [\"http://far.sea.test:{port}\"]\n[[route]]\npaths = [\"/far\"]\nto = \"far\"\n"
    );
    let site = |level: &str| {
        let app = FakeApp::new().key(&format!("env = {{ LEVEL = \"{level}\" }}"));
        Site::new("shop").app("web", app).more(&far)
    };
    sandbox.up(&site("one"));
    assert!(asked.load(Ordering::Relaxed), "the resolver was asked");
    let before = sandbox.status().ready_pids("shop/web");
    // An instance that dies is replaced, and releases go on, while a question is open all the time.
    sandbox.kill_hard(before[0]);
    eventually("another instance", LIMIT, || {
        let now = sandbox.try_status().map(|status| status.ready_pids("shop/web"));
        now.is_some_and(|now| now.len() == 1 && now != before)
    });
    sandbox.up(&site("two"));
    let client = sandbox.https(&site("two"));
    assert_eq!(client.get("/env?name=LEVEL").json()["value"], "two");
    assert_eq!(client.get("/far").status, 503);
    answers.store(true, Ordering::Relaxed);
    eventually("the name is found", LIMIT, || client.get("/far").text() == "far!");
    // It is known to the next control, whatever the resolver says by then.
    answers.store(false, Ordering::Relaxed);
    let control = sandbox.status().control_pid();
    sandbox.kill_hard(control);
    eventually("the next control answers", LIMIT, || {
        sandbox.try_status().is_some_and(|status| status.control_pid() != control)
    });
    sandbox.up(&site("three"));
    assert_eq!(client.get("/far").text(), "far!");
}
