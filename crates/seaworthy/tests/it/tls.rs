//! `[tls]` beside authorities: certificates from files, clients that have to show one, names in the handshake.

mod files;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;

use seaworthy_testkit::peers::{Place, free_port, make_certificate};
use seaworthy_testkit::tls::{KeyExchange, Version, negotiated};
use seaworthy_testkit::{Client, Sandbox, Site, eventually};

use crate::certificates::{examples, first};
use crate::{LIMIT, sandbox};

/// The serial number of what is served, by the list.
fn serial(sandbox: &Sandbox) -> String {
    first(sandbox)["serial"].as_str().unwrap().to_owned()
}

/// Asks the site with curl, which can show a certificate; status and body, or nothing when the handshake failed.
fn curl(sandbox: &Sandbox, port: u16, more: &[&str]) -> Option<String> {
    let resolve = format!("shop.localhost:{port}:127.0.0.1");
    let mut command = std::process::Command::new("curl");
    command.args(["-sS", "-w", "\n%{http_code}", "--resolve", &resolve, "--cacert"]);
    command.arg(sandbox.ca()).args(more).arg(format!("https://shop.localhost:{port}/headers"));
    let output = command.output().unwrap();
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn a_site_may_ask_its_clients_for_certificates_and_speak_the_newest_tls_only() {
    let (sandbox, made) = (sandbox(), Place::new());
    make_certificate(made.path());
    let (other, read) =
        (Place::new(), |name: &str| std::fs::read_to_string(made.path().join(name)).unwrap());
    make_certificate(other.path());
    let port = free_port();
    let site = |demand: &str| {
        let manifest = format!(
            "site = \"shop\"\ndomains = [\"shop.localhost\"]\n[listen]\nhttp = \"127.0.0.1:0\"\n\
             https = \"127.0.0.1:{port}\"\nhttp3 = true\n[tls]\n{demand}\n[service.web]\nrun = \"{{fakeapp}}\"\nhealth = \"/health\"\n"
        );
        Site::new("shop").manifest(&manifest).file("clients.pem", &read("root.pem"))
    };
    let of = |dir: &Path| ["api.pem", "api.key"].map(|name| dir.join(name).display().to_string());
    let ([cert, key], [foreign, foreign_key]) = (of(made.path()), of(other.path()));
    let shown = ["--cert", &cert, "--key", &key];
    let stranger = ["--cert", &foreign, "--key", &foreign_key];
    let by_http3 = |shown: Option<&Path>| {
        let (address, ca) = (sandbox.status().https(), sandbox.ca());
        let client = match shown {
            None => Client::over_http3(address, "shop.localhost", &ca),
            Some(of) => {
                let shown = (of.join("api.pem"), of.join("api.key"));
                let shown = (shown.0.as_path(), shown.1.as_path());
                Client::over_http3_showing(address, "shop.localhost", &ca, shown)
            }
        };
        let lie = [("x-client-verified", "1"), ("client-cert", ":AAAA:")];
        let answer = client.send("GET", "/headers", &lie, b"").ok()?;
        Some(format!("{} {}", answer.status, answer.text().to_ascii_lowercase()))
    };
    let lie = ["-H", "X-Client-Verified: 1", "-H", "Client-Cert: :AAAA:"];
    // Asked, not demanded: the application is told, and only the truth.
    sandbox.up(&site("clients = { ca = \"clients.pem\", require = false }"));
    let told = curl(&sandbox, port, &shown).unwrap().to_ascii_lowercase();
    assert!(told.contains("client-cert") && told.contains("x-client-verified"), "{told}");
    let told = curl(&sandbox, port, &lie).unwrap().to_ascii_lowercase();
    assert!(!told.contains(":aaaa:") && told.ends_with("200"), "{told}");
    assert_eq!(curl(&sandbox, port, &stranger), None, "a stranger's certificate");
    let told = by_http3(Some(made.path())).unwrap();
    assert!(told.starts_with("200") && told.contains("client-cert") && !told.contains(":aaaa:"));
    let told = by_http3(None).unwrap();
    assert!(told.starts_with("200") && !told.contains(":aaaa:"), "{told}");
    assert_eq!(by_http3(Some(other.path())), None, "a stranger's certificate over HTTP/3");
    // Demanded.
    sandbox.up(&site("min = \"1.3\"\nclients = { ca = \"clients.pem\" }"));
    assert!(curl(&sandbox, port, &shown).unwrap().ends_with("200"));
    assert_eq!(curl(&sandbox, port, &[]), None, "nobody without a certificate");
    assert!(by_http3(Some(made.path())).unwrap().starts_with("200"));
    assert_eq!(by_http3(None), None, "nobody without a certificate over HTTP/3");
    let old = [&shown[..], &["--tls-max", "1.2"]].concat();
    assert_eq!(curl(&sandbox, port, &old), None, "nobody with TLS 1.2");
    // Whoever names another server is not asked for one, and does not get in by the `Host` header either.
    let around = ["--connect-to", &format!("other.localhost:{port}:127.0.0.1:{port}"), "-k", "-H"];
    let mut command = std::process::Command::new("curl");
    command.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}"]).args(around);
    command.arg(format!("Host: shop.localhost:{port}"));
    let output = command.arg(format!("https://other.localhost:{port}/")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "421");
}

