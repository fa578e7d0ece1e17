//! Finds the values that a site needs: the vault first, then the places its manifest names.
//!
//! Invariants: every missing name is reported at once, in one fault; a placeholder counts as missing;
//! no error holds a value or a line of a file.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use seaworthy_base::{Code, Fault, SiteName};
use zeroize::Zeroizing;

use crate::dotenv::parse_dotenv;
use crate::secret::{Secret, SecretName};
use crate::vault::Vault;

/// A command that gives a secret may take this long.
const COMMAND_LIMIT: Duration = Duration::from_secs(10);
/// The longest output of a command in bytes.
const MAX_VALUE: u64 = 64 << 10;
/// The longest file in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Where to look, in this order; paths are inside the project.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// A dotenv file.
    pub file: Option<String>,
    /// A folder with a file for each secret.
    pub dir: Option<String>,
    /// A dotenv file encrypted with age; its identity file is named by `SEAWORTHY_AGE_IDENTITY`.
    pub age: Option<String>,
    /// A command that prints one value; `{name}` stands for the name.
    pub command: Option<Vec<String>>,
}

/// What the vault is called among the places.
pub const THE_VAULT: &str = "the vault";

/// What was found.
#[derive(Debug, Default)]
pub struct Resolved {
    /// Values by name.
    pub values: BTreeMap<String, Secret<String>>,
    /// Where each came from.
    pub origin: BTreeMap<String, String>,
    /// Files that others can read, or that git does not ignore.
    pub warnings: Vec<Fault>,
}

/// Values by name, and what the place they are from is called.
struct Place {
    called: String,
    values: BTreeMap<String, Secret<String>>,
}

/// Finds all of `names`, or says in faults what is missing or unreadable.
///
/// When the vault, which goes before all others, has every name, the other places are not opened at all.
pub fn resolve(
    names: &[SecretName],
    project: &Path,
    sources: &Sources,
    vault: Option<(&Vault, &SiteName)>,
) -> Result<Resolved, Vec<Fault>> {
    let (mut resolved, mut faults, mut missing) = (Resolved::default(), Vec::new(), Vec::new());
    let mut rest = Vec::new();
    for name in names {
        match in_vault(name, vault) {
            Ok(Some(value)) => take(&mut resolved, &mut missing, name, value, THE_VAULT.to_owned()),
            Ok(None) => rest.push(name),
            Err(fault) => faults.push(fault),
        }
    }
    if let Some(file) = sources.file.as_ref().filter(|_| !names.is_empty()) {
        resolved.warnings.extend(exposure(project, file));
    }
    let mut lookup = if rest.is_empty() {
        Lookup::default()
    } else {
        Lookup::open(project, sources, &mut faults)
    };
    for name in rest {
        match lookup.find(name, project, sources, &mut resolved.warnings) {
            Ok(Some((value, origin))) => take(&mut resolved, &mut missing, name, value, origin),
            Ok(None) => missing.push((
                name,
                format!("{name}: not in {}", looked_in(project, sources, vault.is_some())),
            )),
            Err(fault) => faults.push(fault),
        }
    }
    if !missing.is_empty() {
        faults.insert(0, missing_fault(&missing, vault.map(|(_, site)| site)));
    }
    if faults.is_empty() { Ok(resolved) } else { Err(faults) }
}

/// Keeps a value, or notes its name as missing when nobody filled it in.
fn take<'n>(
    resolved: &mut Resolved,
    missing: &mut Vec<(&'n SecretName, String)>,
    name: &'n SecretName,
    value: Secret<String>,
    origin: String,
) {
    if is_placeholder(value.expose()) {
        missing.push((name, format!("{name}: in {origin} stands a placeholder")));
    } else {
        resolved.origin.insert(name.to_string(), origin);
        resolved.values.insert(name.to_string(), value);
    }
}

