//! `deploy` and `rollback`: nothing dropped, nothing half done, nothing silent.

use std::time::Duration;

use seaworthy_testkit::load::Load;
use seaworthy_testkit::{FakeApp, Output, Sandbox, Site, eventually, eventually_some};

use crate::{LIMIT, sandbox, shop};

/// A watch and canary steps that a test can wait for.
const QUICK: &str =
    "watch = { for = \"1s\" }\ncanary = { steps = [\"20%\", \"60%\"], for = \"300ms\" }";

/// A release whose application knows its level.
fn level(level: &str, deploy: &str) -> Site {
    let web = FakeApp::new().instances(2).key(&format!("env = {{ LEVEL = \"{level}\" }}"));
    with(web, deploy)
}

fn with(web: FakeApp, deploy: &str) -> Site {
    Site::new("shop").app("web", web).more(&format!("[deploy]\n{QUICK}\n{deploy}"))
}

fn deploy(sandbox: &Sandbox, site: &Site, options: &[&str]) -> Output {
    let project = sandbox.write(site);
    let mut words = vec!["deploy".into(), project.into_os_string()];
    words.extend(options.iter().map(Into::into));
    sandbox.run(words)
}

fn served(sandbox: &Sandbox) -> String {
    let answer = sandbox.https(&shop()).get("/env?name=LEVEL").json();
    answer["value"].as_str().unwrap_or_default().to_owned()
}

fn releases(sandbox: &Sandbox) -> serde_json::Value {
    serde_json::from_str(sandbox.run(["releases", "shop", "--json"]).success().raw_stdout())
        .unwrap()
}

#[test]
fn every_strategy_and_the_way_back_replace_a_release_under_load_without_a_lost_request() {
    let sandbox = sandbox();
    sandbox.up(&level("zero", ""));
    let running = Load::new(sandbox.target(&shop())).mixed(60.0).start(Duration::from_secs(180));
    eventually("load flows", LIMIT, || running.so_far().ok() > 20);
    for strategy in ["rolling", "blue-green", "canary", "recreate"] {
        let before = sandbox.status().ready_pids("shop/web");
        deploy(&sandbox, &level(strategy, ""), &["--strategy", strategy]).success();
        assert_eq!(served(&sandbox), strategy);
        let after = sandbox.wait_ready("shop/web", 2, LIMIT);
        assert!(after.iter().all(|pid| !before.contains(pid)), "{strategy}");
    }
    sandbox.run(["rollback", "shop"]).success();
    assert_eq!(served(&sandbox), "canary");
    let answered = running.so_far().ok();
    eventually("load goes on", LIMIT, || running.so_far().ok() > answered + 30);
    running.stop().assert_clean();
    let found = releases(&sandbox);
    let states: Vec<&str> = found["deployments"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["state"].as_str().unwrap())
        .collect();
    assert_eq!(states, ["live"; 6], "{found:#}");
    assert_eq!(found["deployments"][0]["verb"], "rollback");
}

#[test]
fn one_that_is_broken_behind_its_route_or_never_ready_changes_nothing() {
    let sandbox = sandbox();
    sandbox.up(&level("old", ""));
    let before = sandbox.status().ready_pids("shop/web");
    let running = Load::new(sandbox.target(&shop())).mixed(40.0).start(Duration::from_secs(120));
    eventually("load flows", LIMIT, || running.so_far().ok() > 20);
    let broken = with(FakeApp::new().broken_after(0), "");
    let refused = deploy(&sandbox, &broken, &[]);
    refused.code(1).says(["SW-REL-004", "the answer was 500", "broken as asked"]);
    deploy(&sandbox, &with(FakeApp::new().crash_loop(), ""), &["--strategy", "blue-green"]).code(1);
    let smoke = "smoke = [{ get = \"/say?text=hello\", body = \"bye\" }]";
    deploy(&sandbox, &with(FakeApp::new(), smoke), &[]).code(1).says(["SW-REL-004", "`bye`"]);
    running.stop().assert_clean();
    assert_eq!(served(&sandbox), "old");
    assert_eq!(sandbox.wait_ready("shop/web", 2, LIMIT), before);
    eventually("nothing of the new ones is left", LIMIT, || {
        sandbox.status().instances("shop/web").len() == 2
    });
    assert_eq!(sandbox.status().site("shop")["rollout"], serde_json::Value::Null);
    sandbox.wait_for_fault("SW-REL-004", LIMIT);
}

