//! `check`: every problem at once, with its place, and never a value.

use std::ffi::OsStr;

use seaworthy_testkit::{Output, Sandbox, Site};

use crate::{sandbox, shop};

fn check(sandbox: &Sandbox, text: &str) -> Output {
    let project = sandbox.write(&Site::new("shop").manifest(text));
    sandbox.run([OsStr::new("check"), "--manifest".as_ref(), project.as_os_str()])
}

#[test]
fn a_good_manifest_passes() {
    let sandbox = sandbox();
    let project = sandbox.write(&shop());
    sandbox.run([OsStr::new("check"), "--manifest".as_ref(), project.as_os_str()]).success();
    let output = sandbox.run([OsStr::new("check"), project.as_os_str()]);
    output.success().says(["1 service, 1 route"]);
}

#[test]
fn three_mistakes_are_three_errors_with_their_places() {
    let sandbox = sandbox();
    let output = check(
        &sandbox,
        "site = \"shop\"\ndomainz = [\"shop.localhost\"]\n[service.web]\nrun = \"server\"\ninstances = \"many\"\nmemori = \"1G\"\n",
    );
    output.code(1).says([
        "SW-MAN-001",
        "seaworthy.toml:2:1",
        "seaworthy.toml:5:13",
        "seaworthy.toml:6:1",
        "domainz",
        "did you mean `domains`?",
        "did you mean `memory`?",
    ]);
    let all = format!("{}{}", output.raw_stdout(), output.raw_stderr());
    assert_eq!(all.matches(" --> ").count(), 3, "{output}");
}

#[test]
fn a_route_to_a_service_that_is_not_there_has_its_place_too() {
    let sandbox = sandbox();
    check(
        &sandbox,
        "site = \"shop\"\ndomains = [\"shop.localhost\"]\n[service.web]\nrun = \"server\"\n[[route]]\npaths = [\"/*\"]\nto = \"wbe\"\n",
    )
    .code(1)
    .says(["SW-MAN-001", "seaworthy.toml:", "`wbe`", "did you mean `web`?"]);
}

#[test]
fn what_is_no_manifest_is_refused_and_never_shown() {
    let sandbox = sandbox();
    check(&sandbox, "").code(1);
    check(&sandbox, &"x".repeat(10 << 20)).code(1).says(["SW-MAN-003"]).never_says("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx");
    check(&sandbox, "\u{0}\u{1}\u{2}").code(1);
    sandbox.run(["check", "--manifest", "/nowhere"]).code(1).says(["SW-MAN-002"]);
}

#[test]
fn a_bad_manifest_changes_nothing_that_runs() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    let before = sandbox.status().ready_pids("shop/web");
    sandbox
        .try_up(&Site::new("shop").manifest("site = \"shop\"\nnonsense = 1\n"))
        .code(1)
        .says(["SW-MAN-001", "nonsense"]);
    assert_eq!(sandbox.status().ready_pids("shop/web"), before);
    assert_eq!(sandbox.https(&shop()).get("/").status, 200);
}
