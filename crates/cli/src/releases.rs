//! `releases`: what was made of a site, and what became of it.

use seaworthy_api::Layout;
use seaworthy_api::model::{
    DeploymentView, PlatformStatus, ReleaseView, Releases, ReleasesRequest,
};
use seaworthy_base::Exit;

use crate::args::SiteJson;
use crate::platform::{connect, known_site};
use crate::render::{self, Failure};

/// Shows releases and deployments.
pub(crate) async fn releases(layout: &Layout, options: &SiteJson) -> Result<Exit, Failure> {
    let client = connect(layout).await?;
    let status: PlatformStatus = client.get("/v1/status").await?;
    let site = known_site(&status, options.site.as_deref())?;
    let found: Releases = client.post("/v1/releases", &ReleasesRequest { site }).await?;
    if options.json {
        render::json(&found);
        return Ok(Exit::Ok);
    }
    render::print(&table(&found));
    Ok(Exit::Ok)
}

fn table(found: &Releases) -> String {
    let mut out = format!(
        "{:<2}{:<14} {:<9} {:<14} {:<25} {}\n",
        "", "RELEASE", "STATE", "SCHEMA", "MADE", "FROM"
    );
    found.releases.iter().for_each(|one| out.push_str(&release_line(one)));
    out.push_str(&format!(
        "\n{:<2}{:<5} {:<9} {:<14} {:<11} {:<12} {:<25} {}\n",
        "", "NO", "VERB", "RELEASE", "STRATEGY", "STATE", "BEGAN", "BY"
    ));
    found.deployments.iter().for_each(|one| out.push_str(&deployment_lines(one)));
    out
}

fn release_line(one: &ReleaseView) -> String {
    let sign = if one.live { "* " } else { "  " };
    let schema = one.schema.as_deref().unwrap_or("-");
    format!("{sign}{:<14} {:<9} {schema:<14} {:<25} {}\n", one.id, one.state, one.made, one.source)
}

fn deployment_lines(one: &DeploymentView) -> String {
    let release = one.release.as_deref().unwrap_or("-");
    let mut out = format!(
        "  {:<5} {:<9} {release:<14} {:<11} {:<12} {:<25} {}\n",
        one.number, one.verb, one.strategy, one.state, one.began, one.who
    );
    if let Some(fault) = &one.fault {
        let causes = fault.causes.iter().map(String::as_str);
        let why: Vec<&str> = std::iter::once(fault.what.as_str()).chain(causes).collect();
        out.push_str(&format!("        {} {}\n", fault.code, why.join(": ")));
    }
    out
}