#[test]
fn files_that_change_are_served_at_once_and_those_that_cannot_be_are_said() {
    let sandbox = sandbox();
    let (one, other) = (Place::new(), Place::new());
    make_certificate(one.path());
    make_certificate(other.path());
    let text =
        |place: &Place, name: &str| std::fs::read_to_string(place.path().join(name)).unwrap();
    let example = examples().into_iter().find(|text| text.contains("fullchain.pem")).unwrap();
    let manifest = format!(
        "site = \"shop\"\ndomains = [\"localhost\"]\n{{listen}}{example}\n[service.web]\n\
         run = \"{{fakeapp}}\"\nhealth = \"/health\"\n"
    );
    let site = Site::new("shop").manifest(&manifest);
    let with = |place: &Place| {
        site.clone()
            .file("tls/fullchain.pem", &text(place, "api.pem"))
            .file("tls/key.pem", &text(place, "api.key"))
    };
    // A pair that does not belong together is refused before anything is changed.
    let mixed = with(&one).file("tls/key.pem", &text(&other, "api.key"));
    sandbox.try_up(&mixed).code(1).says(["SW-TLS-007", "the key belongs to another certificate"]);
    sandbox.up(&with(&one));
    let https = || sandbox.status().https();
    let trusts =
        |place: &Place| Client::https(https(), "localhost", &place.path().join("root.pem"));
    assert_eq!(trusts(&one).get("/").status, 200);
    let before = serial(&sandbox);
    // New files are served without a restart; half of a new pair is not.
    sandbox.write(&with(&one).file("tls/fullchain.pem", &text(&other, "api.pem")));
    sandbox.wait_for_fault("SW-TLS-007", LIMIT);
    assert_eq!(trusts(&one).get("/").status, 200);
    sandbox.write(&with(&other));
    eventually("the new pair is served", LIMIT, || {
        trusts(&other).send("GET", "/", &[], b"").is_ok_and(|answer| answer.status == 200)
    });
    assert_ne!(serial(&sandbox), before);
    eventually("nothing is wrong any more", LIMIT, || {
        sandbox.status().fault("SW-TLS-007").is_none()
    });
    // The last example is one that the test of client certificates runs, in its own words.
    let last = examples().into_iter().find(|text| text.contains("clients")).unwrap();
    let manifest = manifest.replace(example, last);
    sandbox.up(&Site::new("shop").manifest(&manifest).file("clients.pem", &text(&one, "root.pem")));
}

/// Asks for a page with openssl, which takes any text for a server name; all that it says.
fn openssl(sandbox: &Sandbox, name: &str, more: &[&str]) -> String {
    openssl_by_way_of(sandbox.status().https(), sandbox, name, more)
}

