//! `up`: a site behind HTTPS, and what a client gets there.

use std::time::Duration;

use seaworthy_testkit::load::{Kind, Load};
use seaworthy_testkit::{Client, FakeApp, Site, eventually};

use crate::{LIMIT, sandbox, shop};

#[test]
fn a_site_answers_over_https_that_the_printed_authority_vouches_for() {
    let sandbox = sandbox();
    let output = sandbox.up(&shop());
    let port = sandbox.status().https().port();
    output.says([format!("https://shop.localhost:{port}").as_str(), "ca.pem"]);
    let client = sandbox.https(&shop());
    let page = client.get("/");
    assert_eq!(page.status, 200);
    assert!(page.text().contains("<h1>fake application</h1>"));
    assert_eq!(client.get("/say?text=hello").text(), "hello");
    assert_eq!(client.get("/nothing-there").status, 404);
}

#[test]
fn every_protocol_works_at_once() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    let load = Load::new(sandbox.target(&shop()))
        .rate(Kind::KeepAlive, 40.0)
        .rate(Kind::NewConnection, 10.0)
        .rate(Kind::Http2, 40.0);
    let report = load.web_sockets(3).start(Duration::from_secs(2)).finish();
    report.assert_clean();
    assert!(
        report.requests.iter().all(|counts| counts.ok > 5) && report.web_sockets.echoes > 5,
        "{report}"
    );
}

#[test]
fn bodies_stream_in_both_directions_without_being_held_back() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    let client = sandbox.https(&shop());
    let mut events = client.open("GET", "/events?ms=20", &[], None).unwrap();
    assert_eq!(events.head().unwrap().header("content-type"), Some("text/event-stream"));
    let first = events.piece().unwrap().unwrap();
    assert!(
        String::from_utf8_lossy(&first).starts_with("id: 0\n"),
        "the stream has no end, yet its first event is here"
    );
    // The beginning of an upload is waited for: 16 KiB.
    let begun = vec![b'x'; 16 << 10];
    let mut upload = client.open("POST", "/echo", &[], Some(begun.len() + 4)).unwrap();
    upload.write(&begun).unwrap();
    assert_eq!(upload.head().unwrap().status, 200);
    let mut back = 0;
    while back < begun.len() {
        back += upload.piece().unwrap().unwrap().len();
    }
    assert_eq!(back, begun.len(), "the beginning comes back before the rest is sent");
    upload.write(b"rest").unwrap();
    assert_eq!(upload.piece().unwrap().unwrap(), b"rest");
    assert_eq!(upload.piece().unwrap(), None);
    assert_eq!(client.get("/slow-body?chunks=3&ms=1").text(), "drop 0\ndrop 1\ndrop 2\n");
    assert_eq!(client.get("/bytes?n=3000000").body.len(), 3_000_000);
}

#[test]
fn plain_http_is_redirected_with_host_path_and_query_kept() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    let port = sandbox.status().https().port();
    let answer = sandbox.http(&shop()).get("/a/b%20c?x=1&y=%26");
    assert!(matches!(answer.status, 301 | 308), "{answer:?}");
    assert_eq!(
        answer.header("location"),
        Some(format!("https://shop.localhost:{port}/a/b%20c?x=1&y=%26").as_str())
    );
}

#[test]
fn what_a_client_claims_about_itself_is_overwritten() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    let claims = [
        ("x-forwarded-for", "6.6.6.6"),
        ("x-forwarded-proto", "gopher"),
        ("x-forwarded-host", "evil.example"),
        ("x-real-ip", "6.6.6.6"),
        ("forwarded", "for=6.6.6.6"),
        ("cf-connecting-ip", "6.6.6.6"),
        ("true-client-ip", "6.6.6.6"),
    ];
    let seen = sandbox.https(&shop()).send("GET", "/headers", &claims, b"").unwrap().json();
    let port = sandbox.status().https().port();
    let header = |name: &str| seen["headers"][name].clone();
    assert_eq!(header("x-forwarded-for"), serde_json::json!(["127.0.0.1"]));
    assert_eq!(header("x-real-ip"), serde_json::json!(["127.0.0.1"]));
    assert_eq!(header("x-forwarded-proto"), serde_json::json!(["https"]));
    assert_eq!(header("x-forwarded-host"), serde_json::json!([format!("shop.localhost:{port}")]));
    for name in ["forwarded", "cf-connecting-ip", "true-client-ip"] {
        assert!(header(name).is_null(), "{name}: {seen}");
    }
}

