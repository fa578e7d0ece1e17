//! Whatever is wrong with a manifest, and wherever a secret stands in it, no report holds the secret.

use super::*;

/// The secret. Short pieces of it are no word of ours either.
const MARKER: &str = "hunter2Zq";

/// Places where people put secrets; `§` is the secret. Each is a run of whole lines of a service's table.
const PLACES: &[&str] = &[
    "env = { TOKEN = \"§\" }",
    "env = { A = \"x\", B = '§', C = 5 }",
    "env = { PIN = 5, \"§\" = 7 }",
    "env.TOKEN = \"§\"",
    "env.\"QUOTED KEY\" = \"a §\"",
    "\"env\".X = '''\n§\n  b§ = 5\n'''",
    "env.PEM = \"\"\"\n-----BEGIN\n§ = §\n[§]\nrun = §\n\"\"\"",
    "env = { A = \"secret:§\" }",
    "secrets = [\"§\"]",
    "secrets = [\"A\", { name = \"§\", as = \"file\" }]",
    "secrets = { A = \"§\" }",
    "run = \"server --password §\"",
    "run = \"server $§ | x\"",
    "run = { shell = \"X=§ server\" }",
    "build = [\"a\", \"curl -H §\", \"b $§\"]",
    "upstreams = [\"http://user:§@127.0.0.1:9000\"]",
    "upstreams = \"https://hooks.example/T0/§/x\"",
    "health = { ready = { path = \"/\", headers = { Authorization = \"Bearer §\" } } }",
    "health = { ready = { json = { a = \"§\", b = [\"§\"] } } }",
    "health = \"/ready?token=§\"",
    "database_url = \"postgres://u:§@h/db\"",
    "auth = { basic = \"§\" }",
    "password = \"§\"",
    "pasword = [[\"§\"], [{ a = \"§\" }]]",
    "# the old one was §",
    "dir = \"../x\" # §",
    "image = 5 # §",
    "token: §",
    "token = §",
    "token = \"§",
    "token = §\"",
    "token = '§",
    "token = \"\"\"§",
    "token = [\"§\", ",
    "token = { a = \"§\" b }",
    "token \"§\" = 1",
    "= \"§\"",
    "stop = { signal = \"A\", secret = \"§\" }",
    "dir = \"sftp://user:§@nas/x\"",
    "memory = 5 \"§\"",
];

/// The same for a route's table.
const ROUTE_PLACES: &[&str] = &[
    "request_headers = { set = { Authorization = \"Bearer §\" } }",
    "request_headers = { set = { \"bad header\" = \"§\" }, add = { X = 5, Y = \"§\" } }",
    "respond = { status = 999, body = \"§\" }",
    "redirect = \"https://u:§@x/\"",
    "redirect = { to = \"https://x/?t=§\", status = 300 }",
    "to = \"http://u:§@h:80\"",
    "auth = { basic = \"§\" }",
];

fn manifest(service: &str, route: &str, wrong: bool) -> String {
    let bad = if wrong { "memry = \"1G\"\ncpu = \"x\"\n" } else { "" };
    format!(
        "site = \"shop\"\n[service.web]\nrun = \"x\"\n{service}\n{bad}\n[[route]]\npaths = [\"/*\"]\nto = \"web\"\n{route}\n"
    )
    .replace('§', MARKER)
}

/// Every form in which a report leaves the crate.
fn told(text: &str) -> String {
    let Err(report) = try_parse(text) else { return String::new() };
    let json = serde_json::to_string(&report).unwrap();
    let fault = serde_json::to_string(&report.to_fault()).unwrap();
    format!("{}{}{json}{fault}{report:?}", report.render(false), report.render(true))
}

#[test]
fn a_secret_is_in_no_report_wherever_it_stands() {
    for wrong in [true, false] {
        for place in PLACES {
            let text = manifest(place, "", wrong);
            assert!(!told(&text).contains(MARKER), "{text}\n{}", told(&text));
        }
        for place in ROUTE_PLACES {
            let text = manifest("", place, wrong);
            assert!(!told(&text).contains(MARKER), "{text}\n{}", told(&text));
        }
    }
}

#[test]
fn a_line_with_a_secret_still_shows_its_keys() {
    let text = "site = \"shop\"\n[service.web]\nrun = \"x\"\nenv = { DATABASE_URL = 5, TOKEN = \"hunter2\" }\n";
    let shown = try_parse(text).unwrap_err().render(false);
    assert!(shown.contains("4 | env = { DATABASE_URL = …, TOKEN = … }\n"), "{shown}");
    assert!(shown.contains("\n  |                        ^\n"), "{shown}");
}

#[test]
fn harmless_values_are_shown_with_their_problem() {
    let text = "site = \"shop\"\n[service.web]\nrun = \"x\" # why\nmemory = \"12Q\" # why\n[service.api]\nrun = \"y\"\nhealth = \"x y\"\n";
    let shown = try_parse(text).unwrap_err().render(false);
    assert!(shown.contains("4 | memory = \"12Q\" …\n  |          ^^^^^\n"), "{shown}");
    assert!(shown.contains("7 | health = \"x y\"\n"), "{shown}");
}

#[test]
fn a_syntax_error_shows_the_grammar_and_no_value() {
    let text = "site = \"shop\"\n[service.web]\nrun = \"x\nmemory = \"12Q\"\n";
    let shown = try_parse(text).unwrap_err().render(false);
    assert!(shown.contains("3 | run = …\n"), "{shown}");
    assert!(shown.contains("4 | memory = …\n"), "{shown}");
    assert!(shown.contains("`…` is no size") || shown.contains("… is no size"), "{shown}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn a_secret_is_in_no_report_of_a_damaged_manifest(
        places in proptest::collection::vec(0..PLACES.len(), 1..4),
        route in 0..ROUTE_PLACES.len(),
        wrong: bool,
        damage in proptest::collection::vec((0.0..1.0f64, 0usize..4, 0usize..DAMAGE.len()), 0..4),
    ) {
        let service: Vec<&str> = places.iter().map(|at| PLACES[*at]).collect();
        let mut text = manifest(&service.join("\n"), ROUTE_PLACES[route], wrong);
        for (place, cut, insert) in damage {
            let mut at = (place * text.len() as f64) as usize;
            while !text.is_char_boundary(at) { at -= 1; }
            let mut end = (at + cut).min(text.len());
            while !text.is_char_boundary(end) { end += 1; }
            text.replace_range(at..end, DAMAGE[insert]);
        }
        // What is left whole of the secret must not be shown, nor most of a piece.
        let told = told(&text);
        for piece in ["hunter2", "nter2Zq"] {
            prop_assert!(!told.contains(piece), "{}\n{}", text, told);
        }
    }
}

const DAMAGE: &[&str] = &[
    "", "\"", "'", "\"\"\"", "'''", "\n", "[", "]", "{", "}", "=", ",", "#", ".", "\\", "\r", "\0",
    "é", "[[", "a = 1\n",
];
