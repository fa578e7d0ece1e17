//! `rollback`: an earlier release again, and with `--with-database` the data of that time.
//!
//! Invariant: before live data is exchanged, a person has read what is lost and said yes, by typing the
//! site's name or with `--yes`.

use std::io::{BufRead, IsTerminal};
use std::time::Duration;

use seaworthy_api::model::{Applied, PlatformStatus, Progress, RollbackRequest};
use seaworthy_api::{Client, Layout};
use seaworthy_base::{Code, Exit, Fault, format_duration};

use crate::args::Rollback;
use crate::deploy::{GOES_ON, announce, show_plan};
use crate::platform::{connect, known_site};
use crate::progress::{self, Screen};
use crate::render::{self, Failure};
use crate::up::show_changes;

/// Goes back.
pub(crate) async fn rollback(layout: &Layout, options: &Rollback) -> Result<Exit, Failure> {
    let client = connect(layout).await?;
    let status: PlatformStatus = client.get("/v1/status").await?;
    let mut request = RollbackRequest {
        site: known_site(&status, options.site.as_deref())?,
        to: options.to.clone(),
        keep_schema: options.keep_schema,
        with_database: options.with_database,
        confirmed: options.yes,
        plan_only: options.plan,
        asker: progress::asker(),
    };
    let screen = Screen::new();
    if options.with_database && !options.plan {
        let planned = RollbackRequest { plan_only: true, ..request.clone() };
        let Some(planned) = go(&client, &screen, &planned).await? else {
            return Ok(Exit::Interrupted);
        };
        render::talk(losses(&planned).trim_end());
        // What was read is what is done, whatever happens in between.
        request.to.clone_from(&planned.release);
        request.confirmed = options.yes || confirm(&request.site)?;
    }
    let Some(applied) = go(&client, &screen, &request).await? else {
        return Ok(Exit::Interrupted);
    };
    if options.plan && !options.json {
        if let Some(release) = &applied.release {
            render::print(&format!("{:<14} {release}\n", "back to"));
        }
        show_changes(&applied);
        show_plan(&applied);
        render::print(&losses(&applied));
    } else {
        announce(&applied, options.json);
    }
    Ok(Exit::Ok)
}

async fn go(
    client: &Client,
    screen: &Screen,
    request: &RollbackRequest,
) -> Result<Option<Applied>, Failure> {
    let show = |progress: &Progress| screen.show(progress);
    let work = async { Ok(client.follow("/v1/rollback", request, show).await?) };
    progress::follow(screen, work, GOES_ON).await
}

/// What becomes of the data, in words.
fn losses(planned: &Applied) -> String {
    let Some(data) = planned.plan.as_ref().and_then(|plan| plan.data.as_ref()) else {
        return String::new();
    };
    let mut text = format!("schema         {} -> {}\n", data.from, data.schema);
    for one in &data.restored {
        text.push_str(&format!("{:<14} back to {}, backup {}\n", one.item, one.at, one.backup));
        let period = format_duration(Duration::from_secs(one.loses_ms / 1000));
        text.push_str(&format!("{:<14} what was written in the {period} since then is lost\n", ""));
    }
    if !data.restored.is_empty() {
        text.push_str("a fresh backup of each is made first; requests wait meanwhile\n");
    }
    for command in &data.down {
        text.push_str(&format!("taken back by  {command}\n"));
    }
    text
}

fn confirm(site: &str) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    render::talk("Type the site's name to go on:");
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(|error| render::io_failure("could not read the answer", &error))?;
    if line.trim() == site {
        return Ok(true);
    }
    let what = format!("`{}` is not `{site}`: nothing was changed", line.trim());
    Err(Fault::new(Code::RestoreUnconfirmed, what).into())
}
