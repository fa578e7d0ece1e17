//! Files that were made to hurt: each is answered at once, in a few screens of text.

use super::*;

/// As much as is read.
const SIZE: usize = 1 << 20;
/// 50 problems of a few lines each.
const MOST: usize = 64 << 10;

const HEAD: &str = "site = \"shop\"\n[service.web]\nrun = \"x\"\n";
const TO_WEB: &str = "[[route]]\npaths = [\"/*\"]\nto = \"web\"\n";

/// Lines made from their number until the file is full.
fn filled(head: &str, line: impl Fn(usize) -> String) -> String {
    let mut text = head.to_owned();
    for at in 0.. {
        let next = line(at);
        if text.len() + next.len() > SIZE - 64 {
            return text;
        }
        text.push_str(&next);
    }
    text
}

/// As many lines as are asked for, made from their number.
fn repeated(count: usize, line: impl Fn(usize) -> String) -> String {
    (0..count).fold(String::new(), |text, at| text + &line(at))
}

/// Names and texts; what a test says about one, it says with its name.
fn hostile() -> Vec<(&'static str, String)> {
    let most = SIZE - 200;
    let list = |at: usize| format!("\"/{at:x}*\",");
    vec![
        ("unknown keys", filled(HEAD, |at| format!("k{at} = 1\n"))),
        ("unknown keys at the top", filled("", |at| format!("k{at:x} = 1\n"))),
        ("keys close to ours", filled(HEAD, |at| format!("memor{at} = \"1G\"\n"))),
        ("long unknown keys", filled(HEAD, |at| format!("{}{at} = 1\n", "k".repeat(70)))),
        ("one unknown key", format!("{HEAD}{} = 1\n", "k".repeat(most))),
        ("one key again and again", filled(HEAD, |_| "cpu = 1\n".to_owned())),
        ("one table again and again", filled("", |_| "[a]\n".to_owned())),
        (
            "tables reopened",
            filled("", |at| format!("[{}a{}]\n", if at < 2000 { "x." } else { "" }, at % 2000)),
        ),
        (
            "one long line of keys",
            filled(HEAD, |at| format!("{}k{at} = 1", if at == 0 { "env = {" } else { ", " })),
        ),
        (
            "one long line of wrong values",
            filled(&format!("{HEAD}env = {{ a = 1"), |at| format!(", k{at} = 1")) + " }\n",
        ),
        ("one long string", format!("{HEAD}memory = \"{}\"\n", "x".repeat(most))),
        ("one long command", format!("{HEAD}build = \"{}\"\n", "$A | ".repeat(most / 5))),
        ("one long comment", format!("{HEAD}cpu = 99999 #{}\n", "x ".repeat(most / 2))),
        ("spaces", format!("{HEAD}cpu = 99999{}x\n", " ".repeat(most))),
        ("empty lines", format!("{HEAD}{}cpu = 99999\n", "\n".repeat(most))),
        ("lines that are none", filled(HEAD, |_| "]\n".to_owned() + "=\n")),
        ("quotes", format!("{HEAD}{}", "\"".repeat(most))),
        ("brackets", format!("{HEAD}cpu = {}", "[".repeat(most))),
        (
            "closed brackets",
            format!("{HEAD}cpu = {}{}", "[".repeat(most / 2), "]".repeat(most / 2)),
        ),
        ("inline tables", format!("{HEAD}cpu = {}", "{a=".repeat(most / 3))),
        ("dotted keys", format!("{HEAD}{}a = 1", "a.".repeat(most / 2))),
        ("dotted headers", format!("[{}a]\n", "a.".repeat(most / 2))),
        ("many deep keys", filled(HEAD, |at| format!("k{at}{} = 1\n", ".a".repeat(70)))),
        ("a list of lists", format!("{HEAD}after = [{}]\n", "[],".repeat(most / 3))),
        ("paths", filled(&format!("{HEAD}[[route]]\npaths = ["), list) + "]\nto = \"web\"\n"),
        (
            "routes",
            HEAD.to_owned() + &repeated(4000, |at| format!("[[route]]\npaths = [\"/{at}\"]\n")),
        ),
        (
            "routes with many paths",
            HEAD.to_owned()
                + &repeated(400, |at| {
                    format!(
                        "[[route]]\npaths = [{}]\n",
                        repeated(200, |n| format!("\"/{at}/{n}*\","))
                    )
                }),
        ),
        (
            "paths that nearly cover",
            HEAD.to_owned()
                + TO_WEB
                + &repeated(499, |at| {
                    format!(
                        "[[route]]\npaths = [\"/{}*{}b\", \"/{}*{}c{at}\"]\n",
                        "a".repeat(at),
                        "a".repeat(490 - at.min(489)),
                        "a".repeat(at),
                        "a".repeat(480 - at.min(479))
                    )
                }),
        ),
        (
            "hosts in routes",
            HEAD.to_owned()
                + &repeated(450, |at| {
                    format!(
                        "[[route]]\npaths = [\"/*\"]\nhosts = [{}]\nto = \"web\"\n",
                        repeated(99, |n| format!("\"h{at}.x{n}.localhost\","))
                    )
                }),
        ),
        (
            "domains",
            filled("domains = [", |at| format!("\"h{at}.localhost\","))
                + "]\n"
                + HEAD.trim_start_matches("site = \"shop\"\n"),
        ),
        ("one domain again", filled("domains = [", |_| "\"a.localhost\",".to_owned()) + "]\n"),
        (
            "headers that add up",
            HEAD.to_owned()
                + TO_WEB
                + &repeated(400, |at| {
                    format!(
                        "[[route]]\npaths = [\"/{}*\"]\nresponse_headers = {{ set = {{ X-{at} = \"1\" }} }}\n",
                        "a".repeat(at + 1)
                    )
                }),
        ),
        (
            "header rules",
            filled(&format!("{HEAD}{TO_WEB}response_headers = {{ remove = ["), |at| {
                format!("\"X-{at}\",")
            }) + "] }\n",
        ),
        (
            "cache rules",
            filled(&format!("{HEAD}{TO_WEB}cache_control = {{ a = 1"), |at| {
                format!(", \"/{at}\" = \"no-store\"")
            }) + " }\n",
        ),
        ("services", filled("", |at| format!("[service.s{at}]\nrun = \"x\"\n"))),
        (
            "services in one line",
            filled("service = { a = {}", |at| format!(", s{at} = {{}}")) + " }\n",
        ),
        (
            "services that wait",
            repeated(200, |at| {
                format!(
                    "[service.s{at}]\nrun = \"x\"\nafter = [{}]\n",
                    repeated(200, |n| format!("\"s{n}\","))
                )
            }),
        ),
        (
            "names that point nowhere",
            HEAD.to_owned()
                + &repeated(490, |at| {
                    format!("[[route]]\npaths = [\"/{at}\"]\nto = \"{}{at}\"\n", "w".repeat(36))
                }),
        ),
        (
            "environment",
            filled(&format!("{HEAD}env = {{ A = \"x\""), |at| format!(", A{at} = \"x\""))
                + " }\ncpu = 99999\n",
        ),
        (
            "one fixed answer for all",
            HEAD.to_owned()
                + &format!(
                    "[[route]]\npaths = [\"/*\"]\nrespond = {{ body = \"{}\" }}\n",
                    "x".repeat(900_000)
                )
                + &repeated(400, |at| format!("[[route]]\npaths = [\"/{at}\"]\n")),
        ),
        ("control characters", filled(HEAD, |at| format!("\"\\u001b[31m{at}\u{202e}\" = 1\n"))),
        ("letters of four bytes", format!("{HEAD}memory = \"{}", "🦀".repeat(most / 4))),
        ("carriage returns", format!("{HEAD}{}", "\r".repeat(most))),
    ]
}

