//! A worker at a site's certificate: what it asks for is done, what it brings is kept and served.
//!
//! Invariants: one at a time for a site; whoever waited for another's run takes what that one got; what a worker
//! showed is taken down when it ends, however it ends.

use std::sync::Arc;
use std::time::Duration;

use seaworthy_acme::{Action, Answer, Event, Refusal, Window};
use seaworthy_acme::{due, x509};
use seaworthy_api::certificates::RenewProgress;
use seaworthy_base::{Code, Fault, SiteName, Timestamp};
use seaworthy_manifest::site::tls::Dns;
use tokio::sync::mpsc::{self, UnboundedSender};

use super::clock;
use super::job::Subject;
use crate::commands::{self, Surroundings};
use crate::crash;
use crate::platform::Platform;
use crate::serve;
use crate::worker::Worker;

/// Longer than any zone takes to be written.
const HOOK: Duration = Duration::from_secs(10 * 60);

/// The worker's role.
const ROLE: &str = "acme-worker";

/// What a run brought, besides what is kept already.
#[derive(Default)]
struct Brought {
    refused: Vec<Refusal>,
    window: Option<Window>,
    issued: bool,
    /// When a window last had a certificate renewed before its time.
    hurried: Option<Timestamp>,
}

/// Gets a certificate; one that another run got while we waited for our turn will do.
pub(super) async fn obtain(
    platform: &Arc<Platform>,
    name: &SiteName,
    to: &UnboundedSender<RenewProgress>,
) -> Result<(), Fault> {
    let before = platform.certificates.get(name).certificate;
    let turn = platform.certificates.turn(name);
    let _turn = turn.lock().await;
    let kept = platform.certificates.get(name);
    if kept.certificate != before {
        return Ok(());
    }
    let held = before.and_then(|issued| x509::read(&issued.chain_pem).ok());
    let held = held.as_ref().map(|facts| &facts.held);
    let now = Timestamp::now();
    let hurried = due::hurried(held, &kept.past, now, clock::seed(name));
    if hurried == Some(now) {
        say_early(name, kept.past.window.as_ref());
    }
    let subject = Subject::find(platform, name)?;
    let (outcome, brought) = run(platform, &subject, Action::Obtain, to).await;
    let brought = Brought { hurried, ..brought };
    note(platform, name, &outcome, &brought)?;
    outcome
}

/// What an authority asks for is done, and said, with the page where it says why.
fn say_early(name: &SiteName, window: Option<&Window>) {
    let why = window.and_then(|window| window.explanation.as_deref());
    let why = why.map_or("it does not say why".to_owned(), |page| format!("why: {page}"));
    crate::say(&format!("certificate of {name}: the authority asks for an early renewal ({why})"));
}

/// A worker speaks with strangers: what it says is not shown to people unread.
fn readable(window: Window) -> Window {
    let explanation = window.explanation.filter(|page| seaworthy_acme::is_link(page));
    Window { explanation, ..window }
}

/// Proves the names and leaves it at that.
pub(super) async fn rehearse(
    platform: &Arc<Platform>,
    name: &SiteName,
    to: &UnboundedSender<RenewProgress>,
) -> Result<(), Fault> {
    let turn = platform.certificates.turn(name);
    let _turn = turn.lock().await;
    let subject = Subject::find(platform, name)?;
    run(platform, &subject, Action::Rehearse, to).await.0
}

/// Asks when to renew. An authority that cannot be asked now is asked later.
pub(super) async fn ask_window(platform: &Arc<Platform>, name: &SiteName) -> Result<(), Fault> {
    let turn = platform.certificates.turn(name);
    let _turn = turn.lock().await;
    let subject = Subject::find(platform, name)?;
    let Some(issued) = platform.certificates.get(name).certificate else { return Ok(()) };
    let action = Action::AskWindow { directory: issued.directory, chain_pem: issued.chain_pem };
    let (to, _nobody) = mpsc::unbounded_channel();
    let (outcome, brought) = run(platform, &subject, action, &to).await;
    let later = Timestamp(Timestamp::now().0 + due::WINDOW_AGAIN.as_millis() as u64);
    let patience = brought.refused.iter().filter_map(|refusal| refusal.not_before).max();
    let later = patience.map_or(later, |patience| patience.max(later));
    platform.certificates.change(name, |kept| {
        let window = brought.window;
        kept.past.ask_again = Some(window.as_ref().map_or(later, |window| window.ask_again));
        if outcome.is_ok() {
            kept.past.window = window;
        }
    })?;
    outcome
}

/// Keeps what the next decision follows from.
fn note(
    platform: &Arc<Platform>,
    name: &SiteName,
    outcome: &Result<(), Fault>,
    brought: &Brought,
) -> Result<(), Fault> {
    let now = Timestamp::now();
    platform.certificates.change(name, |kept| {
        for refusal in &brought.refused {
            if let Some(until) = refusal.not_before {
                kept.past.not_before.insert(refusal.directory.clone(), until);
            }
        }
        match outcome {
            Ok(()) => {
                kept.fault = None;
                kept.past = due::Past {
                    not_before: std::mem::take(&mut kept.past.not_before),
                    hurried: brought.hurried,
                    ..Default::default()
                };
            }
            Err(fault) => {
                kept.past.failures += 1;
                kept.past.last_try = Some(now);
                kept.fault = Some(fault.clone());
            }
        }
    })?;
    match outcome {
        Ok(()) => platform.event(Some(name.as_str()), None, "certificate", "renewed", None),
        Err(fault) => platform.event(
            Some(name.as_str()),
            None,
            "certificate-failed",
            &fault.what,
            Some(fault),
        ),
    }
    platform.changed();
    Ok(())
}

