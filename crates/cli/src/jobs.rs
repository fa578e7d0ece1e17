//! `job list` and `job run`.

use std::time::Duration;

use seaworthy_api::model::{JobRequest, JobView, Jobs, PlatformStatus};
use seaworthy_api::{Client, Layout};
use seaworthy_base::{Code, Exit, Fault};

use crate::args::JobWhat;
use crate::platform::{connect, known_site};
use crate::progress::asker;
use crate::render::{self, Failure};

/// Lists jobs, or runs one.
pub(crate) async fn job(layout: &Layout, what: &JobWhat) -> Result<Exit, Failure> {
    let client = connect(layout).await?;
    let status: PlatformStatus = client.get("/v1/status").await?;
    match what {
        JobWhat::List(options) => {
            let site = known_site(&status, options.site.as_deref())?;
            let found = list(&client, &site).await?;
            if options.json {
                render::json(&found);
            } else {
                render::print(&table(&found));
            }
            Ok(Exit::Ok)
        }
        JobWhat::Run { job, json } => {
            let (site, job) = match job.split_once('/') {
                Some((site, job)) => (site.to_owned(), job.to_owned()),
                None => (known_site(&status, None)?, job.clone()),
            };
            run(&client, site, job, *json).await
        }
    }
}

async fn list(client: &Client, site: &str) -> Result<Jobs, Failure> {
    let request = JobRequest { site: site.to_owned(), job: String::new(), asker: asker() };
    Ok(client.post("/v1/jobs", &request).await?)
}

async fn run(client: &Client, site: String, job: String, json: bool) -> Result<Exit, Failure> {
    let request = JobRequest { site: site.clone(), job: job.clone(), asker: asker() };
    let _started: String = client.post("/v1/jobs/run", &request).await?;
    loop {
        let found = list(client, &site).await?;
        let view = found.jobs.into_iter().find(|one| one.name == job);
        match view {
            Some(view) if view.state == "running" => {}
            Some(view) if json => {
                render::json(&view);
                return view.fault.map_or(Ok(Exit::Ok), |fault| Err(fault.into()));
            }
            Some(JobView { fault: Some(fault), .. }) => return Err(fault.into()),
            Some(view) => {
                render::talk(&format!(
                    "{job}: {} after {} ms",
                    view.state,
                    view.took_ms.unwrap_or(0)
                ));
                return Ok(Exit::Ok);
            }
            None => {
                let what = format!("job `{job}` is gone from the site's manifest");
                return Err(Fault::new(Code::NoSuchJob, what).into());
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn table(found: &Jobs) -> String {
    let mut out =
        format!("{:<24} {:<20} {:<25} {:<25} {}\n", "JOB", "WHEN", "NEXT", "LAST", "RESULT");
    for job in &found.jobs {
        let took = job.took_ms.map(|ms| format!(" ({ms} ms)")).unwrap_or_default();
        out.push_str(&format!(
            "{:<24} {:<20} {:<25} {:<25} {}{took}\n",
            job.name,
            job.when,
            job.next.as_deref().unwrap_or("-"),
            job.last.as_deref().unwrap_or("-"),
            job.state
        ));
        if let Some(fault) = &job.fault {
            out.push_str(&render::fault_lines(fault, "  "));
        }
    }
    out
}