#[test]
fn a_hostile_file_is_answered_with_a_few_screens() {
    for (name, text) in hostile() {
        assert!(text.len() <= SIZE, "{name}: {}", text.len());
        let report = match try_parse(&text) {
            Ok(site) => {
                // What the edge gets has its own limit, 64 MiB.
                assert!(serde_json::to_vec(&site).unwrap().len() < 32 << 20, "{name}");
                continue;
            }
            Err(report) => report,
        };
        for shown in [
            report.render(true),
            serde_json::to_string(&report).unwrap(),
            serde_json::to_string(&report.to_fault()).unwrap(),
        ] {
            assert!(shown.len() < MOST, "{name}: {} bytes\n{}", shown.len(), &shown[..2000]);
        }
        let plain = report.render(false);
        let unsafe_character = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!plain.contains(unsafe_character), "{name}");
        let widest = plain.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= 400, "{name}: {widest}");
        assert!(report.problems.len() <= 50 && report.total() >= report.problems.len());
    }
}

#[test]
fn what_is_not_listed_is_counted() {
    let text = filled(HEAD, |at| format!("k{at} = 1\n"));
    let report = try_parse(&text).unwrap_err();
    let lines = text.lines().count();
    assert_eq!(report.total(), lines - 3);
    let last = format!("… and {} more\n", lines - 3 - 50);
    assert!(report.render(false).trim_end().ends_with(last.trim_end()));
}

