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
use std::time::{Duration, Instant};

use seaworthy_base::{Code, Fault, SiteName};

use crate::dotenv::parse_dotenv;
use crate::secret::{Secret, SecretName};
use crate::vault::Vault;

/// A command that gives a secret may take this long.
const COMMAND_LIMIT: Duration = Duration::from_secs(10);
/// The longest value in bytes.
const MAX_VALUE: u64 = 64 << 10;

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

/// Finds all of `names`, or says in faults what is missing or unreadable.
pub fn resolve(names: &[SecretName], project: &Path, sources: &Sources, vault: Option<(&Vault, &SiteName)>) -> Result<Resolved, Vec<Fault>> {
    let (mut resolved, mut faults) = (Resolved::default(), Vec::new());
    if names.is_empty() {
        return Ok(resolved);
    }
    let mut files: Vec<(String, BTreeMap<String, Secret<String>>)> = Vec::new();
    if let Some(file) = &sources.file {
        match read_dotenv(&project.join(file)) {
            Ok(values) => files.push((format!("`{file}`"), values)),
            Err(fault) => faults.push(fault),
        }
        resolved.warnings.extend(exposure(project, file));
    }
    if let Some(file) = &sources.age {
        match read_age(&project.join(file)) {
            Ok(values) => files.push((format!("`{file}`"), values)),
            Err(fault) => faults.push(fault),
        }
    }
    let mut missing = Vec::new();
    for name in names {
        match find(name, project, sources, vault, &files) {
            Ok(Some((value, origin))) if !is_placeholder(value.expose()) => {
                resolved.origin.insert(name.to_string(), origin);
                resolved.values.insert(name.to_string(), value);
            }
            Ok(Some((_, origin))) => missing.push(format!("{name}: in {origin} stands a placeholder")),
            Ok(None) => missing.push(format!("{name}: not in {}", looked_in(sources, vault.is_some()))),
            Err(fault) => faults.push(fault),
        }
    }
    if let Some(first) = missing.first() {
        let name = first.split(':').next().unwrap_or_default().to_owned();
        let site = vault.map_or(String::new(), |(_, site)| format!(" --site {site}"));
        let what = if missing.len() == 1 { "a secret has no value".to_owned() } else { format!("{} secrets have no value", missing.len()) };
        let mut fault = Fault::new(Code::SecretMissing, what).next(format!("seaworthy secrets set {name}{site}"));
        fault.evidence = missing;
        faults.insert(0, fault);
    }
    if faults.is_empty() { Ok(resolved) } else { Err(faults) }
}

type Found = Option<(Secret<String>, String)>;

fn find(
    name: &SecretName,
    project: &Path,
    sources: &Sources,
    vault: Option<(&Vault, &SiteName)>,
    files: &[(String, BTreeMap<String, Secret<String>>)],
) -> Result<Found, Fault> {
    if let Some((vault, site)) = vault {
        let value = vault.get(site, name).map_err(|error| Fault::new(Code::SecretSource, format!("could not read `{name}` from the vault")).because_of(&error))?;
        if let Some(value) = value {
            return Ok(Some((value, "the vault".to_owned())));
        }
    }
    if let Some((origin, value)) = files.iter().find_map(|(origin, values)| Some((origin, values.get(name.as_str())?))) {
        return Ok(Some((value.clone(), origin.clone())));
    }
    if let Some(dir) = &sources.dir {
        let path = project.join(dir).join(name.as_str());
        if let Some(text) = read_text(&path)? {
            return Ok(Some((Secret::new(text.trim_end_matches(['\n', '\r']).to_owned()), format!("`{dir}/{name}`"))));
        }
    }
    match &sources.command {
        Some(command) => run(command, name, project).map(|value| value.map(|value| (value, format!("`{}`", command.first().map_or("", String::as_str))))),
        None => Ok(None),
    }
}

fn looked_in(sources: &Sources, vault: bool) -> String {
    let mut places: Vec<String> = Vec::new();
    if vault {
        places.push("the vault".to_owned());
    }
    places.extend([&sources.file, &sources.age, &sources.dir].into_iter().flatten().map(|place| format!("`{place}`")));
    places.extend(sources.command.iter().filter_map(|command| command.first()).map(|program| format!("what `{program}` prints")));
    places.join(", ")
}

/// What people leave in a file to be filled in later.
pub fn is_placeholder(value: &str) -> bool {
    let plain = value.trim().to_ascii_lowercase();
    let stock = ["", "changeme", "change-me", "change_me", "todo", "xxx", "replace_me", "replace-me", "replaceme", "placeholder", "secret", "password"];
    stock.contains(&plain.as_str()) || plain.starts_with("your-") || plain.starts_with("your_") || (plain.starts_with('<') && plain.ends_with('>'))
}

fn read_text(path: &Path) -> Result<Option<String>, Fault> {
    let refused = |cause: String| Fault::new(Code::SecretSource, format!("could not read `{}`", path.display())).because(cause).next(format!("ls -l {}", path.display()));
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|error| refused(error.to_string()))?,
    };
    let mut text = String::new();
    file.take(1 << 20).read_to_string(&mut text).map_err(|_| refused("it is not text, or could not be read".to_owned()))?;
    Ok(Some(text))
}

