//! From the specification to a running program: ports, environment, secrets in files, rules.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::Child;

use seaworthy_sys::cgroup::Cgroup;
use seaworthy_sys::process::most_open_files;
use seaworthy_sys::spawn::{self, Start};

use crate::model::{Ports, SocketRule, Spec};
use crate::ports::free_port;
use crate::socket::LONGEST_PATH;

/// A program that was started.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) child: Child,
    pub(super) outputs: [File; 2],
    pub(super) binds: Option<OwnedFd>,
    /// Port by name, as the program was told.
    pub(super) ports: Vec<(String, u16)>,
    /// Guards that could not be put up.
    pub(super) guards: Vec<String>,
}

/// Starts the program; the error says in words what is missing.
pub(super) fn launch(spec: &Spec, cgroup: Option<&Cgroup>) -> Result<Started, String> {
    let plain = |error: io::Error| error.to_string();
    let ports = assign(&spec.ports)
        .ok_or_else(|| "there is no free port between 20000 and 29999".to_owned())?;
    let mut environment = spec.environment.clone();
    let mut names = vec![("INSTANCE".to_owned(), spec.id.to_string())];
    match &spec.ports {
        Ports::Environment(variables) => names.extend(
            variables
                .iter()
                .zip(&ports)
                .map(|((_, variable), (_, port))| (variable.clone(), port.to_string())),
        ),
        Ports::Fixed(port) | Ports::Own(port) => {
            names.push(("PORT".to_owned(), port.to_string()));
        }
        Ports::Socket(rule) => names.extend(make_rooms(rule)?),
    }
    for (_, value) in &mut environment {
        *value = replace(value, &names);
    }
    environment.extend(spec.secret_environment.iter().cloned());
    environment.extend(names.clone());
    environment.extend(write_secrets(spec).map_err(plain)?);
    let argv: Vec<String> = spec.argv.iter().map(|word| replace(word, &names)).collect();
    let mut guards = Vec::new();
    let most = most_open_files();
    if let Some(asked) = spec.limits.nofile.filter(|asked| *asked > most) {
        guards.push(format!("`nofile` is {most} instead of {asked}: this host allows no more"));
    }
    let groups = cgroup.map(Cgroup::procs).transpose().map_err(plain)?.unwrap_or_default();
    let mut answer_binds = matches!(spec.ports, Ports::Fixed(_));
    loop {
        let (out, out_end) = spawn::output_pipe().map_err(plain)?;
        let (err, err_end) = spawn::output_pipe().map_err(plain)?;
        let started = spawn::start(Start {
            shut_in: None,
            argv: &argv,
            dir: &spec.dir,
            environment: &environment,
            input: None,
            output: (out_end, err_end),
            user: spec.user.as_ref().map(|user| (user.uid, user.gid, &user.groups[..])),
            cgroups: &groups,
            nofile: spec.limits.nofile.map(|asked| asked.min(most)),
            answer_binds,
        });
        match started {
            Ok((child, binds)) => {
                return Ok(Started { child, outputs: [out, err], binds, ports, guards });
            }
            // Kernels and sandboxes without seccomp notification.
            Err(error) if answer_binds && matches!(error.raw_os_error(), Some(22 | 38 | 16)) => {
                answer_binds = false;
                guards.push("this kernel does not let us answer `bind`: a fixed port is really taken, one instance at a time".to_owned());
            }
            Err(error) => return Err(explain(&argv, spec, &error)),
        }
    }
}

fn assign(ports: &Ports) -> Option<Vec<(String, u16)>> {
    match ports {
        Ports::Fixed(_) | Ports::Own(_) | Ports::Socket(_) => Some(Vec::new()),
        Ports::Environment(variables) => {
            let mut taken: Vec<(String, u16)> = Vec::new();
            for (name, _) in variables {
                let port = (0..20).find_map(|_| {
                    free_port().filter(|port| taken.iter().all(|(_, other)| other != port))
                })?;
                taken.push((name.clone(), port));
            }
            Some(taken)
        }
    }
}

