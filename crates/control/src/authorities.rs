//! Files of authorities that manifests name: of clients (`clients` of `[tls]`), and of servers that applications call (`ca`
//! of `[outgoing.X]`).
//!
//! Read with each publication. Invariants: a file that is broken holds up no other site: what it held last goes on, and where
//! control never read a good one an authority stands in of which nobody has a certificate, so that nobody is let in by
//! mistake; what an edge could not use never reaches it; a release is refused whose own files are broken. Not here:
//! certificates that sites show (`certificates::own`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::{MutexGuard, PoisonError};

use seaworthy_base::{Code, Fault, SiteName};
use seaworthy_manifest::Site;

use crate::ca;
use crate::platform::Platform;

/// Whose authorities they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Of {
    /// Clients of a site.
    Clients,
    /// Servers that a site's programs call.
    Servers,
}

/// A file as a site names it.
pub(crate) type Named = (SiteName, Of, String);

/// What was read last.
#[derive(Debug)]
pub(crate) struct Known {
    pem: String,
    /// Whether nobody is trusted until there is more.
    stands_in: bool,
}

/// The authorities (PEM) that are trusted now.
pub(crate) fn read(platform: &Platform, project: &Path, named: &Named) -> Result<String, Fault> {
    let mut all = known(platform);
    match load(project, named) {
        Ok(pem) => {
            all.insert(named.clone(), Known { pem: pem.clone(), stands_in: false });
            Ok(pem)
        }
        Err(fault) => all.get(named).map(|known| known.pem.clone()).ok_or(fault),
    }
}

/// Before a release is made: its own files must be good.
pub(crate) fn judge(site: &Site, project: &Path) -> Result<(), Fault> {
    files(site).try_for_each(|named| load(project, &named).map(drop))
}

/// Before anything is published: files of a site that runs and that cannot be used are known as such from now on, and
/// fail nothing.
pub(crate) fn excuse(platform: &Platform, site: &Site, project: &Path) {
    for named in files(site) {
        if load(project, &named).is_ok() {
            continue;
        }
        match ca::of_nobody() {
            Ok(pem) => {
                let (name, _, file) = &named;
                crate::say(&format!("nobody is trusted by `{file}` of {name} until it is mended"));
                known(platform).insert(named, Known { pem, stands_in: true });
            }
            Err(error) => crate::say(&error.to_string()),
        }
    }
}

/// What is wrong with a site's files, and whether some that others stand in for are good again.
pub(crate) fn look(platform: &Platform, site: &Site, project: &Path) -> (bool, Option<Fault>) {
    let (mut mended, mut faults) = (false, Vec::new());
    for named in files(site) {
        let stands_in = known(platform).get(&named).is_some_and(|known| known.stands_in);
        match load(project, &named) {
            Ok(_) => mended |= stands_in,
            Err(fault) => faults.push(fault.because(match (stands_in, named.1) {
                (false, _) => "those that it named before are trusted",
                (true, Of::Clients) => "until it is mended no client's certificate is accepted",
                (true, Of::Servers) => "until it is mended no server is trusted: calls fail",
            })),
        }
    }
    (mended, faults.into_iter().next())
}

/// Forgets all but these.
pub(crate) fn keep(platform: &Platform, named: &BTreeSet<Named>) {
    known(platform).retain(|one, _| named.contains(one));
}

/// What a release of a site names.
pub(crate) fn files(site: &Site) -> impl Iterator<Item = Named> {
    let clients = site.handshake.clients.iter().map(|clients| (Of::Clients, &clients.ca));
    let servers = site.outgoing.iter().filter_map(|way| Some((Of::Servers, way.ca.as_ref()?)));
    clients.chain(servers).map(|(of, file)| (site.name.clone(), of, file.clone()))
}

fn known(platform: &Platform) -> MutexGuard<'_, BTreeMap<Named, Known>> {
    platform.authorities.lock().unwrap_or_else(PoisonError::into_inner)
}

fn load(project: &Path, (_, of, file): &Named) -> Result<String, Fault> {
    let path = project.join(file);
    let by = match of {
        Of::Clients => "`clients` of `[tls]`",
        Of::Servers => "`ca` of `[outgoing.X]`",
    };
    let pem = fs::read_to_string(&path).map_err(|error| {
        Fault::new(Code::FileMissing, format!("could not read `{file}`, which {by} names"))
            .because(error.to_string())
            .next(format!("ls -l {}", path.display()))
    })?;
    let judged = match of {
        Of::Clients => seaworthy_edge::judge_client_authorities(&pem),
        Of::Servers => seaworthy_edge::judge_server_authorities(&pem),
    };
    judged.map(|()| pem).map_err(|why| {
        let what = format!("`{file}`, which {by} names, holds no authorities that can be used");
        Fault::new(Code::CertificateUnfit, what)
            .because(why)
            .next(format!("openssl x509 -noout -subject -in {}", path.display()))
    })
}