/// The same through somebody who listens there.
fn openssl_by_way_of(at: SocketAddr, sandbox: &Sandbox, name: &str, more: &[&str]) -> String {
    let mut command = std::process::Command::new("openssl");
    let address = at.to_string();
    command.args(["s_client", "-connect", &address, "-servername", name, "-ign_eof", "-msg"]);
    command.arg("-CAfile").arg(sandbox.ca()).args(more);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut client = command.spawn().unwrap();
    let asked = "GET / HTTP/1.1\r\nHost: shop.localhost\r\nConnection: close\r\n\r\n";
    client.stdin.take().unwrap().write_all(asked.as_bytes()).unwrap();
    let output = client.wait_with_output().unwrap();
    [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat()
}

#[test]
fn a_server_name_that_is_none_is_served_as_if_nobody_was_named() {
    let sandbox = sandbox();
    sandbox.up(&crate::shop());
    let kept = Place::new();
    let session = kept.path().join("session").display().to_string();
    let is_served = |said: &str| {
        said.contains("Verify return code: 0 (ok)") && said.contains("\nHTTP/1.1 200 OK")
    };
    let names =
        ["shop.localhost", "127.0.0.1", "shop.localhost:8443", "[::1]:8443", "shop localhost"];
    for (nth, name) in names.into_iter().enumerate() {
        // The last is one whose first choice of a key exchange we do not have: it is asked twice (RFC 8446 § 4.1.4).
        for (version, more, hellos) in [
            ("TLSv1.2", &["-tls1_2"][..], 1),
            ("TLSv1.3", &["-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384"], 1),
            ("TLSv1.3", &["-tls1_3", "-groups", "P-521:P-256"], 2),
        ] {
            let said = openssl(&sandbox, name, &[more, &["-sess_out", &session]].concat());
            assert!(is_served(&said), "{name}, {more:?}: {said}");
            assert_eq!(said.matches(", ClientHello").count(), hellos, "{said}");
            assert!(said.contains(&format!("New, {version}")), "{name}: {said}");
            let said = openssl(&sandbox, name, &[more, &["-sess_in", &session]].concat());
            assert!(is_served(&said), "{name}, {more:?}, again: {said}");
            assert_eq!(said.matches(", ClientHello").count(), hellos, "{said}");
            assert!(said.contains(&format!("Reused, {version}")), "{name}: {said}");
        }
        let counted = nth.saturating_sub(1) as u64 * 6;
        let status = sandbox.status();
        assert_eq!(status.document()["edge"]["misnamed"], counted, "{name}");
    }
    sandbox.run(["status"]).success().says(["18 TLS handshakes"]);
}

/// Somebody in between who sends each of a client's hellos on in records of so many bytes, one at a time, and
/// everything else as it is. Where he listens; serves one connection.
fn cutting(to: SocketAddr, size: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut server = TcpStream::connect(to).unwrap();
        server.set_nodelay(true).unwrap();
        let (mut answers, mut back) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        std::thread::spawn(move || {
            std::io::copy(&mut answers, &mut back).ok();
            back.shutdown(std::net::Shutdown::Both).ok();
        });
        let mut header = [0; 5];
        while client.read_exact(&mut header).is_ok() {
            let mut record = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
            client.read_exact(&mut record).unwrap();
            let length = record.len().saturating_sub(4) as u32;
            let is_hello = header[0] == 22
                && record.starts_with(&[1])
                && record.get(1..4) == Some(&length.to_be_bytes()[1..]);
            let pieces = record.chunks(if is_hello { size } else { record.len().max(1) });
            for piece in pieces {
                let length = (piece.len() as u16).to_be_bytes();
                let sent = [&header[..3], &length, piece].concat();
                if server.write_all(&sent).is_err() {
                    return;
                }
            }
        }
        server.shutdown(std::net::Shutdown::Write).ok();
    });
    at
}

