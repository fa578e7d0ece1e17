use std::fs;

use super::*;
use crate::site::{RouteAction, ServiceKind};
use proptest::prelude::*;
use seaworthy_base::Code;

mod backups;
mod health;
mod hostile;
mod inheritance;
mod outgoing;
mod policy;
mod refused;
mod secrets;
mod whole;

const GOOD: &str = "site = \"shop\"\n[service.web]\nrun = \"node server.js --port $PORT\"\n";

fn try_parse(text: &str) -> Result<Site, Report> {
    parse(text, Path::new("seaworthy.toml"), Path::new("/nowhere/shop"))
}

fn messages(text: &str) -> Vec<String> {
    try_parse(text)
        .unwrap_err()
        .problems
        .into_iter()
        .map(|problem| format!("{}:{} {}", problem.line, problem.column, problem.message))
        .collect()
}

#[test]
fn a_small_manifest_is_complete_by_its_defaults() {
    let site = try_parse(GOOD).unwrap();
    assert_eq!(site.domains, ["shop.localhost"]);
    assert_eq!(site.routes.len(), 1);
    assert!(
        matches!(&site.routes[0].action, RouteAction::Service { service, port: None } if service.as_str() == "web")
    );
}

#[test]
fn all_problems_are_reported_at_once_with_their_places() {
    let text = "site = \"Shop\"\ndomain = [\"a.localhost\"]\n[service.web]\nrun = \"x\"\nmemory = \"12Q\"\n[[route]]\npaths = [\"/*\"]\nto = \"web\"\nlimits = \"10/s\"\n";
    assert_eq!(
        messages(text),
        [
            "1:8 `Shop` is no name: 1 to 40 of `a-z`, `0-9` and `-`, a letter first",
            "2:1 unknown key `domain` in the manifest",
            "5:10 `12Q` is no size: write it like `64K`, `500M`, `1G`",
            "9:1 unknown key `limits` in `[[route]]`",
        ]
    );
    let shown = try_parse(text).unwrap_err().render(false);
    assert!(shown.contains("help: did you mean `domains`?"), "{shown}");
    assert!(shown.contains(" --> seaworthy.toml:2:1\n2 | domain = […]\n  | ^^^^^^\n"), "{shown}");
}

#[test]
fn names_must_point_at_something() {
    let text = "site = \"shop\"\n[service.web]\nrun = \"x\"\nafter = [\"b\"]\n[service.b]\nrun = \"x\"\nafter = [\"web\"]\n[[route]]\npaths = [\"/*\"]\nto = \"wep\"\n[[route]]\npaths = [\"/*\"]\nto = \"web:ws\"\n";
    let found = messages(text);
    assert!(found.iter().any(|line| line.contains("goes to `wep`")), "{found:?}");
    assert!(found.iter().any(|line| line.contains("has no port `ws`")), "{found:?}");
    assert!(found.iter().any(|line| line.contains("has a route already, in line 9")), "{found:?}");
    assert!(found.iter().any(|line| line.contains("circle: b → web → b")), "{found:?}");
}

#[test]
fn paths_stay_inside_and_domains_are_domains() {
    let text = "site = \"shop\"\ndomains = [\"https://x.localhost\", \"-a.localhost\", \"a b\"]\n[service.web]\ndir = \"../x\"\nstatic = \"/etc\"\n";
    assert_eq!(
        messages(text).iter().filter(|line| line.contains("leaves the project's folder")).count(),
        2
    );
    let text = "site = \"shop\"\ndomains = [\"https://x.localhost\", \"-a.localhost\", \"a b\"]\n[service.web]\nstatic = \".\"\n";
    assert_eq!(messages(text).iter().filter(|line| line.contains("is no host name")).count(), 3);
}

#[test]
fn commands_run_without_a_shell_and_say_so() {
    let found = messages("site = \"shop\"\n[service.web]\nrun = \"echo $HOME && x\"\n");
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        try_parse("site = \"shop\"\n[service.web]\nrun = { shell = \"echo $HOME && x\" }\n")
            .is_ok()
    );
}

#[test]
fn empty_binary_huge_and_missing_files_are_each_said_in_words() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(load(dir.path()).unwrap_err().code, Code::ManifestMissing);
    let file = dir.path().join("seaworthy.toml");
    for (bytes, code) in [
        (vec![0xff; 99], Code::ManifestUnreadable),
        (vec![b'#'; 10 << 20], Code::ManifestUnreadable),
        (Vec::new(), Code::ManifestInvalid),
    ] {
        fs::write(&file, bytes).unwrap();
        assert_eq!(load(dir.path()).unwrap_err().code, code);
    }
}

#[test]
fn routes_inherit_key_by_key_and_the_narrower_word_wins() {
    let text = "site = \"shop\"\n[service.web]\nrun = \"x\"\n[service.api]\nrun = \"y\"\n\
        [[route]]\npaths = [\"/*\"]\nto = \"web\"\nbody_limit = \"1M\"\nresponse_headers = { set = { X-A = \"1\", X-B = \"1\" } }\n\
        [[route]]\npaths = [\"/api/*\"]\nto = \"api\"\nresponse_headers = { set = { x-b = \"2\" } }\n\
        [[route]]\npaths = [\"/api/upload\"]\nbody_limit = false\nstream = true\n";
    let site = try_parse(text).unwrap();
    let paths: Vec<&str> = site.routes.iter().map(|route| route.path.as_str()).collect();
    assert_eq!(paths, ["/api/upload", "/api/*", "/*"]);
    let upload = &site.routes[0];
    assert!(
        matches!(&upload.action, RouteAction::Service { service, .. } if service.as_str() == "api")
    );
    assert_eq!((upload.settings.body_limit, upload.settings.idle), (None, None));
    assert_eq!(
        upload
            .settings
            .response_headers
            .set
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>(),
        ["x-a=1", "x-b=2"]
    );
    assert_eq!(site.routes[1].settings.body_limit.unwrap().0, 1 << 20);
}