#[test]
fn an_application_that_names_its_own_address_is_corrected() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    let status = sandbox.status();
    let instance = &status.instances("shop/web")[0];
    let inside = instance["listening"]
        .as_object()
        .unwrap()
        .values()
        .next()
        .unwrap()
        .as_str()
        .unwrap()
        .rsplit(':')
        .next()
        .unwrap()
        .to_owned();
    let client = sandbox.https(&shop());
    let location = |to: String| {
        client.get(&format!("/redirect?to={to}")).header("location").unwrap().to_owned()
    };
    let origin = format!("https://shop.localhost:{}", status.https().port());
    assert_eq!(
        location(format!("http://localhost:{inside}/login?a=b")),
        format!("{origin}/login?a=b")
    );
    assert_eq!(location("/relative".to_owned()), "/relative");
    assert_eq!(location("https://other.example/x".to_owned()), "https://other.example/x");
}

#[test]
fn an_unknown_host_gets_an_answer_that_says_nothing() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    let answer =
        sandbox.https(&shop()).send("GET", "/", &[("host", "other.localhost")], b"").unwrap();
    assert!(matches!(answer.status, 404 | 421), "{answer:?}");
    assert!(!answer.text().contains("fake application") && !answer.text().contains("shop"));
}

#[test]
fn requests_wait_while_the_only_instance_comes_back() {
    let sandbox = sandbox();
    sandbox.up(&Site::new("shop").app("web", FakeApp::new().slow_start("300ms")));
    let before = sandbox.status().ready_pids("shop/web");
    let client = sandbox.https(&shop());
    client.try_get("/crash").ok();
    assert_eq!(client.get("/say?text=waited").text(), "waited");
    assert_ne!(sandbox.wait_ready("shop/web", 1, LIMIT), before);
}

#[test]
fn unmodified_servers_that_insist_on_one_port_run_side_by_side() {
    let sandbox = sandbox();
    let app = FakeApp::new().port(8000).key("port = 8000").instances(2);
    sandbox.up(&Site::new("shop").app("web", app));
    let client = sandbox.https(&shop());
    let pid = || client.get("/instance").json()["pid"].as_u64();
    let first = pid();
    eventually("the other instance answers as well", LIMIT, || pid() != first);
}

#[test]
fn static_files_are_served_with_validators() {
    let sandbox = sandbox();
    let site = Site::new("shop")
        .more("[service.files]\nstatic = \"public\"\n[[route]]\npaths = [\"/*\"]\nto = \"files\"")
        .file("public/index.html", "<h1>static</h1>")
        .file("secret.txt", "no");
    sandbox.up(&site);
    let client = sandbox.https(&site);
    let page = client.get("/");
    assert_eq!((page.status, page.text().as_str()), (200, "<h1>static</h1>"));
    let etag = page.header("etag").unwrap().to_owned();
    assert_eq!(
        client.send("GET", "/", &[("if-none-match", etag.as_str())], b"").unwrap().status,
        304
    );
    for outside in ["/../secret.txt", "/%2e%2e/secret.txt", "/..%2fsecret.txt"] {
        assert!(!client.get(outside).text().contains("no"), "{outside}");
    }
}

#[test]
fn up_again_changes_nothing() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    let before = sandbox.status();
    sandbox.up(&shop());
    let after = sandbox.status();
    assert_eq!(after.ready_pids("shop/web"), before.ready_pids("shop/web"));
    assert_eq!(
        (after.control_pid(), after.edge_pid(), after.https()),
        (before.control_pid(), before.edge_pid(), before.https())
    );
}

#[test]
fn in_the_foreground_it_follows_the_logs_and_ctrl_c_stops_what_it_started() {
    let sandbox = sandbox();
    let project = sandbox.write(&shop());
    let mut up = sandbox.spawn([std::ffi::OsStr::new("up"), project.as_os_str()]);
    up.wait_for_text("https://shop.localhost", LIMIT);
    up.wait_for_text("fakeapp: listening", LIMIT);
    assert_eq!(sandbox.https(&shop()).get("/log?text=said-by-the-application").status, 200);
    up.wait_for_text("said-by-the-application", LIMIT);
    up.interrupt();
    let output = up.finish(LIMIT);
    assert!(matches!(output.exit_code(), Some(0 | 130)), "{output}");
    sandbox.wait_for_silence(LIMIT);
}

#[test]
fn two_sites_share_one_edge() {
    let sandbox = sandbox();
    let blog = Site::new("blog").app("web", FakeApp::new());
    sandbox.up(&shop());
    sandbox.up(&blog);
    let status = sandbox.status();
    for site in [shop(), blog] {
        let client = Client::https(status.https(), &site.host(), &sandbox.ca());
        assert_eq!(client.get("/say?text=here").text(), "here");
    }
}

#[test]
fn platforms_side_by_side_never_meet() {
    let (one, other) = (sandbox(), sandbox());
    one.up(&shop());
    other.up(&shop());
    assert_ne!(one.status().https(), other.status().https());
    other.run(["down", "--all"]).success();
    assert_eq!(one.https(&shop()).get("/").status, 200);
}