#[test]
fn one_that_fails_after_the_switch_is_taken_back_to_the_instances_that_were_kept_warm() {
    let sandbox = sandbox();
    sandbox.up(&level("old", ""));
    let before = sandbox.status().ready_pids("shop/web");
    let running = Load::new(sandbox.target(&shop())).mixed(80.0).start(Duration::from_secs(120));
    eventually("load flows", LIMIT, || running.so_far().ok() > 60);
    let web = FakeApp::new().instances(2).broken_after(25);
    let site = Site::new("shop").app("web", web).more("[deploy]\nwatch = { for = \"60s\" }");
    deploy(&sandbox, &site, &["--strategy", "blue-green"])
        .code(1)
        .says(["SW-REL-005", "failed (before: 0.0 %"]);
    running.stop();
    assert_eq!(served(&sandbox), "old");
    assert_eq!(sandbox.wait_ready("shop/web", 2, LIMIT), before, "nothing was started for it");
    let last = &releases(&sandbox)["deployments"][0];
    assert_eq!(
        (&last["state"], &last["fault"]["code"]),
        (&"taken back".into(), &"SW-REL-005".into())
    );
}

#[test]
fn a_paused_one_can_be_looked_at_and_others_wait_until_it_is_promoted_or_aborted() {
    let sandbox = sandbox();
    sandbox.up(&level("old", ""));
    let project = sandbox.write(&level("new", ""));
    let pause = |sandbox: &Sandbox| {
        sandbox.spawn([
            "deploy".as_ref(),
            project.as_os_str(),
            "--pause".as_ref(),
            "--strategy".as_ref(),
            "blue-green".as_ref(),
        ])
    };
    let preview = |sandbox: &Sandbox| {
        eventually_some("it is paused", LIMIT, || {
            let releases = sandbox.run(["releases", "shop", "--json"]);
            let found: serde_json::Value = serde_json::from_str(releases.raw_stdout()).ok()?;
            let paused = found["deployments"][0]["state"] == "pause";
            let status = sandbox.try_status().filter(|_| paused)?;
            Some(status.site("shop")["rollout"]["preview"].as_str()?.to_owned())
        })
    };
    let first = pause(&sandbox);
    let address = preview(&sandbox);
    assert_eq!(served(&sandbox), "old");
    let key = address.rsplit('/').next().unwrap().to_owned();
    let client = sandbox.https(&shop());
    let seen = client.send("GET", "/env?name=LEVEL", &[("seaworthy-release", &key)], b"").unwrap();
    assert_eq!(seen.json()["value"], "new");
    let second = sandbox.run(["deploy".as_ref(), project.as_os_str(), "--no-wait".as_ref()]);
    second.code(1).says(["SW-REL-007", "is deploying `shop`"]);
    sandbox.run(["abort", "shop"]).success();
    first.finish(LIMIT).code(1).says(["SW-REL-006"]);
    assert_eq!(served(&sandbox), "old");
    let again = pause(&sandbox);
    preview(&sandbox);
    // Who does not mind waits, is told for whom, and goes on from what the other one came to.
    let mut patient =
        sandbox.spawn(["deploy".as_ref(), project.as_os_str(), "--no-watch".as_ref()]);
    patient.wait_for_text("is deploying `shop`", LIMIT);
    sandbox.run(["promote", "shop"]).success();
    again.finish(LIMIT).success();
    assert_eq!(served(&sandbox), "new");
    patient.finish(LIMIT).success();
    assert_eq!(served(&sandbox), "new");
    sandbox.run(["promote", "shop"]).code(1).says(["no deployment of `shop` goes on"]);
}

