//! `--host user@server`: the same verb on another server, over ssh.
//!
//! Nothing is installed or kept there but Seaworthy itself. A deployment sends its files as an archive on
//! standard input; everything else is the same command line, its output and exit code. Invariants: what is
//! sent is what `.gitignore` leaves, without `.git` and files of secrets; a connection that is cut leaves the
//! deployment going on there. `SEAWORTHY_SSH` names another ssh command, such as `ssh -F config`.

use std::cell::Cell;
use std::io::{self, Write};
use std::path::{Component, Path};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;

use ignore::WalkBuilder;
use seaworthy_base::{Code, Exit, Fault};

use crate::args::{Deploy, Verb};
use crate::render::{self, Failure};
use crate::up::{absolute, check_first};

/// What ssh itself ends with when it could not connect.
const SSH_FAILED: i32 = 255;

/// Runs a verb there.
pub(crate) fn run(host: &str, verb: &Verb) -> Result<Exit, Failure> {
    if host.starts_with('-') {
        return Err(Fault::new(Code::RemoteFailed, format!("`{host}` is no server")).into());
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words = without_host(&words);
    match verb {
        Verb::Deploy(options) if !options.stdin => deploy(host, options, &words),
        _ => {
            let mut child = start(host, &words, Stdio::inherit())?;
            end(host, &mut child)
        }
    }
}

/// The command line without `--host`.
fn without_host(words: &[String]) -> Vec<String> {
    let mut rest = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--host" {
            words.next();
        } else if !word.starts_with("--host=") {
            rest.push(word.clone());
        }
    }
    rest
}

fn start(host: &str, words: &[String], input: Stdio) -> Result<Child, Failure> {
    let ssh = std::env::var("SEAWORTHY_SSH").unwrap_or_else(|_| "ssh".to_owned());
    let mut parts = ssh.split_whitespace();
    let mut command = Command::new(parts.next().unwrap_or("ssh"));
    command.args(parts).arg("-T").arg("--").arg(host);
    let remote: Vec<String> = std::iter::once("seaworthy".to_owned())
        .chain(words.iter().map(|word| quote(word)))
        .collect();
    command.arg(remote.join(" ")).stdin(input);
    command.spawn().map_err(|error| {
        let fault = Fault::new(Code::RemoteFailed, format!("could not run `{ssh}`"));
        fault.because(error.to_string()).into()
    })
}

/// A word as the shell there reads it back.
fn quote(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=@%+,".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

fn end(host: &str, child: &mut Child) -> Result<Exit, Failure> {
    let status =
        child.wait().map_err(|error| render::io_failure("could not wait for ssh", &error))?;
    match status.code() {
        Some(0) => Ok(Exit::Ok),
        Some(1) => Ok(Exit::UserFixable),
        Some(2) => Ok(Exit::Usage),
        Some(4) => Ok(Exit::NotRunning),
        Some(130) => Ok(Exit::Interrupted),
        Some(SSH_FAILED) => {
            let fault =
                Fault::new(Code::RemoteFailed, format!("the connection to `{host}` failed"));
            Err(fault.next(format!("ssh {host} seaworthy status")).into())
        }
        Some(127) => {
            let fault =
                Fault::new(Code::RemoteFailed, format!("there is no seaworthy on `{host}`"));
            Err(fault.next(format!("scp $(command -v seaworthy) {host}:/usr/local/bin/")).into())
        }
        _ => Ok(Exit::Internal),
    }
}

/// Sends the folder, or what git has at a reference, and deploys it there.
fn deploy(host: &str, options: &Deploy, words: &[String]) -> Result<Exit, Failure> {
    let project = absolute(&options.dir)?;
    let given = options.dir.to_string_lossy().into_owned();
    let mut there: Vec<String> = vec!["deploy".to_owned(), "--stdin".to_owned()];
    let mut rest = words.iter().skip_while(|word| *word != "deploy").skip(1);
    while let Some(word) = rest.next() {
        if word == "--git" {
            rest.next();
        } else if *word != given && !word.starts_with("--git=") {
            there.push(word.clone());
        }
    }
    if options.git.is_none() {
        check_first(&project)?;
    }
    let mut child = start(host, &there, Stdio::piped())?;
    let sent = match (child.stdin.take(), &options.git) {
        (None, _) => Ok(()),
        (Some(mut pipe), Some(reference)) => {
            let mut git = Command::new("git");
            git.arg("-C").arg(&project).args([
                "archive",
                "--format=tar",
                "--end-of-options",
                reference,
            ]);
            git.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().and_then(|mut git| {
                let copied = git.stdout.take().map(|mut from| io::copy(&mut from, &mut pipe));
                git.wait()?;
                copied.transpose().map(drop)
            })
        }
        (Some(pipe), None) => archive(&project, pipe),
    };
    let ended = end(host, &mut child)?;
    match sent {
        // The other side said why it reads no more.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe || ended == Exit::Ok => {
            let what = format!("could not send the files to `{host}`");
            Err(Fault::new(Code::RemoteFailed, what).because(error.to_string()).into())
        }
        _ => Ok(ended),
    }
}