#[test]
fn what_init_writes_is_read_without_a_problem() {
    let cases: [(&str, &str); 5] = [
        ("package.json", "{\"dependencies\":{\"next\":\"14\"},\"scripts\":{\"build\":\"x\"}}"),
        ("package.json", "{\"main\":\"a.js\"}"),
        ("requirements.txt", "fastapi\nuvicorn\n"),
        ("index.html", "<p>"),
        ("README", ""),
    ];
    for (file, content) in cases {
        let dir = tempfile::Builder::new().prefix("project").tempdir().unwrap();
        fs::write(dir.path().join(file), content).unwrap();
        let text = format!("site = \"x\"\n{}", init(dir.path()).unwrap().text);
        let site = parse(&text, Path::new("seaworthy.toml"), dir.path());
        assert!(site.is_ok(), "{text}\n{}", site.unwrap_err().render(false));
    }
}

#[test]
fn every_key_of_the_five_guides_is_known_or_planned() {
    for guide in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guides")).unwrap() {
        let text = fs::read_to_string(guide.unwrap().path()).unwrap();
        let report = try_parse(&text).unwrap_err();
        for problem in &report.problems {
            let expected = problem.message.contains("planned:");
            assert!(expected, "{}", report.render(false));
        }
    }
}

#[test]
fn fixed_ports_and_secrets_are_read() {
    let site = try_parse("site = \"shop\"\n[service.web]\nrun = \"x\"\nport = 8000\nsecrets = [\"A\", { name = \"B\", as = \"file\" }]\nenv = { C = \"secret:D\" }\n").unwrap();
    let service = site.services.values().next().unwrap();
    assert!(
        matches!(&service.kind, ServiceKind::Process(process) if process.port == site::PortUse::Fixed(8000))
    );
    assert!(service.secrets[1].as_file);
}

#[test]
fn a_socket_is_a_name_in_the_instances_own_folder() {
    let service = |lines: &str| format!("site = \"shop\"\n[service.web]\nrun = \"x\"\n{lines}\n");
    let port = |lines: &str| {
        let site = try_parse(&service(lines)).unwrap();
        let service = site.services.into_values().next().unwrap();
        let ServiceKind::Process(process) = service.kind else { panic!("{lines}") };
        process.port
    };
    assert_eq!(port("socket = true"), site::PortUse::Socket("sock".to_owned()));
    assert_eq!(port("socket = \"tmp/a.sock\""), site::PortUse::Socket("tmp/a.sock".to_owned()));
    assert_eq!(port("socket = false\nport = 80"), site::PortUse::Fixed(80));
    for (line, told) in [
        ("socket = \"/run/app.sock\"", "one socket for all instances"),
        ("socket = \"../app.sock\"", "is no name of a file below"),
        ("socket = \"tmp/\"", "is no name of a file below"),
        ("socket = \"\"", "is no name of a file below"),
        ("socket = \"a\\nb\"", "is no name of a file below"),
        ("socket = 1", "`socket` is `true`, or the name"),
        ("socket = true\nport = 80", "`socket` and `port` exclude each other"),
        ("socket = true\nports = { http = \"P\" }", "`socket` and `ports` exclude each other"),
    ] {
        let report = try_parse(&service(line)).unwrap_err();
        assert_eq!(report.problems.len(), 1, "{line}: {}", report.render(false));
        assert!(report.problems[0].message.contains(told), "{line}: {}", report.render(false));
    }
    let long = service(&format!("socket = \"{}\"", "a".repeat(65)));
    assert!(try_parse(&long).unwrap_err().problems[0].message.contains("65 bytes, more than 64"));
    let theirs = "site = \"shop\"\n[service.web]\nupstreams = [\"unix:/a\"]\nsocket = true\n";
    let report = try_parse(theirs).unwrap_err();
    assert!(report.problems[0].message.contains("a program that we start"));
    // What it has no port for cannot be asked for; the socket is there to be named.
    let command = |word: &str| {
        try_parse(&format!("site = \"shop\"\n[service.web]\nrun = \"x {word}\"\nsocket = true\n"))
    };
    assert!(command("--bind unix:$SOCKET --dir $RUNTIME_DIRECTORY").is_ok());
    assert!(command("--port $PORT").is_err());
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "(\\PC|\n){0,200}") {
        let _ = try_parse(&text).map_err(|report| report.render(true));
    }

    #[test]
    fn a_damaged_manifest_is_read_or_reported(at in 0usize..2000, cut in 0usize..40) {
        let good = include_str!("../tests/guides/finia.toml");
        let mut bytes = good.as_bytes().to_vec();
        let at = at.min(bytes.len());
        let end = (at + cut).min(bytes.len());
        bytes.drain(at..end);
        if let Ok(text) = String::from_utf8(bytes) {
            let _ = try_parse(&text).map_err(|report| report.render(false));
        }
    }
}