#[test]
fn a_plan_says_what_will_happen_and_changes_nothing() {
    let sandbox = sandbox();
    sandbox.up(&level("old", ""));
    let changed = Site::new("shop")
        .app("web", FakeApp::new().instances(2).key("migrate = \"true\""))
        .more("[deploy]\nstrategy = \"blue-green\"\nsmoke = [{ get = \"/say?text=x\" }]");
    let said = deploy(&sandbox, &changed, &["--plan"]);
    said.success().says([
        "~ service web",
        "blue-green",
        "web: true",
        "only the code can go back",
        "/say?text=x",
        "30s",
    ]);
    assert_eq!(served(&sandbox), "old");
}

#[test]
fn a_git_reference_or_an_archive_is_deployed_and_what_is_none_is_named() {
    let sandbox = sandbox();
    sandbox.up(&level("zero", ""));
    let project = sandbox.write(&level("committed", ""));
    let shell = |line: &str| {
        let status =
            std::process::Command::new("sh").arg("-c").arg(line).current_dir(&project).status();
        assert!(status.unwrap().success(), "{line}");
    };
    shell(
        "git init -q -b main . && git add -A && git -c user.name=a -c user.email=a@b commit -qm one",
    );
    sandbox.write(&level("only in the folder", ""));
    let with = |options: &[&str]| {
        let mut words = vec!["deploy".into(), project.clone().into_os_string()];
        words.extend(options.iter().map(Into::into));
        sandbox.run(words)
    };
    with(&["--git", "main", "--no-watch"]).success();
    assert_eq!(served(&sandbox), "committed");
    with(&["--git", "mian"]).code(1).says(["SW-REL-010", "`mian`", "there are: main"]);
    with(&["--git=--output=/tmp/x"]).code(1).says(["SW-REL-010"]);
    shell("tar cf ../archive.tar . && printf 'no archive' > ../broken.tar");
    shell("tar cPf ../out.tar ../broken.tar && ln -s /etc/passwd leak && tar cf ../leak.tar leak");
    shell("head -c 2000 ../archive.tar > ../cut.tar && tar cf ../empty.tar -T /dev/null");
    let archive = |name: &str| {
        let line = format!(
            "{} deploy --stdin --no-watch < {}",
            sandbox.folder().join("bin/seaworthy").display(),
            project.parent().unwrap().join(name).display()
        );
        let mut command = std::process::Command::new("sh");
        command.arg("-c").arg(line).env("SEAWORTHY_STATE", sandbox.state());
        command.env("SEAWORTHY_RUN", sandbox.folder().join("run")).output().unwrap()
    };
    assert!(archive("archive.tar").status.success());
    assert_eq!(served(&sandbox), "only in the folder");
    for (name, cause) in [
        ("broken.tar", "cut off"),
        ("cut.tar", "cut off"),
        ("empty.tar", "there is nothing in it"),
        ("out.tar", "`../broken.tar` leads out of the archive"),
        ("leak.tar", "is a link that leads out of the archive: `/etc/passwd`"),
    ] {
        let refused = archive(name);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains("SW-REL-010"), "{name}: {said}");
        assert!(said.contains(cause) && said.contains("git archive HEAD |"), "{name}: {said}");
    }
    assert_eq!(served(&sandbox), "only in the folder");
    assert_eq!(std::fs::read_dir(sandbox.state().join("incoming")).unwrap().count(), 0);
}

#[test]
fn one_that_waits_for_another_and_is_given_up_never_begins() {
    let sandbox = sandbox();
    sandbox.up(&level("old", ""));
    let project = sandbox.write(&level("first", ""));
    let deploy = ["deploy".as_ref(), project.as_os_str(), "--no-watch".as_ref()];
    let mut paused = sandbox.spawn([&deploy[..], &["--pause".as_ref()]].concat());
    paused.wait_for_text("paused: seaworthy promote", LIMIT);
    sandbox.write(&level("second", ""));
    let mut second = sandbox.spawn(deploy);
    second.wait_for_text("waiting: ", LIMIT);
    second.interrupt();
    second.finish(LIMIT).code(130).says(["nothing was begun, and nothing will be"]);
    sandbox.run(["promote", "shop"]).success();
    paused.finish(LIMIT).success();
    assert_eq!(served(&sandbox), "first");
    // The next one is the second of all: whoever gave up is not in the journal, and holds nobody up.
    let words = ["deploy".as_ref(), project.as_os_str(), "--no-wait".as_ref()];
    sandbox.run(words).success();
    assert_eq!(served(&sandbox), "second");
    assert_eq!(releases(&sandbox)["deployments"].as_array().unwrap().len(), 3);
}