/// A pipe that can be closed for good: an archive that failed must not get the end of one that is whole, which
/// its builder writes when it is dropped.
struct Pipe<W> {
    into: W,
    is_broken: Rc<Cell<bool>>,
}

impl<W: Write> Write for Pipe<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_broken.get() {
            Err(io::ErrorKind::BrokenPipe.into())
        } else {
            self.into.write(bytes)
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.into.flush()
    }
}

/// The project's files as an archive.
fn archive(project: &Path, into: impl Write) -> io::Result<()> {
    let is_broken = Rc::new(Cell::new(false));
    let pipe = io::BufWriter::new(Pipe { into, is_broken: Rc::clone(&is_broken) });
    let mut builder = tar::Builder::new(pipe);
    let added = add_files(project, &mut builder);
    is_broken.set(added.is_err());
    added?;
    builder.into_inner()?.flush()
}

fn add_files(project: &Path, builder: &mut tar::Builder<impl Write>) -> io::Result<()> {
    builder.follow_symlinks(false);
    let secrets = secret_files(project);
    let walk =
        WalkBuilder::new(project).hidden(false).require_git(false).follow_links(false).build();
    for entry in walk {
        let entry = entry.map_err(io::Error::other)?;
        let path = entry.path().strip_prefix(project).unwrap_or(entry.path());
        let own = path.components().any(|part| part == Component::Normal(".git".as_ref()));
        let file = entry.file_type().is_some_and(|kind| kind.is_file() || kind.is_symlink());
        if file && !own && !secrets.iter().any(|secret| path.starts_with(secret)) {
            builder.append_path_with_name(entry.path(), path)?;
        }
    }
    Ok(())
}

/// Where values of secrets lie in plain text.
fn secret_files(project: &Path) -> Vec<String> {
    let declared = seaworthy_manifest::load(project).ok().map(|site| site.secrets);
    let declared = declared.into_iter().flat_map(|secrets| [secrets.file, secrets.dir]).flatten();
    declared.chain([".env".to_owned()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_taken_out_of_the_words_and_the_others_survive_a_shell() {
        let words =
            ["--host", "a@b", "deploy", "it's $HOME", "--host=c", "--json"].map(str::to_owned);
        let rest = without_host(&words);
        assert_eq!(rest, ["deploy", "it's $HOME", "--json"]);
        assert_eq!(quote(&rest[1]), "'it'\\''s $HOME'");
        assert_eq!(quote("shop/web"), "shop/web");
    }

    #[test]
    fn an_archive_holds_what_is_not_ignored_and_no_secrets() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in
            [("a.txt", "1"), (".env", "S=1"), ("skip", "1"), (".gitignore", "skip\n")]
        {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let mut bytes = Vec::new();
        archive(dir.path(), &mut bytes).unwrap();
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut names: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        names.sort();
        assert_eq!(names, [".gitignore", "a.txt"]);
    }

    #[test]
    fn an_archive_of_what_cannot_be_read_does_not_look_whole() {
        let mut bytes = Vec::new();
        assert!(archive(Path::new("/nowhere/at/all"), &mut bytes).is_err());
        assert!(bytes.is_empty(), "{} bytes", bytes.len());
    }
}
