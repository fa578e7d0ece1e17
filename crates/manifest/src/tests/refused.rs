//! What the edge or the machine would refuse later is a problem of the manifest, with its place.

use super::*;

fn route(lines: &str) -> String {
    format!("{GOOD}[[route]]\npaths = [\"/*\"]\nto = \"web\"\n{lines}\n")
}

fn only_problem(text: &str) -> String {
    let found = messages(text);
    assert_eq!(found.len(), 1, "{text}\n{found:?}");
    found.into_iter().next().unwrap()
}

#[test]
fn header_rules_the_edge_refuses_are_told_at_their_name_or_value() {
    for name in [
        "Content-Length",
        "transfer-encoding",
        "Connection",
        "HOST",
        "te",
        "Upgrade",
        "expect",
        "keep-alive",
        "trailer",
        "proxy-connection",
    ] {
        for (rules, column) in [
            (format!("{{ set = {{ {name} = \"1\" }} }}"), 30),
            (format!("{{ add = {{ {name} = \"1\" }} }}"), 30),
            (format!("{{ remove = [\"{name}\"] }}"), 32),
        ] {
            let found = only_problem(&route(&format!("response_headers = {rules}")));
            assert!(
                found.starts_with(&format!("7:{column} `{name}` belongs to the edge")),
                "{found}"
            );
            only_problem(&route(&format!("request_headers = {rules}")));
        }
    }
    for rules in [
        "{ set = { \"bad header\" = \"1\" } }",
        "{ set = { \"\" = \"1\" } }",
        "{ remove = [\"a:b\"] }",
        "{ remove = [\"\"] }",
        "{ set = { X-A = \"a\\nb\" } }",
        "{ add = { X-A = \"a\\u0000b\" } }",
        "{ set = { X-A = \"\\u007f\" } }",
        "{ set = { X-A = \"1\", x-a = \"2\" } }",
    ] {
        only_problem(&route(&format!("response_headers = {rules}")));
    }
    assert_eq!(
        only_problem(&route("response_headers = { set = { X-A = \"a\\nb\" } }")),
        "7:36 the value of a header cannot be this long or hold control characters"
    );
    assert!(
        try_parse(&route("response_headers = { set = { X-A = \"ä\" }, remove = [\"Server\"] }"))
            .is_ok()
    );
}

#[test]
fn cache_rules_redirects_and_answers_are_checked() {
    for line in [
        "cache_control = { \"/*\" = \"max-age=1\\r\\nX: y\" }",
        "cache_control = { \"/*\" = \"\" }",
        "cache_control = { \"*.css\" = \"no-store\", \"assets/*\" = \"no-store\" }",
        "methods = [\"GE T\"]",
        "methods = [\"\"]",
    ] {
        only_problem(&route(line));
    }
    let action = |line: &str| format!("{GOOD}[[route]]\npaths = [\"/*\"]\n{line}\n");
    for line in [
        "redirect = \"javascript:alert(1)\"",
        "redirect = \"/a\\r\\nSet-Cookie: x\"",
        "redirect = { to = \"example.com\" }",
        "redirect = \"\"",
        // Whoever asks for `/evil.example/x` would be led there.
        "redirect = \"/$path\"",
        "redirect = \"https://$path\"",
        "redirect = \"//$path\"",
        "redirect = \"https:/$path\"",
        "redirect = \"//example.com/\"",
        "redirect = \"/\\\\example.com/\"",
        "respond = { status = 200, content_type = \"a\\nb\" }",
        "respond = { content_type = \"text\" }",
        "respond = { status = 101 }",
    ] {
        only_problem(&action(line));
    }
    for line in [
        "redirect = \"https://example.com$path$query\"",
        "redirect = \"$path\"",
        "redirect = \"/new$path$query\"",
        "respond = { body = \"a\\nb\" }",
    ] {
        assert!(try_parse(&action(line)).is_ok(), "{line}");
    }
    let files = "site = \"shop\"\n[service.web]\nstatic = \".\"\ncache_control = { \"/*\" = \"a\\u0001\" }\n";
    assert_eq!(only_problem(files), "4:26 this is no value of `Cache-Control`");
}

#[test]
fn a_host_stands_once_in_whatever_spelling_and_list() {
    let site = |lines: &str| {
        format!(
            "site = \"shop\"\n{lines}\n[tls]\nmode = \"internal\"\n[service.web]\nrun = \"x\"\n"
        )
    };
    for lines in [
        "domains = [\"a.example\", \"A.EXAMPLE\"]",
        "domains = [\"a.example\"]\nredirect_domains = [\"a.example\"]",
        "redirect_domains = [\"b.example\", \"b.example\"]",
        "domains = [\"::1\", \"[0:0::1]\"]",
        "domains = [\"*.a.example\", \"*.A.example\"]",
    ] {
        assert!(only_problem(&site(lines)).contains("stands twice, first in line"), "{lines}");
    }
    let wild = "domains = [\"*.a.example\", \"a.example\"]\nredirect_domains = [\"b.example\"]";
    assert!(only_problem(&site(wild)).contains("and that is a wildcard"));
    for host in [
        "[127.0.0.1]",
        "[::1",
        "*.127.0.0.1",
        "a.example.",
        "a.example:80",
        "",
        "*",
        "*.*.x",
        "a_b.example",
    ] {
        assert!(
            only_problem(&site(&format!("domains = [\"{host}\"]"))).contains("no host name"),
            "{host}"
        );
    }
    let parsed = try_parse(&site("domains = [\"::1\", \"A.example\", \"127.0.0.1\"]")).unwrap();
    assert_eq!(parsed.domains, ["[::1]", "a.example", "127.0.0.1"]);
}