/// Where its Unix socket is to be, as the program is told.
fn make_rooms(rule: &SocketRule) -> Result<[(String, String); 2], String> {
    if let Some(length) = rule.too_long() {
        let path = rule.path();
        return Err(format!(
            "the path of its socket, `{}`, has {length} bytes, and a Unix socket's may have {LONGEST_PATH}",
            path.display()
        ));
    }
    rule.make_rooms().map_err(|error| {
        format!(
            "the folder for its socket, `{}`, could not be made: {error}",
            rule.folder.display()
        )
    })?;
    let told = |name: &str, path: std::path::PathBuf| (name.to_owned(), path.display().to_string());
    Ok([told("SOCKET", rule.path()), told("RUNTIME_DIRECTORY", rule.room())])
}

/// Replaces `$NAME`; the longest name first, so that `$PORT` does not eat `$PORTAL`.
fn replace(text: &str, names: &[(String, String)]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        let end = tail.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(tail.len());
        match names.iter().find(|(name, _)| name == &tail[..end]) {
            Some((_, value)) => out.push_str(value),
            None => out.extend(["$", &tail[..end]]),
        }
        rest = &tail[end..];
    }
    out.push_str(rest);
    out
}

/// Secrets that are given as files: readable by the program's user only; the paths go into the environment.
fn write_secrets(spec: &Spec) -> io::Result<Vec<(String, String)>> {
    if spec.secret_files.is_empty() {
        return Ok(Vec::new());
    }
    let dir = spec.run_dir.join("secrets");
    fs::create_dir_all(&dir)?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o711))?;
    let mut paths = Vec::new();
    for (name, value) in &spec.secret_files {
        let path = dir.join(name);
        fs::remove_file(&path).ok();
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o400).open(&path)?;
        if let Some(user) = &spec.user {
            std::os::unix::fs::fchown(&file, Some(user.uid), Some(user.gid))?;
        }
        file.write_all(value.as_bytes())?;
        paths.push((format!("{name}_FILE"), path.display().to_string()));
    }
    Ok(paths)
}

/// What was tried when a program could not be started.
pub(super) fn evidence(spec: &Spec) -> Vec<String> {
    let mut seen = vec![format!("run: {}", spec.argv.join(" "))];
    if spec.argv.first().is_some_and(|program| !program.contains('/')) {
        let path = spec.environment.iter().find(|(name, _)| name == "PATH");
        seen.extend(path.map(|(_, path)| format!("PATH: {path}")));
    }
    seen
}

/// Why a program could not be executed.
fn explain(argv: &[String], spec: &Spec, error: &io::Error) -> String {
    let program = argv.first().map_or("", String::as_str);
    if !spec.dir.is_dir() {
        return format!("the working folder `{}` does not exist", spec.dir.display());
    }
    let path = if program.contains('/') { Some(spec.dir.join(program)) } else { None };
    match error.kind() {
        io::ErrorKind::NotFound => match path.as_ref().filter(|path| path.exists()) {
            Some(path) => match interpreter(path) {
                Some(interpreter) => format!(
                    "the interpreter `{interpreter}` that `{program}` names in its first line does not exist"
                ),
                None => format!(
                    "`{program}` is there, but the loader or library that it needs does not exist"
                ),
            },
            None if program.contains('/') => {
                format!("the program `{program}` does not exist in `{}`", spec.dir.display())
            }
            None => format!("the program `{program}` is not in PATH"),
        },
        // A folder of PATH that may not be entered says so even when the program is nowhere.
        io::ErrorKind::PermissionDenied if path.is_none() && !is_in_path(program, spec) => {
            format!("the program `{program}` is not in PATH")
        }
        io::ErrorKind::PermissionDenied => {
            let user = spec.user.as_ref().map_or("this user", |user| user.name.as_str());
            format!("the program `{program}` may not be executed by {user}")
        }
        _ => format!("the program `{program}` could not be executed: {error}"),
    }
}

fn is_in_path(program: &str, spec: &Spec) -> bool {
    let path = spec
        .environment
        .iter()
        .find(|(name, _)| name == "PATH")
        .map_or("", |(_, value)| value.as_str());
    std::env::split_paths(path).any(|dir| dir.join(program).is_file())
}

fn interpreter(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    // The kernel reads no more of it either.
    File::open(path).ok()?.take(256).read_to_end(&mut bytes).ok()?;
    let line = bytes.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    String::from_utf8_lossy(line).split_whitespace().next().map(str::to_owned)
}