fn missing_fault(missing: &[(&SecretName, String)], site: Option<&SiteName>) -> Fault {
    let what = if missing.len() == 1 {
        "a secret has no value".to_owned()
    } else {
        format!("{} secrets have no value", missing.len())
    };
    let site = site.map_or(String::new(), |site| format!(" --site {site}"));
    let fault = Fault::new(Code::SecretMissing, what);
    missing.iter().fold(fault, |fault, (name, seen)| {
        fault.seen(seen).next(format!("seaworthy secrets set {name}{site}"))
    })
}

fn in_vault(
    name: &SecretName,
    vault: Option<(&Vault, &SiteName)>,
) -> Result<Option<Secret<String>>, Fault> {
    let Some((vault, site)) = vault else { return Ok(None) };
    vault.get(site, name).map_err(|error| {
        Fault::new(Code::SecretSource, format!("could not read `{name}` from the vault"))
            .because_of(&error)
    })
}

/// The files that are read once for all names.
#[derive(Default)]
struct Lookup {
    file: Option<Place>,
    age: Option<Place>,
}

impl Lookup {
    fn open(project: &Path, sources: &Sources, faults: &mut Vec<Fault>) -> Self {
        let mut read = |file: &Option<String>, read: fn(&Path) -> Result<Values, Fault>| {
            let file = file.as_ref()?;
            let values = read(&project.join(file)).map_err(|fault| faults.push(fault)).ok()?;
            Some(Place { called: format!("`{file}`"), values })
        };
        Self { file: read(&sources.file, read_dotenv), age: read(&sources.age, read_age) }
    }

    /// The order of the places after the vault: dotenv file, folder, age file, command.
    fn find(
        &mut self,
        name: &SecretName,
        project: &Path,
        sources: &Sources,
        warnings: &mut Vec<Fault>,
    ) -> Result<Found, Fault> {
        let stands_in = |place: &Option<Place>| {
            let place = place.as_ref()?;
            Some((place.values.get(name.as_str())?.clone(), place.called.clone()))
        };
        if let Some(found) = stands_in(&self.file) {
            return Ok(Some(found));
        }
        if let Some(dir) = &sources.dir {
            let file = format!("{dir}/{name}");
            if let Some(text) = read_text(&project.join(&file))? {
                warnings.extend(exposure(project, &file));
                return Ok(Some((without_line_end(&text), format!("`{file}`"))));
            }
        }
        if let Some(found) = stands_in(&self.age) {
            return Ok(Some(found));
        }
        let Some(command) = &sources.command else { return Ok(None) };
        let found = run(command, name, project)?;
        Ok(found.map(|value| (value, format!("`{}`", command.first().map_or("", String::as_str)))))
    }
}

type Values = BTreeMap<String, Secret<String>>;
type Found = Option<(Secret<String>, String)>;

/// Files and commands end their one line with a newline that is no part of the value.
fn without_line_end(text: &Secret<String>) -> Secret<String> {
    Secret::new(text.expose().trim_end_matches(['\n', '\r']).to_owned())
}

fn looked_in(project: &Path, sources: &Sources, vault: bool) -> String {
    let mut places: Vec<String> = Vec::new();
    if vault {
        places.push(THE_VAULT.to_owned());
    }
    for place in [&sources.file, &sources.dir, &sources.age].into_iter().flatten() {
        let absent = if project.join(place).exists() { "" } else { " (does not exist)" };
        places.push(format!("`{place}`{absent}"));
    }
    places.extend(
        sources
            .command
            .iter()
            .filter_map(|command| command.first())
            .map(|program| format!("what `{program}` prints")),
    );
    if places.is_empty() {
        "any place: the manifest names none".to_owned()
    } else {
        places.join(", ")
    }
}

/// What people leave in a file to be filled in later.
pub fn is_placeholder(value: &str) -> bool {
    let plain = value.trim().to_ascii_lowercase();
    let stock = [
        "changeme",
        "change-me",
        "change_me",
        "todo",
        "replace_me",
        "replace-me",
        "replaceme",
        "placeholder",
    ];
    let crossed_out =
        plain.bytes().all(|byte| byte == b'x') && plain.len() != 1 && plain.len() != 2;
    crossed_out
        || stock.contains(&plain.as_str())
        || plain.starts_with("your-")
        || plain.starts_with("your_")
        || (plain.starts_with('<') && plain.ends_with('>'))
}

