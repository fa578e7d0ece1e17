//! What is wrong is named: cause, evidence and the next command.

use seaworthy_testkit::{Platform, eventually};

/// Starts a site that does not come up and waits until `status` says all of `words`.
fn says(platform: &Platform, words: &[&str]) {
    platform.try_up();
    let mut shown = String::new();
    eventually(&format!("status says {words:?}"), || {
        shown = platform.shown();
        words.iter().all(|word| shown.contains(word))
    });
    assert!(shown.contains("hint:"), "{shown}");
}

#[test]
fn a_wrong_port_is_named() {
    says(
        &super::site("env = { WANT = \"29997\" }"),
        &["SW-RUN-007", "29997 instead of", "let it listen on $PORT"],
    );
}

#[test]
fn another_address_is_named() {
    says(
        &super::site("env = { BIND = \"0.0.0.0\" }"),
        &["SW-RUN-008", "it can be reached past the edge"],
    );
}

#[test]
fn a_missing_program_is_named() {
    let platform = super::site("");
    let file = platform.project().join("seaworthy.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(file, text.replace("python3 server.py", "no-such-program-here")).unwrap();
    says(&platform, &["no-such-program-here", "not in PATH"]);
}

#[test]
fn a_missing_environment_variable_is_named() {
    let platform = super::site("");
    platform.file("server.py", "import os\nos.environ['API_TOKEN']\n");
    says(&platform, &["environment variable `API_TOKEN` is not set", "KeyError"]);
}

#[test]
fn out_of_memory_is_named() {
    let platform = super::site("memory = \"40M\"");
    platform.file("server.py", "data = []\nwhile True: data.append(bytearray(1 << 20))\n");
    says(&platform, &["out of memory"]);
}

#[test]
fn a_missing_secret_stops_the_start_with_a_list() {
    let platform = super::site("secrets = [\"DATABASE_URL\", \"API_KEY\"]");
    let output = platform.try_up();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("SW-SEC-001")
            && said.contains("DATABASE_URL")
            && said.contains("API_KEY")
            && said.contains("seaworthy secrets set"),
        "{said}"
    );
}

#[test]
fn three_mistakes_in_a_manifest_are_shown_at_once() {
    let platform = super::site("memori = \"1G\"\ncpu = \"two\"\nuser = 5");
    let output = platform.run(&["check", "--manifest", "project"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), said.matches("error:").count()), (Some(1), 3), "{said}");
    assert!(said.contains("did you mean `memory`?"), "{said}");
}