fn read_dotenv(path: &Path) -> Result<BTreeMap<String, Secret<String>>, Fault> {
    let Some(text) = read_text(path)? else {
        return Err(Fault::new(Code::SecretSource, format!("`{}` does not exist", path.display())).next("check `file` in `[secrets]`"));
    };
    parsed(path, &Secret::new(text))
}

fn parsed(path: &Path, text: &Secret<String>) -> Result<BTreeMap<String, Secret<String>>, Fault> {
    let found = parse_dotenv(text.expose());
    found.map(|all| all.into_iter().collect()).map_err(|error| Fault::new(Code::SecretSource, format!("could not read `{}`", path.display())).because(error.to_string()))
}

fn read_age(path: &Path) -> Result<BTreeMap<String, Secret<String>>, Fault> {
    let refused = |cause: &str| Fault::new(Code::SecretSource, format!("could not open `{}`", path.display())).because(cause).next("SEAWORTHY_AGE_IDENTITY=FILE names the file with the age identity");
    let sealed = fs::read(path).map_err(|error| refused(&error.to_string()))?;
    let place = std::env::var_os("SEAWORTHY_AGE_IDENTITY").map(PathBuf::from).ok_or_else(|| refused("no identity is named"))?;
    let text = Secret::new(fs::read_to_string(&place).map_err(|error| refused(&format!("`{}`: {error}", place.display())))?);
    let line = text.expose().lines().find(|line| line.starts_with("AGE-SECRET-KEY-")).ok_or_else(|| refused("the identity file holds no identity"))?;
    let identity: age::x25519::Identity = line.trim().parse().map_err(|_| refused("the identity file holds no identity"))?;
    let reader = age::armor::ArmoredReader::new(&sealed[..]);
    let decryptor = age::Decryptor::new_buffered(reader).map_err(|_| refused("it is no age file"))?;
    let mut stream = decryptor.decrypt(std::iter::once(&identity as &dyn age::Identity)).map_err(|_| refused("the identity does not fit"))?;
    let mut plain = String::new();
    stream.read_to_string(&mut plain).map_err(|_| refused("it is damaged or not text"))?;
    parsed(path, &Secret::new(plain))
}

fn run(command: &[String], name: &SecretName, project: &Path) -> Result<Option<Secret<String>>, Fault> {
    let words: Vec<String> = command.iter().map(|word| word.replace("{name}", name.as_str())).collect();
    let Some((program, arguments)) = words.split_first() else { return Ok(None) };
    let refused = |cause: String| Fault::new(Code::SecretSource, format!("`{program}` gave no value for `{name}`")).because(cause);
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(project)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| refused(error.to_string()))?;
    let output = child.stdout.take();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        output.map(|output| output.take(MAX_VALUE).read_to_string(&mut text).map(|_| text))
    });
    let begun = Instant::now();
    let status = loop {
        match child.try_wait().map_err(|error| refused(error.to_string()))? {
            Some(status) => break status,
            None if begun.elapsed() > COMMAND_LIMIT => {
                child.kill().ok();
                child.wait().ok();
                return Err(refused(format!("it did not end within {} seconds", COMMAND_LIMIT.as_secs())));
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    if !status.success() {
        return Err(refused(format!("it ended with {status}")));
    }
    let text = reader.join().ok().flatten().and_then(Result::ok).ok_or_else(|| refused("what it printed is not text".to_owned()))?;
    Ok(Some(Secret::new(text.trim_end_matches(['\n', '\r']).to_owned())))
}

/// Whether a file can be read by others, or could be committed.
fn exposure(project: &Path, file: &str) -> Vec<Fault> {
    let path = project.join(file);
    let mut faults = Vec::new();
    let mode = fs::metadata(&path).map_or(0o600, |meta| meta.permissions().mode() & 0o777);
    if mode & 0o077 != 0 {
        faults.push(Fault::new(Code::SecretExposed, format!("`{file}` can be read by others (mode {mode:o})")).next(format!("chmod 600 {}", path.display())));
    }
    let ignored = Command::new("git").arg("-C").arg(project).args(["check-ignore", "-q", file]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    // 0: ignored, 1: not ignored, 128: no repository.
    if ignored.is_ok_and(|status| status.code() == Some(1)) {
        faults.push(Fault::new(Code::SecretExposed, format!("git does not ignore `{file}`")).next(format!("echo {file} >> {}", project.join(".gitignore").display())));
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
        let sources = Sources { dir: Some("s".to_owned()), command: Some(command), ..Sources::default() };
        let vault = Vault::open(dir.path()).unwrap();
        let site: SiteName = "x".parse().unwrap();
        vault.set(&site, &"C".parse().unwrap(), &Secret::new("from-vault".to_owned())).unwrap();
        let found = resolve(&names(&["A", "B", "C"]), dir.path(), &sources, Some((&vault, &site))).unwrap();
        let value = |name: &str| found.values[name].expose().clone();
        assert_eq!([value("A"), value("B"), value("C")], ["from-dir", "made-B", "from-vault"]);
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