#[test]
fn limits_are_told_in_words() {
    let cases = [
        ("routes", "a site has 500 routes at most"),
        ("routes with many paths", "a site has 1000 paths in its routes at most"),
        ("paths", "this list has more than 1000 paths"),
        ("services in one line", "a site has 200 services at most"),
        ("domains", "this list has more than 100 host names"),
        ("header rules", "a site has 500 header rules in its routes at most"),
        ("one fixed answer for all", "a fixed answer has 16384 bytes at most"),
        ("services", "more than 5000 lines that begin with `[`"),
        ("brackets", "nested more than 80 deep"),
        ("dotted keys", "nested more than 80 deep"),
    ];
    let all: std::collections::BTreeMap<_, _> = hostile().into_iter().collect();
    for (name, words) in cases {
        let report = try_parse(&all[name]).unwrap_err();
        let found = report.problems.iter().any(|problem| problem.message.contains(words));
        assert!(found, "{name}: {:?}", report.problems.first());
    }
}

#[test]
fn a_long_line_is_cut_around_the_place() {
    let text = format!("{GOOD}env = {{ A = true, B = 5, C = true }}\n");
    assert!(try_parse(&text).unwrap_err().render(false).contains("env = { A = …, B = …, C = … }"));
    let keys = repeated(400, |at| format!("K{at} = {}, ", if at == 200 { "5" } else { "\"x\"" }));
    let text = format!("{GOOD}env = {{ {keys} Z = \"\" }}\n");
    let problem = try_parse(&text).unwrap_err().problems.remove(0);
    let source: Vec<char> = problem.source.unwrap().chars().collect();
    assert!(source.len() <= 110 && source[0] == '…' && *source.last().unwrap() == '…');
    let line: String = source.iter().collect();
    assert!(line.contains("K200 = …"), "{line}");
    assert_eq!(source[problem.caret as usize - 1], '…');
}

#[test]
fn what_is_no_text_is_said_with_the_place() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("seaworthy.toml");
    let message = || load(&file).unwrap_err().problems.remove(0).message;
    fs::write(&file, b"site = \"a\"\nx = \"\xff\"\n").unwrap();
    assert!(
        message().ends_with("is not text (UTF-8): byte 16, in line 2, belongs to no character"),
        "{}",
        message()
    );
    fs::write(&file, b"\x7fELF\0\0").unwrap();
    assert!(message().ends_with("is not text: byte 4 is NUL"), "{}", message());
    fs::write(&file, vec![b'#'; SIZE + 1]).unwrap();
    assert!(message().ends_with("is larger than 1 MiB: that is no manifest"), "{}", message());
    assert_eq!(load(Path::new("/dev/null")).unwrap_err().code, Code::ManifestUnreadable);
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert!(message().contains("no "), "{}", message());
}