#[test]
fn a_route_names_hosts_that_have_routes() {
    let site = |hosts: &str| {
        format!(
            "site = \"shop\"\ndomains = [\"shop.localhost\", \"*.a.localhost\"]\nredirect_domains = [\"old.a.localhost\"]\n[service.web]\nrun = \"x\"\n[[route]]\npaths = [\"/*\"]\nto = \"web\"\nhosts = [{hosts}]\n"
        )
    };
    assert!(try_parse(&site("\"b.a.localhost\", \"*.a.localhost\"")).is_ok());
    // The edge's wildcards stand for one label, and a redirecting host cannot also be served.
    assert!(only_problem(&site("\"c.b.a.localhost\"")).contains("none of the site's `domains`"));
    assert!(only_problem(&site("\"old.a.localhost\"")).contains("`redirect_domains`"));
    assert!(only_problem(&site("\"a b\"")).contains("no host name"));
    let bare = "site = \"shop\"\n[service.web]\nrun = \"x\"\n[[route]]\npaths = [\"/*\"]\nto = \"web\"\nhosts = [\"shop.localhost\"]\n";
    assert!(try_parse(bare).is_ok());
}

#[test]
fn http3_is_a_switch_and_nothing_without_tls() {
    let site = |listen: &str, mode: &str| {
        format!(
            "site = \"shop\"\n[listen]\nhttp3 = {listen}\n[tls]\nmode = \"{mode}\"\n[service.web]\nrun = \"x\"\n"
        )
    };
    assert!(try_parse(&site("true", "internal")).unwrap().listen.http3);
    assert!(!try_parse(&site("false", "off")).unwrap().listen.http3);
    assert!(only_problem(&site("true", "off")).contains("`tls.mode` is `off`"));
    only_problem(&site("\"yes\"", "internal"));
}

#[test]
fn networks_and_upstreams_are_checked_as_the_edge_reads_them() {
    for network in
        ["10.0.0.0/33", "10.0.0.0/+8", "10.0.0.0/", "::/129", "::ffff:10.0.0.0/95", "x", ""]
    {
        only_problem(&format!(
            "site = \"shop\"\n[listen]\ntrusted_proxies = [\"{network}\"]\n[service.web]\nrun = \"x\"\n"
        ));
    }
    for network in
        ["10.0.0.0/8", "fd00::/8", "192.0.2.1", "::ffff:10.0.0.0/104", "::/0", "0.0.0.0/0"]
    {
        let text = format!(
            "site = \"shop\"\n[listen]\ntrusted_proxies = [\"{network}\"]\n[service.web]\nrun = \"x\"\n"
        );
        assert!(try_parse(&text).is_ok(), "{network}");
    }
    for url in [
        "http://u:p@h",
        "http://h:0",
        "http://h:99999",
        "https://h",
        "http://h/x",
        "http://h:+80",
        "http://a b",
        "http://",
        "h2c://",
        "unix:app.sock",
    ] {
        only_problem(&format!("site = \"shop\"\n[service.web]\nupstreams = [\"{url}\"]\n"));
    }
    for url in [
        "http://127.0.0.1:9000",
        "http://[::1]:9000",
        "http://app_1:80/",
        "http://localhost",
        "h2c://localhost:50051",
        "unix:/run/app.sock",
    ] {
        assert!(
            try_parse(&format!("site = \"shop\"\n[service.web]\nupstreams = [\"{url}\"]\n"))
                .is_ok(),
            "{url}"
        );
    }
}

#[test]
fn a_proxy_header_goes_to_upstreams_of_http_1_only() {
    let service =
        |text: &str| format!("site = \"shop\"\n[service.web]\n{text}\nproxy_protocol = true\n");
    assert!(try_parse(&service("upstreams = [\"http://127.0.0.1:1\"]")).is_ok());
    for text in [
        "run = \"x\"",
        "upstreams = [\"h2c://127.0.0.1:1\"]",
        "upstreams = [\"http://127.0.0.1:1\"]\nprotocol = \"h2c\"",
    ] {
        assert!(only_problem(&service(text)).contains("a PROXY header goes"), "{text}");
    }
}

#[test]
fn what_a_probe_or_a_program_cannot_be_given_is_told() {
    let service = |line: &str| format!("site = \"shop\"\n[service.web]\nrun = \"x\"\n{line}\n");
    for line in [
        "health = { ready = { path = \"/\", headers = { X-A = \"a\\r\\nb\" } } }",
        "health = { ready = { path = \"/\", headers = { Host = \"a\" } } }",
        "health = \"/a\\u0001\"",
        "env = { A = \"a\\u0000\" }",
        "build = \"a \\u0000\"",
        "ports = { \"a:b\" = \"PORT\" }",
    ] {
        only_problem(&service(line));
    }
}