#[test]
fn a_plan_says_how_services_are_replaced_and_that_nothing_is_migrated() {
    let sandbox = sandbox();
    sandbox.up(&level("old", ""));
    let words = |plan: &str| ["rollback", "shop", plan].map(str::to_owned);
    sandbox.run(words("--plan")).code(1).says(["no earlier release", "seaworthy releases"]);
    let project = sandbox.write(&level("new", ""));
    let plan = |strategy: &str| {
        let strategy = ["--plan".as_ref(), "--strategy".as_ref(), strategy.as_ref()];
        sandbox.run([&["deploy".as_ref(), project.as_os_str()][..], &strategy].concat())
    };
    plan("rolling").success().says(["replaced one by one", "how            rolling"]);
    plan("blue-green").success().says(["replaced all at once", "migration      none"]);
    plan("canary").success().says(["a growing share of the visitors"]);
    plan("recreate").success().says([
        "ended, then started anew",
        "requests       wait",
        ", about 0.",
    ]);
    assert_eq!(served(&sandbox), "old");
    let first = Site::new("blog").app("web", FakeApp::new());
    let other = sandbox.write(&first);
    let said = sandbox.run(["deploy".as_ref(), other.as_os_str(), "--plan".as_ref()]);
    said.success().says(["how            first start", "there is nothing to go back to"]);
    said.never_says("watched");
    deploy(&sandbox, &level("new", ""), &["--no-watch"]).success();
    sandbox.run(words("--plan")).success().says(["back to        r1-"]);
}

#[test]
fn going_back_behind_a_migration_needs_a_word_and_a_named_release_is_found_by_its_number() {
    let sandbox = sandbox();
    let migrating = |name: &str| {
        let web =
            FakeApp::new().key(&format!("env = {{ LEVEL = \"{name}\" }}\nmigrate = \"true\""));
        Site::new("shop").app("web", web).file("level", name)
    };
    sandbox.up(&migrating("one"));
    deploy(&sandbox, &migrating("two"), &["--no-watch"]).success();
    sandbox.run(["rollback", "shop"]).code(1).says(["SW-REL-009", "--keep-schema"]);
    sandbox.run(["rollback", "shop", "--to", "r1", "--keep-schema"]).success();
    assert_eq!(served(&sandbox), "one");
    sandbox.run(["rollback", "shop", "--to", "r9"]).code(1).says(["SW-REL-008", "r9"]);
    sandbox.run(["releases", "shop"]).success().says(["* r1-", "was live", "rollback"]);
}

