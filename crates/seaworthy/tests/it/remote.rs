//! `--host`: a real sshd on loopback, with keys of its own, and a key that may deploy and nothing else.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use seaworthy_testkit::{FakeApp, Sandbox, Site, eventually};

use crate::{LIMIT, sandbox, shop};

/// A server, ended with this value.
struct Sshd {
    child: Child,
    config: PathBuf,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn keygen(path: &Path) {
    let status = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(path)
        .status()
        .unwrap();
    assert!(status.success());
}

impl Sshd {
    /// Accepts one key; `forced` is the command that it is restricted to.
    fn start(sandbox: &Sandbox, forced: &str) -> Self {
        let dir = sandbox.folder().join("ssh");
        fs::create_dir_all(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        let file = |name: &str| dir.join(name);
        if !file("host").exists() {
            keygen(&file("host"));
            keygen(&file("key"));
        }
        let key = fs::read_to_string(file("key.pub")).unwrap();
        let options = format!(
            "restrict,environment=\"SEAWORTHY_STATE={}\",environment=\"SEAWORTHY_RUN={}\"{forced} ",
            sandbox.state().display(),
            sandbox.folder().join("run").display()
        );
        fs::write(file("authorized"), format!("{options}{key}")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {0}/host\nAuthorizedKeysFile {0}/authorized\nPidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin yes\nPermitUserEnvironment yes\nSetEnv PATH={1}:/usr/bin:/bin\n",
            dir.display(),
            sandbox.folder().join("bin").display()
        );
        fs::write(file("sshd_config"), server).unwrap();
        let client = format!(
            "Host server\nHostName 127.0.0.1\nPort {port}\nIdentityFile {0}/key\nIdentitiesOnly yes\nUserKnownHostsFile {0}/known\nStrictHostKeyChecking accept-new\nBatchMode yes\nLogLevel ERROR\n",
            dir.display()
        );
        fs::remove_file(file("known")).ok();
        fs::write(file("ssh_config"), client).unwrap();
        // It wants the folder of its privilege separation, which only its package makes.
        fs::create_dir_all("/run/sshd").ok();
        let child = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .arg(file("sshd_config"))
            .stdin(Stdio::null())
            .stderr(fs::File::create(file("log")).unwrap())
            .spawn()
            .unwrap();
        let sshd = Self { child, config: file("ssh_config") };
        eventually("sshd listens", LIMIT, || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        sshd
    }

    fn command(&self) -> String {
        format!("ssh -F {}", self.config.display())
    }
}

fn level(level: &str) -> Site {
    let web = FakeApp::new().key(&format!("env = {{ LEVEL = \"{level}\" }}"));
    Site::new("shop").app("web", web).more("[deploy]\nwatch = { for = \"200ms\" }")
}

#[test]
fn a_verb_and_a_deployment_run_on_the_other_server_and_a_restricted_key_can_only_deploy() {
    let sandbox = sandbox();
    sandbox.up(&level("here"));
    let open = Sshd::start(&sandbox, "");
    let run = |sshd: &Sshd, words: &[&str]| {
        let mut command = Command::new(sandbox.folder().join("bin/seaworthy"));
        command.args(["--host", "server"]).args(words).env("SEAWORTHY_SSH", sshd.command());
        command.stdin(Stdio::null()).output().unwrap()
    };
    let said = run(&open, &["status"]);
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.status.success() && text.contains("1/1 ready"), "{text} {said:?}");
    let served = || sandbox.https(&shop()).get("/env?name=LEVEL").json()["value"].clone();
    let project = sandbox.write(&level("from afar")).display().to_string();
    let said = run(&open, &["deploy", &project]);
    assert!(said.status.success(), "{said:?}");
    assert_eq!(served(), "from afar");
    assert!(!run(&open, &["explain", "request", "none"]).status.success());
    drop(open);
    let restricted = Sshd::start(&sandbox, ",command=\"seaworthy deploy --stdin\"");
    let project = sandbox.write(&level("by the pipeline")).display().to_string();
    let said = run(&restricted, &["deploy", &project]);
    assert!(said.status.success(), "{said:?}");
    assert_eq!(served(), "by the pipeline");
    let said = run(&restricted, &["down", "--all"]);
    assert!(!said.status.success());
    assert_eq!(served(), "by the pipeline");
}

#[test]
fn a_connection_that_is_cut_deploys_all_or_nothing_and_says_so() {
    let sandbox = sandbox();
    sandbox.up(&level("here"));
    let sshd = Sshd::start(&sandbox, "");
    // In the middle of the files, and right between two of them.
    let cut = |name: &str, bytes: &str| {
        let script = sandbox.folder().join(name);
        let text = format!("#!/bin/sh\n{bytes} | {} \"$@\"\nexit 255\n", sshd.command());
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        script.display().to_string()
    };
    let deploy = |ssh: String, project: &str| {
        let mut command = Command::new(sandbox.folder().join("bin/seaworthy"));
        command.args(["--host", "server", "deploy", project]).env("SEAWORTHY_SSH", ssh);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let served = || sandbox.https(&shop()).get("/env?name=LEVEL").json()["value"].clone();
    let project = sandbox.write(&level("there").file("a", "1").file("b", "2"));
    let project = project.display().to_string();
    for bytes in ["head -c 1700", "head -c 1024"] {
        let said = deploy(cut("cut", bytes), &project).wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(!said.status.success() && text.contains("cut off"), "{bytes}: {text}");
        assert_eq!(served(), "here", "{bytes}");
    }
    let incoming = sandbox.state().join("incoming");
    assert_eq!(fs::read_dir(incoming).map_or(0, Iterator::count), 0);
    // Once all is there, it goes on without us.
    let waits = "build = { shell = \"until test -f $DATA/go; do sleep 0.05; done\" }\nenv = { LEVEL = \"there\" }";
    let site =
        Site::new("shop").app("web", FakeApp::new().key(waits)).more("[deploy]\nwatch = false");
    let project = sandbox.write(&site).display().to_string();
    let mut child = deploy(sshd.command(), &project);
    eventually("it builds", LIMIT, || {
        let list = sandbox.run(["releases", "shop", "--json"]);
        list.raw_stdout().contains("\"state\": \"build\"")
    });
    let ssh = only_child(child.id());
    assert!(Command::new("kill").args(["-9", &ssh.to_string()]).status().unwrap().success());
    assert!(!child.wait().unwrap().success());
    let data = sandbox.state().join("data").join(sandbox.own_name("shop"));
    fs::write(data.join("go"), "").unwrap();
    eventually("it serves", LIMIT, || served() == "there");
}

/// The lines of the guide that follow one which begins so, as far as they are indented like the first of them.
fn lines_after<'a>(guide: &'a str, head: &str) -> Vec<&'a str> {
    let mut after = guide.lines().skip_while(|line| !line.trim_start().starts_with(head)).skip(1);
    let first = after.next().unwrap();
    let indent = &first[..first.len() - first.trim_start().len()];
    let more = after.take_while(|line| line.starts_with(indent) && !line.starts_with("```"));
    std::iter::once(first).chain(more).map(str::trim_start).collect()
}

#[test]
fn the_guides_pipelines_deploy_with_the_guides_key_and_say_what_came_of_it() {
    let guide = include_str!("../../../../docs/guide/ci.md");
    let line = guide.lines().find(|line| line.contains("command=")).unwrap().trim();
    let forced = line.strip_prefix("restrict").unwrap().split(" ssh-ed25519").next().unwrap();
    let github = lines_after(guide, "run: |").join("\n");
    let gitlab = lines_after(guide, "script:");
    let gitlab = gitlab.iter().map(|line| line.strip_prefix("- ").unwrap());
    let gitlab = gitlab.collect::<Vec<_>>().join("\n");
    let sandbox = sandbox();
    sandbox.up(&level("here"));
    let sshd = Sshd::start(&sandbox, forced);
    // What the pipeline brings itself must be what is used: here is only where `server` is.
    let config = fs::read_to_string(&sshd.config).unwrap();
    let only =
        |line: &&str| ["Host ", "HostName", "Port"].iter().any(|word| line.starts_with(word));
    let place = sandbox.folder().join("pipeline");
    fs::create_dir(&place).unwrap();
    let ssh_config = config.lines().filter(only).collect::<Vec<_>>().join("\n");
    fs::write(place.join("config"), format!("{ssh_config}\nBatchMode yes\n")).unwrap();
    let ssh =
        format!("#!/bin/sh\nexec /usr/bin/ssh -F {} \"$@\"\n", place.join("config").display());
    fs::write(place.join("ssh"), ssh).unwrap();
    fs::set_permissions(place.join("ssh"), fs::Permissions::from_mode(0o755)).unwrap();
    let port = ssh_config.lines().find_map(|line| line.strip_prefix("Port ")).unwrap();
    let scan = Command::new("ssh-keyscan").args(["-p", port, "127.0.0.1"]).output().unwrap();
    let known = String::from_utf8(scan.stdout).unwrap();
    let key = fs::read_to_string(sandbox.folder().join("ssh/key")).unwrap();
    let served = || sandbox.https(&shop()).get("/env?name=LEVEL").json()["value"].clone();
    let run = |script: &str, site: &Site| {
        let project = sandbox.write(site);
        let commit = "git init -q -b main . && git add -A && git -c user.name=a -c user.email=a@b commit -qm one && ";
        let script = format!(
            "set -e\nrm -f key known\n{commit}true\n{}",
            script.replace("deploy@server", "server")
        );
        let path = format!("{}:/usr/bin:/bin", place.display());
        let mut output = Command::new("sh");
        output.args(["-c", &script]).current_dir(&project).env_clear();
        output.env("PATH", path).env("HOME", sandbox.folder().join("home")).stdin(Stdio::null());
        output.env("KEY", key.trim_end()).env("DEPLOY_KEY", key.trim_end());
        output.env("KNOWN", known.trim_end()).env("DEPLOY_KNOWN_HOSTS", known.trim_end());
        let output = output.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (script, word) in [(&github, "by GitHub"), (&gitlab, "by GitLab")] {
        assert!(script.contains("git archive HEAD | ssh"), "{script}");
        let (code, said) = run(script, &level(word));
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("trying it through the real listener"), "{said}");
        assert_eq!(served(), word);
    }
    let bad = level("bad").more("\nchecks = \"false\"").file("bad", "bad");
    let (code, said) = run(&github, &bad);
    assert_eq!((code, said.contains("SW-REL-011"), served()), (Some(1), true, "by GitLab".into()));
}

/// The only child of a process.
fn only_child(pid: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.trim().parse().unwrap()
}