async fn run(
    platform: &Arc<Platform>,
    subject: &Subject,
    action: Action,
    to: &UnboundedSender<RenewProgress>,
) -> (Result<(), Fault>, Brought) {
    let mut brought = Brought::default();
    let outcome = converse(platform, subject, action, to, &mut brought).await;
    let name = &subject.site.name;
    if !platform.certificates.shown().is_empty() {
        platform.certificates.show(name, Vec::new());
        if let Err(fault) = serve::rekey(platform).await {
            crate::say(&fault.to_string());
        }
    }
    // A certificate that is there counts, whatever became of the worker afterwards.
    (if brought.issued { Ok(()) } else { outcome }, brought)
}

async fn converse(
    platform: &Arc<Platform>,
    subject: &Subject,
    action: Action,
    to: &UnboundedSender<RenewProgress>,
    brought: &mut Brought,
) -> Result<(), Fault> {
    let job = subject.job(platform, action).await?;
    let mut worker = Worker::start(platform, ROLE, &job).await?;
    let mut last = None;
    while let Some(event) = worker.next::<Event>().await? {
        let done = match event {
            Event::Step { text } => {
                to.send(RenewProgress::Step { text }).ok();
                continue;
            }
            Event::Warning { fault } => {
                to.send(RenewProgress::Warning { fault }).ok();
                continue;
            }
            Event::Refused { refusal } => {
                let fault = refusal.fault.clone();
                if job.directories.len() > 1 {
                    to.send(RenewProgress::Warning { fault }).ok();
                }
                brought.refused.push(refusal);
                continue;
            }
            Event::Window { window } => {
                brought.window = window.map(readable);
                continue;
            }
            Event::Done => {
                last = Some(Ok(()));
                continue;
            }
            Event::Failed { fault } => {
                last = Some(Err(fault));
                continue;
            }
            asked => act(platform, subject, asked, brought).await,
        };
        let answer = match done {
            Ok(()) => Answer::Done,
            Err(fault) => Answer::Failed { fault },
        };
        worker.tell(&answer).await?;
    }
    let status = worker.end().await?;
    last.unwrap_or_else(|| {
        Err(Fault::new(Code::Internal, "the work on a certificate was cut off")
            .because(format!("the worker ended with {status}")))
    })
}

/// Does what a worker asks for.
async fn act(
    platform: &Arc<Platform>,
    subject: &Subject,
    event: Event,
    brought: &mut Brought,
) -> Result<(), Fault> {
    let (name, kept) = (&subject.site.name, &platform.certificates);
    match event {
        Event::Account { directory, credentials } => {
            kept.put_account(&directory, subject.acme.email.as_deref(), credentials)
        }
        Event::Show { challenges } => {
            kept.show(name, challenges);
            serve::rekey(platform).await
        }
        Event::Hook { verb, name, value } => hook(platform, subject, [verb, name, value]).await,
        Event::Pending { order } => {
            kept.change(name, |kept| kept.pending = Some(order))?;
            crash::point("certificate-pending");
            Ok(())
        }
        Event::Issued { certificate } => {
            kept.change(name, |kept| {
                kept.certificate = Some(certificate);
                kept.pending = None;
            })?;
            crash::point("certificate-issued");
            brought.issued = true;
            serve::rekey(platform).await
        }
        _ => Ok(()),
    }
}

/// Runs the site's program as lego's `exec` provider does: as the site's user, in its release.
async fn hook(
    platform: &Arc<Platform>,
    subject: &Subject,
    words: [String; 3],
) -> Result<(), Fault> {
    let Some(Dns::Exec { command, env }) = &subject.acme.dns else { return Ok(()) };
    let mut argv = commands::argv(command, &[]);
    if matches!(command, seaworthy_manifest::site::Command::Shell(_)) {
        // A shell line finds them as `$1` to `$3`.
        argv.push("hook".to_owned());
    }
    argv.extend(words);
    let usual = ["PATH", "LANG", "TZ"].into_iter();
    let usual = usual.filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)));
    let mut environment: Vec<(String, String)> = usual.collect();
    for (name, value) in env {
        environment.push((name.clone(), subject.value(value)?));
    }
    let around = Surroundings {
        dir: &platform.layout.release(&subject.site.name, subject.release),
        environment: &environment,
        user: subject.user.as_ref(),
        limit: HOOK,
        input: None,
        bounds: None,
    };
    let (lines, mut said) = commands::lines();
    tokio::spawn(async move { while said.recv().await.is_some() {} });
    commands::run(&argv, &around, Code::DnsUpdateFailed, &lines).await
}