/// A file's text; `None` when there is no such file.
fn read_text(path: &Path) -> Result<Option<Secret<String>>, Fault> {
    let refused = |cause: String| {
        Fault::new(Code::SecretSource, format!("could not read `{}`", path.display()))
            .because(cause)
            .next(format!("ls -l {}", path.display()))
    };
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|error| refused(error.to_string()))?,
    };
    let text = read_limited(file, MAX_FILE).map_err(|error| refused(error.to_string()))?;
    Ok(Some(text))
}

/// Reads text up to a limit, and refuses what goes beyond it rather than cut it off.
fn read_limited(from: impl Read, limit: u64) -> std::io::Result<Secret<String>> {
    let mut text = Zeroizing::new(String::new());
    from.take(limit + 1).read_to_string(&mut text)?;
    if text.len() as u64 > limit {
        return Err(std::io::Error::other(format!("it is longer than {} KiB", limit >> 10)));
    }
    Ok(Secret::new(std::mem::take(&mut *text)))
}

/// A dotenv file; one that does not exist has no values, which shows when a name is missing.
fn read_dotenv(path: &Path) -> Result<Values, Fault> {
    read_text(path)?.map_or(Ok(Values::new()), |text| parsed(path, &text))
}

fn parsed(path: &Path, text: &Secret<String>) -> Result<Values, Fault> {
    let found = parse_dotenv(text.expose());
    found.map(|all| all.into_iter().collect()).map_err(|error| {
        Fault::new(Code::SecretSource, format!("could not read `{}`", path.display()))
            .because(error.to_string())
    })
}

/// An encrypted dotenv file, armored or not.
fn read_age(path: &Path) -> Result<Values, Fault> {
    let refused = |cause: &str| {
        Fault::new(Code::SecretSource, format!("could not open `{}`", path.display()))
            .because(cause)
            .next("SEAWORTHY_AGE_IDENTITY=FILE names the file with the age identity")
    };
    let sealed = match fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Values::new()),
        other => other.map_err(|error| refused(&error.to_string()))?,
    };
    let place = std::env::var_os("SEAWORTHY_AGE_IDENTITY")
        .map(PathBuf::from)
        .ok_or_else(|| refused("no identity is named"))?;
    let text = Secret::new(
        fs::read_to_string(&place)
            .map_err(|error| refused(&format!("`{}`: {error}", place.display())))?,
    );
    let line = text
        .expose()
        .lines()
        .find(|line| line.starts_with("AGE-SECRET-KEY-"))
        .ok_or_else(|| refused("the identity file holds no identity"))?;
    let identity: age::x25519::Identity =
        line.trim().parse().map_err(|_| refused("the identity file holds no identity"))?;
    let reader = age::armor::ArmoredReader::new(&sealed[..]);
    let decryptor =
        age::Decryptor::new_buffered(reader).map_err(|_| refused("it is no age file"))?;
    let stream = decryptor
        .decrypt(std::iter::once(&identity as &dyn age::Identity))
        .map_err(|_| refused("the identity does not fit"))?;
    let plain = read_limited(stream, MAX_FILE)
        .map_err(|_| refused("it is damaged, too long or not text"))?;
    parsed(path, &plain)
}

