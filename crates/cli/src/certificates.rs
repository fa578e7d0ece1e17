//! `cert`: what is served, getting a new one now, and trusting our own authority.

use std::path::Path;
use std::time::Duration;

use indicatif::ProgressBar;
use seaworthy_api::Layout;
use seaworthy_api::certificates::{
    CertificateView, CertificatesRequest, CertificatesView, RenewProgress, RenewRequest,
};
use seaworthy_base::{Code, Exit, Fault, Timestamp, format_duration};

use crate::args::{Cert, CertList, CertRenew, CertWhat};
use crate::platform::connect;
use crate::progress::asker;
use crate::render::{self, Failure};

/// Does what is asked.
pub(crate) async fn cert(layout: &Layout, options: &Cert) -> Result<Exit, Failure> {
    match &options.what {
        CertWhat::List(options) => list(layout, options).await,
        CertWhat::Renew(options) => renew(layout, options).await,
        CertWhat::Trust => trust(layout),
    }
}

async fn list(layout: &Layout, options: &CertList) -> Result<Exit, Failure> {
    let request = CertificatesRequest { site: options.site.clone() };
    let view: CertificatesView = connect(layout).await?.post("/v1/certificates", &request).await?;
    if options.json {
        render::json(&view);
    } else if view.certificates.is_empty() {
        render::talk("nothing is served over TLS");
    } else {
        render::print(&table(&view.certificates, Timestamp::now()));
    }
    Ok(Exit::Ok)
}

fn table(all: &[CertificateView], now: Timestamp) -> String {
    let site = all.iter().map(|one| one.site.len()).chain([4]).max().unwrap_or(4);
    let issuer = all.iter().map(|one| one.issuer.chars().count()).chain([6]).max().unwrap_or(6);
    let mut out = format!(
        "{:<site$}  {:<8}  {:<8}  {:<issuer$}  {:<11}  {:<11}  NAMES\n",
        "SITE", "STATE", "FROM", "ISSUER", "EXPIRES", "RENEWAL"
    );
    for one in all {
        let expires = if one.not_after <= now {
            format!("{} ago", rough(now.since(one.not_after)))
        } else {
            format!("in {}", rough(one.not_after.since(now)))
        };
        let renewal = match one.next {
            None => "-".to_owned(),
            Some(at) if at <= now => "now".to_owned(),
            Some(at) => format!("in {}", rough(at.since(now))),
        };
        out.push_str(&format!(
            "{:<site$}  {:<8}  {:<8}  {:<issuer$}  {expires:<11}  {renewal:<11}  {}\n",
            one.site,
            one.state,
            one.source,
            one.issuer,
            one.hosts.join(", ")
        ));
        if let Some(page) = &one.explanation {
            out.push_str(&format!("  renewal as its authority asks: {page}\n"));
        }
        if let Some(fault) = &one.fault {
            out.push_str(&render::fault_lines(fault, "  "));
        }
    }
    out
}

/// A duration in its largest unit or two.
fn rough(span: Duration) -> String {
    let seconds = span.as_secs();
    let unit = match seconds {
        0..=119 => 1,
        120..=7_199 => 60,
        7_200..=172_799 => 3_600,
        _ => 86_400,
    };
    format_duration(Duration::from_secs(seconds / unit * unit))
}

async fn renew(layout: &Layout, options: &CertRenew) -> Result<Exit, Failure> {
    let client = connect(layout).await?;
    let request =
        RenewRequest { site: options.site.clone(), dry_run: options.dry_run, asker: asker() };
    let bar = ProgressBar::new_spinner();
    bar.enable_steady_tick(Duration::from_millis(100));
    let (mut failed, mut done) = (None, None);
    let ended: RenewProgress = client
        .follow("/v1/certificates/renew", &request, |progress: &RenewProgress| match progress {
            RenewProgress::Step { text } if bar.is_hidden() => render::talk(text),
            RenewProgress::Step { text } => bar.set_message(text.clone()),
            RenewProgress::Warning { fault } => bar.suspend(|| render::warn(fault)),
            RenewProgress::Failed { fault } => failed = Some(fault.clone()),
            RenewProgress::Done { certificate } => done = Some(certificate.clone()),
            RenewProgress::Rehearsed | RenewProgress::End => {}
        })
        .await?;
    bar.finish_and_clear();
    if let Some(fault) = failed {
        return Err(fault.into());
    }
    if ended != RenewProgress::End {
        return Err(Fault::new(Code::ControlCutOff, "control ended before the work was done")
            .next("seaworthy cert list")
            .into());
    }
    match done {
        Some(certificate) if options.json => render::json(&certificate),
        Some(certificate) => render::talk(&format!(
            "{} is served, issued by {}, good for {}",
            certificate.hosts.join(", "),
            certificate.issuer,
            rough(certificate.not_after.since(Timestamp::now()))
        )),
        None if options.json => render::json(&serde_json::json!({ "v": 1, "rehearsed": true })),
        None => {
            render::talk("the names can be proven: a renewal would succeed; nothing was changed")
        }
    }
    Ok(Exit::Ok)
}

/// How to trust our own authority.
fn trust(layout: &Layout) -> Result<Exit, Failure> {
    let ca = layout.ca();
    if !ca.exists() {
        return Err(Fault::new(
            Code::FileMissing,
            "there is no authority yet: it is made when the first site runs",
        )
        .next("seaworthy up")
        .into());
    }
    render::print(&trust_text(&ca));
    Ok(Exit::Ok)
}

fn trust_text(ca: &Path) -> String {
    let ca = ca.display();
    format!(
        "The certificate of this platform's own authority:\n  {ca}\n\n\
         One command:       curl --cacert {ca} https://…\n\
         Debian, Ubuntu:    sudo cp {ca} /usr/local/share/ca-certificates/seaworthy.crt && sudo update-ca-certificates\n\
         Fedora:            sudo cp {ca} /etc/pki/ca-trust/source/anchors/seaworthy.pem && sudo update-ca-trust\n\
         Chromium (Linux):  certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n seaworthy -i {ca}\n\
         Firefox:           Settings → Privacy & Security → View Certificates → Authorities → Import\n\
         Node:              NODE_EXTRA_CA_CERTS={ca}\n"
    )
}
