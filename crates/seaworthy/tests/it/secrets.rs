//! `secrets`: values reach the application and nothing else.

use std::fs;

use seaworthy_testkit::{FakeApp, Site, eventually};

use crate::{LIMIT, sandbox, shop};

const VALUE: &str = "correct-horse-battery-staple";

fn needy() -> Site {
    Site::new("shop")
        .app("web", FakeApp::new().require_env("API_KEY").key("secrets = [\"API_KEY\"]"))
}

#[test]
fn a_value_from_a_file_reaches_the_application_and_stands_in_no_argument_log_or_state_file() {
    let sandbox = sandbox();
    let project = sandbox.write(&needy());
    let file = project.join(".env");
    fs::write(&file, format!("API_KEY={VALUE}\n")).unwrap();
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    sandbox.up(&needy()).never_says(VALUE);
    assert_eq!(sandbox.https(&shop()).get("/env?name=API_KEY").json()["value"], VALUE);
    sandbox.run(["status", "--json"]).never_says(VALUE);
    assert!(sandbox.processes().iter().all(|one| !one.command.contains(VALUE)));
    let mut open = vec![sandbox.state()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            } else if let Ok(bytes) = fs::read(entry.path()) {
                assert!(
                    !bytes.windows(VALUE.len()).any(|part| part == VALUE.as_bytes()),
                    "in {}",
                    entry.path().display()
                );
            }
        }
    }
}

#[test]
fn generated_values_are_kept_and_listed_without_being_shown() {
    let sandbox = sandbox();
    sandbox.write(&needy());
    sandbox.run(["secrets", "generate", "API_KEY", "--site", "shop"]).success();
    sandbox.run(["secrets", "list", "--site", "shop"]).success().says(["API_KEY"]);
    let value = sandbox
        .run(["secrets", "get", "API_KEY", "--site", "shop"])
        .success()
        .raw_stdout()
        .trim()
        .to_owned();
    assert!(value.len() >= 16);
    sandbox.run(["secrets", "list", "--site", "shop"]).never_says(&value);
    sandbox.up(&needy()).never_says(&value);
    eventually("the application has it", LIMIT, || {
        sandbox.https(&shop()).get("/env?name=API_KEY").json()["value"] == value.as_str()
    });
}

#[test]
fn a_file_that_others_can_read_is_reported() {
    let sandbox = sandbox();
    let project = sandbox.write(&needy());
    let file = project.join(".env");
    fs::write(&file, format!("API_KEY={VALUE}\n")).unwrap();
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    sandbox.up(&needy()).says(["SW-SEC-003"]).never_says(VALUE);
}

#[test]
fn the_journal_of_a_release_names_its_secrets_with_their_versions_and_never_a_value() {
    let sandbox = sandbox();
    let site = |text: &str| {
        let app = FakeApp::new().key("secrets = [\"API_KEY\", \"OTHER\"]");
        Site::new("shop").app("web", app).more("[deploy]\nwatch = false").file("text", text)
    };
    let project = sandbox.write(&site("one"));
    fs::write(project.join(".env"), format!("OTHER={VALUE}\n")).unwrap();
    fs::set_permissions(project.join(".env"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .unwrap();
    let versions = || {
        let said = sandbox.run(["releases", "shop", "--json"]);
        said.success().never_says(VALUE);
        said.json()["deployments"][0]["secrets"].clone()
    };
    for version in ["version 1", "version 2"] {
        let verb = if version == "version 1" { "generate" } else { "rotate" };
        sandbox.run(["secrets", verb, "API_KEY", "--site", "shop"]).success();
        sandbox.up(&site(version));
        let value = sandbox.run(["secrets", "get", "API_KEY", "--site", "shop"]);
        sandbox.run(["releases", "shop", "--json"]).never_says(value.raw_stdout().trim());
        assert_eq!(versions()["API_KEY"], format!("the vault, {version}"));
        assert!(versions()["OTHER"].as_str().unwrap().contains(".env"), "{}", versions());
    }
}
