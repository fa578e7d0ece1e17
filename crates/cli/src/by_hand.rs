//! What is done by hand: `hold`, `maintenance`, `scale`, `exec`, `run`, `audit`.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use seaworthy_api::Layout;
use seaworthy_api::model::{
    Audit, AuditRequest, ExecGrant, ExecRequest, GateRequest, GateWanted, PlatformStatus,
    ScaleRequest,
};
use seaworthy_base::{Code, Exit, Fault, parse_duration};

use crate::args;
use crate::platform::{block_on, connect, known_site};
use crate::progress::asker;
use crate::render::{self, Failure};

fn duration(text: &str) -> Result<std::time::Duration, Failure> {
    parse_duration(text)
        .map_err(|error| Fault::new(Code::ManifestInvalid, error.to_string()).into())
}

async fn set_gate(
    layout: &Layout,
    site: Option<&str>,
    gate: GateWanted,
    words: &str,
) -> Result<Exit, Failure> {
    let client = connect(layout).await?;
    let status: PlatformStatus = client.get("/v1/status").await?;
    let request = GateRequest { site: known_site(&status, site)?, gate, asker: asker() };
    let done: String = client.post("/v1/gate", &request).await?;
    render::talk(&format!("{done} {words}"));
    Ok(Exit::Ok)
}

/// Lets requests wait.
pub(crate) async fn hold(layout: &Layout, options: &args::Hold) -> Result<Exit, Failure> {
    let site = options.site.as_deref();
    if options.off {
        return set_gate(layout, site, GateWanted::Open, "is open").await;
    }
    let for_ms = duration(&options.period)?.as_millis() as u64;
    let gate = GateWanted::Hold { for_ms, most: options.most };
    set_gate(layout, site, gate, &format!("is held for {} at the longest", options.period)).await
}

/// Shows a maintenance page.
pub(crate) async fn maintenance(
    layout: &Layout,
    options: &args::Maintenance,
) -> Result<Exit, Failure> {
    let site = options.site.as_deref();
    if options.switch == args::Switch::Off {
        return set_gate(layout, site, GateWanted::Open, "is open").await;
    }
    let page = options.page.as_ref().map(std::fs::read_to_string).transpose().map_err(|error| {
        let file = options.page.as_deref().unwrap_or(Path::new("")).display();
        let fault = Fault::new(Code::FileMissing, format!("could not read the page `{file}`"));
        let next = "seaworthy maintenance on   (shows a plain page)";
        Failure::from(fault.because(error.to_string()).next(next))
    })?;
    let retry_after = u32::try_from(duration(&options.retry_after)?.as_secs()).unwrap_or(u32::MAX);
    let gate = GateWanted::Maintenance { page, retry_after, allow: options.allow.clone() };
    set_gate(layout, site, gate, "is under maintenance").await
}

/// Sets a number of instances.
pub(crate) async fn scale(layout: &Layout, options: &args::Scale) -> Result<Exit, Failure> {
    let (target, count) = (options.target.clone(), options.count);
    let request = ScaleRequest { target: target.clone(), count, asker: asker() };
    let count: String = connect(layout).await?.post("/v1/scale", &request).await?;
    let many = match request.count {
        Some(count) => render::counted(count as usize, "instance"),
        None => format!("as many instances {count}"),
    };
    render::talk(&format!("{target} is to have {many}: `seaworthy status` shows how far it is"));
    Ok(Exit::Ok)
}

/// Becomes the program: its exit code is ours.
pub(crate) fn exec(layout: &Layout, options: &args::Exec, shell: bool) -> Result<Exit, Failure> {
    let mut grant: Option<ExecGrant> = None;
    block_on(async {
        let request = ExecRequest { target: options.target.clone() };
        grant = Some(connect(layout).await?.post("/v1/exec", &request).await?);
        Ok(Exit::Ok)
    })?;
    let Some(grant) = grant else { return Ok(Exit::Internal) };
    let line = options.words.join(" ");
    let words =
        if shell { vec!["sh".to_owned(), "-c".to_owned(), line] } else { options.words.clone() };
    let Some((program, arguments)) = words.split_first() else { return Ok(Exit::Usage) };
    let failed = |error: std::io::Error| {
        let what = format!("`{program}` could not be started in {}", options.target);
        Failure::from(Fault::new(Code::ProgramMissing, what).because(error.to_string()))
    };
    if let Some((uid, gid, groups)) = &grant.user {
        seaworthy_sys::process::drop_to_user(*uid, *gid, groups).map_err(failed)?;
    }
    let mut command = Command::new(program);
    command.args(arguments).current_dir(&grant.dir).env_clear().envs(grant.environment);
    if let Ok(term) = std::env::var("TERM") {
        command.env("TERM", term);
    }
    Err(failed(command.exec()))
}

/// Shows the audit log.
pub(crate) async fn audit(layout: &Layout, options: &args::Audit) -> Result<Exit, Failure> {
    let request = AuditRequest { limit: options.tail, since: options.since.clone() };
    let found: Audit = connect(layout).await?.post("/v1/audit", &request).await?;
    let verify = options.what.is_some();
    if options.json {
        render::json(&found);
    } else if !verify {
        for line in &found.entries {
            let detail =
                if line.detail.is_empty() { String::new() } else { format!("  ({})", line.detail) };
            render::print(&format!(
                "{:>5} {} {:<20} {:<14} {}{detail}\n",
                line.number, line.at, line.who, line.action, line.subject
            ));
        }
    }
    if let Some(broken) = &found.broken {
        let fault = Fault::new(Code::AuditBroken, "the audit log was edited").because(broken);
        let next =
            "seaworthy audit --tail 1000000   (all of it: compare it with a backup of state.db)";
        return Err(fault.next(next).into());
    }
    if verify && !options.json {
        let (count, head) = (found.verified.unwrap_or(0), found.head.unwrap_or_default());
        render::print(&format!("{count} entries, whole; newest hash {head}\n"));
    }
    Ok(Exit::Ok)
}