#[test]
fn a_hello_in_as_many_records_as_it_has_bytes_is_read_like_one() {
    let sandbox = sandbox();
    sandbox.up(&crate::shop());
    let https = sandbox.status().https();
    let mut misnamed = 0;
    for name in ["shop.localhost", "shop.localhost:8443", "[::1]:8443"] {
        for (more, hellos) in
            [(&["-tls1_2"][..], 1), (&["-tls1_3"], 1), (&["-tls1_3", "-groups", "P-521:P-256"], 2)]
        {
            for size in [1, 3, 40] {
                let said = openssl_by_way_of(cutting(https, size), &sandbox, name, more);
                let is_served = said.contains("Verify return code: 0 (ok)")
                    && said.contains("\nHTTP/1.1 200 OK");
                assert!(is_served, "{name}, {more:?}, {size}: {said}");
                assert_eq!(said.matches(", ClientHello").count(), hellos, "{said}");
                misnamed += u64::from(name.contains(':'));
            }
        }
    }
    assert_eq!(sandbox.status().document()["edge"]["misnamed"], misnamed);
}

#[test]
fn a_client_comes_back_with_its_ticket_after_the_edge_died_or_was_replaced() {
    let sandbox = sandbox();
    sandbox.up(&crate::shop());
    let kept = Place::new();
    let before = |name: &str| kept.path().join(name).display().to_string();
    let versions = [("TLSv1.2", "-tls1_2"), ("TLSv1.3", "-tls1_3")];
    for (version, only) in versions {
        let said = openssl(&sandbox, "shop.localhost", &[only, "-sess_out", &before(version)]);
        assert!(said.contains(&format!("New, {version}")), "{said}");
    }
    let others = sandbox.status().edge_pid().unwrap();
    sandbox.kill_hard(others);
    eventually("another edge serves", LIMIT, || {
        sandbox.try_status().and_then(|status| status.edge_pid()).is_some_and(|pid| pid != others)
    });
    let come_back = |why: &str| {
        for (version, only) in versions {
            let said = openssl(&sandbox, "shop.localhost", &[only, "-sess_in", &before(version)]);
            assert!(said.contains(&format!("Reused, {version}")), "{why}: {said}");
            assert!(said.contains("\nHTTP/1.1 200 OK"), "{why}: {said}");
        }
    };
    come_back("after a death");
    sandbox.run(["restart", "edge"]).success();
    come_back("after another edge took over");
    // The same ticket is none for another name.
    let said = openssl(&sandbox, "other.localhost", &["-tls1_3", "-sess_in", &before("TLSv1.3")]);
    assert!(said.contains("New, TLSv1.3"), "{said}");
}

#[test]
fn a_key_exchange_that_outlives_quantum_computers_is_the_one_of_clients_that_have_it() {
    let sandbox = sandbox();
    sandbox.up(&crate::shop());
    let address = sandbox.status().https();
    let (hybrid, usual) = (KeyExchange::X25519MLKEM768, KeyExchange::X25519);
    for (has, chosen) in [
        (&[hybrid, usual][..], hybrid),
        (&[usual], usual),
        (&[KeyExchange::secp256r1], KeyExchange::secp256r1),
    ] {
        let found = negotiated(address, "shop.localhost", &sandbox.ca(), has);
        assert_eq!(found.unwrap(), (Version::TLSv1_3, chosen), "{has:?}");
    }
}

#[test]
fn no_handshake_begins_again_on_a_connection() {
    let sandbox = sandbox();
    sandbox.up(&crate::shop());
    let address = sandbox.status().https().to_string();
    let mut command = std::process::Command::new("openssl");
    command.args(["s_client", "-connect", &address, "-servername", "shop.localhost", "-tls1_2"]);
    command.arg("-CAfile").arg(sandbox.ca());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut client = command.spawn().unwrap();
    // The word for another handshake. The client ends when it is refused; its input stays open until then.
    let mut input = client.stdin.take().unwrap();
    input.write_all(b"R\n").unwrap();
    let output = client.wait_with_output().unwrap();
    drop(input);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("RENEGOTIATING") && said.contains("no renegotiation"), "{said}");
    assert_eq!(sandbox.https(&crate::shop()).get("/").status, 200);
}
