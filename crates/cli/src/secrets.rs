//! `secrets`: values on this server, encrypted. They come by standard input and go out by `get` only.

use std::io::{IsTerminal, Read};

use seaworthy_api::Layout;
use seaworthy_base::{Code, Exit, Fault, SiteName, Timestamp, format_duration};
use seaworthy_secrets::vault::{Vault, VaultError};
use seaworthy_secrets::{Secret, SecretName, parse_dotenv};

use crate::args::{Secrets, SecretsWhat};
use crate::render::{self, Failure, io_failure};

/// Does what is asked.
pub(crate) fn secrets(layout: &Layout, options: &Secrets) -> Result<Exit, Failure> {
    seaworthy_control::prepare_folders(layout)?;
    let vault = Vault::open(&layout.state).map_err(|error| failed(&error))?;
    let site = site_of(options.site.as_deref())?;
    match &options.what {
        SecretsWhat::Set { name } => {
            let name = parse(name)?;
            let value = read_value(&name)?;
            vault.set(&site, &name, &value).map_err(|error| failed(&error))?;
            done(&site, &format!("{name} is set"));
        }
        SecretsWhat::Get { name } => {
            let name = parse(name)?;
            let value = vault.get(&site, &name).map_err(|error| failed(&error))?;
            let missing = || {
                Fault::new(
                    Code::SecretMissing,
                    format!("site `{site}` has no secret `{name}` here"),
                )
                .next(format!("seaworthy secrets set {name} --site {site}"))
            };
            render::print(&format!("{}\n", value.ok_or_else(missing)?.expose()));
        }
        SecretsWhat::List { json } => list(&vault, &site, *json)?,
        SecretsWhat::Import { file } => import(&vault, &site, file)?,
        SecretsWhat::Generate { name, length } => {
            vault
                .generate(&site, &parse(name)?, (*length).clamp(8, 4096))
                .map_err(|error| failed(&error))?;
            done(&site, &format!("{name} has a new random value"));
        }
        SecretsWhat::Rotate { name } => {
            vault.rotate(&site, &parse(name)?).map_err(|error| failed(&error))?;
            done(&site, &format!("{name} has a new random value"));
        }
    }
    Ok(Exit::Ok)
}

fn done(site: &SiteName, what: &str) {
    render::talk(&format!(
        "{what}\nnext: seaworthy up   (services of `{site}` that use it are replaced one by one)"
    ));
}

fn failed(error: &VaultError) -> Failure {
    Fault::new(Code::SecretSource, "the secrets could not be used").because_of(error).into()
}

fn parse(name: &str) -> Result<SecretName, Failure> {
    name.parse().map_err(|error: seaworthy_secrets::NameError| {
        Fault::new(Code::SecretSource, error.to_string()).into()
    })
}

fn site_of(given: Option<&str>) -> Result<SiteName, Failure> {
    match given {
        Some(given) => given.parse().map_err(|error: seaworthy_base::names::NameError| {
            Fault::new(Code::NoSuchSite, error.to_string()).into()
        }),
        None => match seaworthy_manifest::load(std::path::Path::new(".")) {
            Ok(site) => Ok(site.name),
            Err(_) => Err(Fault::new(
                Code::NoSuchSite,
                "this folder has no readable manifest: say which site",
            )
            .next("--site NAME")
            .into()),
        },
    }
}

fn read_value(name: &SecretName) -> Result<Secret<String>, Failure> {
    if std::io::stdin().is_terminal() {
        render::talk(&format!("type the value of {name}, then Ctrl-D"));
    }
    let mut text = String::new();
    std::io::stdin()
        .take(1 << 20)
        .read_to_string(&mut text)
        .map_err(|error| io_failure("could not read the value", &error))?;
    let value = text.trim_end_matches(['\n', '\r']).to_owned();
    if value.is_empty() {
        return Err(Fault::new(Code::SecretMissing, "the value is empty: nothing was set")
            .next(format!("printf %s VALUE | seaworthy secrets set {name}"))
            .into());
    }
    Ok(Secret::new(value))
}

fn import(vault: &Vault, site: &SiteName, file: &std::path::Path) -> Result<(), Failure> {
    let refused = |cause: String| {
        Fault::new(Code::SecretSource, format!("could not import `{}`", file.display()))
            .because(cause)
    };
    let text =
        Secret::new(std::fs::read_to_string(file).map_err(|error| refused(error.to_string()))?);
    let mut count = 0;
    for (name, value) in parse_dotenv(text.expose()).map_err(|error| refused(error.to_string()))? {
        vault.set(site, &parse(&name)?, &value).map_err(|error| failed(&error))?;
        count += 1;
    }
    done(
        site,
        &format!(
            "{count} secrets are set; `{}` is no longer needed on this server",
            file.display()
        ),
    );
    Ok(())
}

fn list(vault: &Vault, site: &SiteName, json: bool) -> Result<(), Failure> {
    let entries = vault.list(site).map_err(|error| failed(&error))?;
    if json {
        render::json(&serde_json::json!({ "v": 1, "site": site, "secrets": entries }));
        return Ok(());
    }
    let now = Timestamp::now();
    let age = |at: Timestamp| {
        format_duration(std::time::Duration::from_secs(now.since(at).as_secs() / 60 * 60))
    };
    for entry in &entries {
        let used = entry
            .used_since
            .map_or("not used yet".to_owned(), |at| format!("in use for {}", age(at)));
        render::print(&format!(
            "{:<32} version {:<4} {} old, {used}\n",
            entry.name,
            entry.version,
            age(entry.changed)
        ));
    }
    if entries.is_empty() {
        render::talk(&format!("site `{site}` has no secrets here"));
    }
    Ok(())
}
