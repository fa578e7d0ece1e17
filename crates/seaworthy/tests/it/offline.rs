//! Verbs that need no control process: `init`, `schema`, `completions`, `cert trust`, help.

use std::ffi::OsStr;

use seaworthy_testkit::Site;

use crate::{sandbox, shop};

#[test]
fn init_writes_a_manifest_that_check_accepts() {
    let sandbox = sandbox();
    let project = sandbox.write(&Site::new("shop").file("index.html", "<h1>hello</h1>"));
    std::fs::remove_file(project.join("seaworthy.toml")).unwrap();
    sandbox.run([OsStr::new("init"), project.as_os_str()]).success();
    sandbox.run([OsStr::new("check"), "--manifest".as_ref(), project.as_os_str()]).success();
    let again = sandbox.run([OsStr::new("init"), project.as_os_str()]);
    again.code(1);
}

#[test]
fn the_schema_is_json_and_knows_the_keys() {
    let schema = sandbox().run(["schema"]).success().json();
    assert!(schema.to_string().contains("redirect_domains"));
}

#[test]
fn completions_come_for_the_usual_shells() {
    let sandbox = sandbox();
    for shell in ["bash", "zsh", "fish"] {
        sandbox.run(["completions", shell]).success().says(["seaworthy", "status"]);
    }
}

#[test]
fn the_way_to_trust_the_authority_is_printed() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    sandbox.run(["cert", "trust"]).success().says(["ca.pem"]);
}

#[test]
fn a_misspelt_verb_is_a_usage_error_with_a_suggestion() {
    sandbox().run(["statsu"]).code(2).says(["status"]);
}

#[test]
fn help_names_every_verb() {
    sandbox()
        .run(["--help"])
        .success()
        .says(["up", "down", "status", "logs", "restart", "plan", "check", "explain", "secrets"]);
}