#[test]
fn a_build_that_fails_hangs_or_is_left_alone_leaves_what_runs() {
    let sandbox = sandbox();
    sandbox.up(&level("old", ""));
    let building = |command: &str| {
        Site::new("shop")
            .app("web", FakeApp::new().key(&format!("build = {command}")))
            .file("x", command)
    };
    deploy(&sandbox, &building("\"false\""), &[]).code(1).says(["SW-REL-001", "`false` failed"]);
    // Interrupted at the terminal it goes on; the word `abort` ends it with all that it started.
    let project = sandbox.write(&building("{ shell = \"sleep 600 & wait\" }"));
    let mut hanging = sandbox.spawn(["deploy".as_ref(), project.as_os_str()]);
    eventually("it builds", LIMIT, || {
        let list = sandbox.run(["releases", "shop", "--json"]);
        list.raw_stdout().contains("\"state\": \"build\"")
    });
    hanging.interrupt();
    hanging.finish(LIMIT).code(130).says(["goes on in the background"]);
    let sleeping = || {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let folder = sandbox.state();
        all.filter(|entry| {
            std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(&folder))
                && std::fs::read(entry.path().join("cmdline"))
                    .is_ok_and(|line| line.starts_with(b"sleep"))
        })
        .count()
    };
    assert_eq!(sleeping(), 1);
    sandbox.run(["status"]).success().says(["deploying        deploy 3 for ", ": build, since "]);
    assert_eq!(sandbox.status().document()["deployments"][0]["step"], "build");
    sandbox.run(["abort", "shop"]).success();
    eventually("the build ended whole", LIMIT, || sleeping() == 0);
    eventually("it is aborted", LIMIT, || {
        releases(&sandbox)["deployments"][0]["state"] == "aborted"
    });
    // Nothing of it is left that looks like a release.
    let stopped = &releases(&sandbox)["releases"][0];
    assert_eq!(stopped["state"], "failed", "{stopped:#}");
    assert!(stopped["note"].as_str().unwrap().contains("stopped by"), "{stopped:#}");
    let dir = sandbox.state().join("sites").join(sandbox.own_name("shop")).join("releases");
    assert!(!dir.join(stopped["id"].as_str().unwrap()).exists());
    assert_eq!(sandbox.status().document()["deployments"], serde_json::json!([]));
    assert_eq!(served(&sandbox), "old");
    deploy(&sandbox, &level("new", ""), &["--no-watch"]).success();
}

#[test]
fn where_the_tool_tells_its_schema_a_migration_that_changed_nothing_needs_no_word() {
    let sandbox = sandbox();
    let migrating = |name: &str, schema: &str| {
        let keys = format!(
            "env = {{ LEVEL = \"{name}\" }}\nmigrate = {{ up = {{ shell = \"echo {schema} > $DATA/schema\" }}, status = {{ shell = \"cat $DATA/schema\" }} }}"
        );
        Site::new("shop").app("web", FakeApp::new().key(&keys)).file("level", name)
    };
    sandbox.up(&migrating("one", "first"));
    deploy(&sandbox, &migrating("two", "first"), &["--no-watch"]).success();
    sandbox.run(["rollback", "shop"]).success();
    assert_eq!(served(&sandbox), "one");
    deploy(&sandbox, &migrating("three", "second"), &["--no-watch"]).success();
    sandbox.run(["rollback", "shop"]).code(1).says(["SW-REL-009", "its schema is `s-"]);
}

#[test]
fn releases_are_read_only_for_the_site_and_so_many_are_kept_as_the_manifest_says() {
    let sandbox = sandbox();
    let site =
        |name: &str, more: &str| level(name, &format!("keep = 2\n{more}")).file("level", name);
    sandbox.up(&site("zero", ""));
    for name in ["one", "two", "three", "four"] {
        deploy(&sandbox, &site(name, ""), &["--no-watch"]).success();
        sandbox.wait_ready("shop/web", 2, LIMIT);
    }
    deploy(&sandbox, &site("bad", "checks = \"false\""), &[]).code(1).says(["SW-REL-011"]);
    let kept = || {
        let dir = sandbox.state().join("sites").join(sandbox.own_name("shop")).join("releases");
        let all = std::fs::read_dir(dir).unwrap().flatten();
        let mut names: Vec<String> =
            all.map(|one| one.file_name().to_string_lossy()[..2].to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(kept(), ["r3", "r4", "r5"]);
    let dirs = releases(&sandbox)["releases"].as_array().unwrap().len();
    assert_eq!(dirs, 6, "those that were removed are still known");
    sandbox.run(["rollback", "shop", "--to", "r1"]).code(1).says(["SW-REL-008", "deploy.keep"]);
    sandbox.run(["rollback", "shop"]).success();
    assert_eq!(served(&sandbox), "three");
    if seaworthy_testkit::is_root("that a site cannot write its own release") {
        let said = sandbox.run(["run", "shop/web", "touch new || touch level || echo refused"]);
        assert_eq!(said.success().raw_stdout().trim(), "refused");
    }
}