fn run(
    command: &[String],
    name: &SecretName,
    project: &Path,
) -> Result<Option<Secret<String>>, Fault> {
    let words: Vec<String> =
        command.iter().map(|word| word.replace("{name}", name.as_str())).collect();
    let Some((program, arguments)) = words.split_first() else { return Ok(None) };
    let refused = |cause: String| {
        Fault::new(Code::SecretSource, format!("`{program}` gave no value for `{name}`"))
            .because(cause)
    };
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(project)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| refused(error.to_string()))?;
    let output = child.stdout.take();
    // A channel, not a join: what the command left running may hold the pipe open for ever.
    let (sender, receiver) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        output.map(|output| sender.send(read_limited(output, MAX_VALUE)).ok())
    });
    let end = Instant::now() + COMMAND_LIMIT;
    let late = || refused(format!("it did not end within {} seconds", COMMAND_LIMIT.as_secs()));
    let status = loop {
        match child.try_wait().map_err(|error| refused(error.to_string()))? {
            Some(status) => break status,
            None if Instant::now() > end => {
                child.kill().ok();
                child.wait().ok();
                return Err(late());
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let printed =
        receiver.recv_timeout(end.saturating_duration_since(Instant::now())).map_err(|_| late())?;
    // Too much output ends most commands by SIGPIPE; that it was too much is the better reason to give.
    let text =
        printed.map_err(|error| refused(format!("could not use what it printed: {error}")))?;
    if !status.success() {
        return Err(refused(format!("it ended with {status}")));
    }
    Ok(Some(without_line_end(&text)))
}

/// Whether a file can be read by others, or could be committed.
fn exposure(project: &Path, file: &str) -> Vec<Fault> {
    let path = project.join(file);
    let mut faults = Vec::new();
    let Ok(meta) = fs::metadata(&path) else { return faults };
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        faults.push(
            Fault::new(
                Code::SecretExposed,
                format!("`{file}` can be read by others (mode {mode:o})"),
            )
            .next(format!("chmod 600 {}", path.display())),
        );
    }
    let ignored = Command::new("git")
        .arg("-C")
        .arg(project)
        .args(["check-ignore", "-q", file])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    // 0: ignored, 1: not ignored, 128: no repository.
    if ignored.is_ok_and(|status| status.code() == Some(1)) {
        faults.push(
            Fault::new(Code::SecretExposed, format!("git does not ignore `{file}`"))
                .next(format!("echo {file} >> {}", project.join(".gitignore").display())),
        );
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(all: &[&str]) -> Vec<SecretName> {
        all.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn every_missing_name_is_reported_at_once_and_no_value_is() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".env"), "A=changeme\nB=hunter2\n").unwrap();
        let sources = Sources { file: Some(".env".to_owned()), ..Sources::default() };
        let faults = resolve(&names(&["A", "B", "C"]), dir.path(), &sources, None).unwrap_err();
        assert_eq!(faults[0].code, Code::SecretMissing);
        assert_eq!(faults[0].evidence, ["A: in `.env` stands a placeholder", "C: not in `.env`"]);
        assert!(!format!("{faults:?}").contains("hunter2"));
    }

    #[test]
    fn a_file_that_others_can_read_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(".env");
        fs::write(&file, "A=1\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let sources = Sources { file: Some(".env".to_owned()), ..Sources::default() };
        let resolved = resolve(&names(&["A"]), dir.path(), &sources, None).unwrap();
        assert_eq!(resolved.warnings[0].what, "`.env` can be read by others (mode 644)");
    }

    #[test]
    fn folders_and_commands_give_values_and_the_vault_wins() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("s")).unwrap();
        fs::write(dir.path().join("s/A"), "from-dir\n").unwrap();
        let command = ["sh", "-c", "echo made-$0", "{name}"].map(str::to_owned).to_vec();
        let sources =
            Sources { dir: Some("s".to_owned()), command: Some(command), ..Sources::default() };
        let vault = Vault::open(dir.path()).unwrap();
        let site: SiteName = "x".parse().unwrap();
        vault.set(&site, &"C".parse().unwrap(), &Secret::new("from-vault".to_owned())).unwrap();
        let found =
            resolve(&names(&["A", "B", "C"]), dir.path(), &sources, Some((&vault, &site))).unwrap();
        let value = |name: &str| found.values[name].expose().clone();
        assert_eq!([value("A"), value("B"), value("C")], ["from-dir", "made-B", "from-vault"]);
    }

    #[test]
    fn an_absent_file_is_a_place_that_was_looked_in_and_does_not_matter_when_the_vault_has_all() {
        let dir = tempfile::tempdir().unwrap();
        let sources = Sources {
            file: Some(".env".to_owned()),
            age: Some("s.age".to_owned()),
            ..Sources::default()
        };
        let vault = Vault::open(&dir.path().join("state")).unwrap();
        let site: SiteName = "x".parse().unwrap();
        let wanted = names(&["A"]);
        let faults = resolve(&wanted, dir.path(), &sources, Some((&vault, &site))).unwrap_err();
        assert_eq!(faults.len(), 1);
        assert_eq!(
            faults[0].evidence,
            ["A: not in the vault, `.env` (does not exist), `s.age` (does not exist)"]
        );
        assert_eq!(faults[0].next, ["seaworthy secrets set A --site x"]);
        vault.set(&site, &wanted[0], &Secret::new("1".to_owned())).unwrap();
        assert!(
            resolve(&wanted, dir.path(), &sources, Some((&vault, &site)))
                .unwrap()
                .warnings
                .is_empty()
        );
    }

    #[test]
    fn a_folder_goes_before_a_command_and_a_dotenv_file_before_both() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".env"), "A=file\n").unwrap();
        fs::create_dir(dir.path().join("s")).unwrap();
        fs::write(dir.path().join("s/A"), "dir").unwrap();
        fs::write(dir.path().join("s/B"), "dir").unwrap();
        let command = ["echo", "command"].map(str::to_owned).to_vec();
        let sources = Sources {
            file: Some(".env".to_owned()),
            dir: Some("s".to_owned()),
            command: Some(command),
            ..Sources::default()
        };
        let found = resolve(&names(&["A", "B", "C"]), dir.path(), &sources, None).unwrap();
        let value = |name: &str| found.values[name].expose().clone();
        assert_eq!([value("A"), value("B"), value("C")], ["file", "dir", "command"]);
    }

    #[test]
    fn a_command_that_prints_too_much_or_fails_gives_no_value() {
        let dir = tempfile::tempdir().unwrap();
        for (script, cause) in [
            ("yes | head -c 70000", "longer than 64 KiB"),
            ("echo hunter2; exit 3", "exit status: 3"),
        ] {
            let command = ["sh", "-c", script].map(str::to_owned).to_vec();
            let sources = Sources { command: Some(command), ..Sources::default() };
            let faults = resolve(&names(&["A"]), dir.path(), &sources, None).unwrap_err();
            assert_eq!(faults[0].code, Code::SecretSource);
            assert!(faults[0].to_string().contains(cause), "{}", faults[0]);
            assert!(!format!("{faults:?}").contains("hunter2"));
        }
    }

    #[test]
    fn a_file_that_git_does_not_ignore_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let git = Command::new("git").args(["init", "-q"]).current_dir(dir.path()).status();
        if !git.is_ok_and(|status| status.success()) {
            return;
        }
        let file = dir.path().join(".env");
        fs::write(&file, "A=1\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let sources = Sources { file: Some(".env".to_owned()), ..Sources::default() };
        let warnings = || resolve(&names(&["A"]), dir.path(), &sources, None).unwrap().warnings;
        assert_eq!(warnings()[0].what, "git does not ignore `.env`");
        fs::write(dir.path().join(".gitignore"), ".env\n").unwrap();
        assert_eq!(warnings(), []);
    }

    #[test]
    fn what_was_never_filled_in_is_a_placeholder() {
        for text in
            ["", " ", "changeme", "your-api-key", "<token>", "xxx", "XXXX", "todo", "replace_me"]
        {
            assert!(is_placeholder(text), "{text}");
        }
        for text in ["x", "s3cret", "todo-list", "a<b>"] {
            assert!(!is_placeholder(text), "{text}");
        }
    }

    #[test]
    fn an_age_file_opens_with_its_identity_only() {
        let dir = tempfile::tempdir().unwrap();
        let sealed = age::encrypt(&age::x25519::Identity::generate().to_public(), b"A=1").unwrap();
        fs::write(dir.path().join("s.age"), sealed).unwrap();
        let sources = Sources { age: Some("s.age".to_owned()), ..Sources::default() };
        let faults = resolve(&names(&["A"]), dir.path(), &sources, None).unwrap_err();
        assert!(faults.iter().any(|fault| fault.code == Code::SecretSource), "{faults:?}");
    }
}
