//! `upgrade`: another build takes over, and who asked waits until it serves or did not.

use std::time::{Duration, Instant};

use seaworthy_api::model::{Hello, UpgradeRequest};
use seaworthy_api::{Client, Layout};
use seaworthy_base::{Code, Exit, Fault};

use crate::args::Upgrade;
use crate::platform::connect;
use crate::progress::asker;
use crate::render::{self, Failure, io_failure};

/// A new build that does not answer by then, nor the old one again, is a case for a person.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks control to become another program.
pub(crate) async fn upgrade(layout: &Layout, options: &Upgrade) -> Result<Exit, Failure> {
    let own =
        std::env::current_exe().map_err(|error| io_failure("could not find myself", &error))?;
    let given = options.program.clone().unwrap_or(own);
    let program = given.canonicalize().map_err(|error| {
        let what = format!("there is no program `{}`", given.display());
        Failure::from(Fault::new(Code::UpgradeFailed, what).because(error.to_string()))
    })?;
    let client = connect(layout).await?;
    let before: Hello = client.hello().await?;
    let request = UpgradeRequest { program: program.clone(), asker: asker() };
    let _identity: String = client.post("/v1/upgrade", &request).await?;
    let after = next(layout, &before).await?;
    if after.program == program {
        let (from, to) = (&before.build, &after.build);
        render::talk(&format!("{} ({to}) has taken over from {from}", program.display()));
        return Ok(Exit::Ok);
    }
    let what =
        format!("`{}` did not come up; {} runs on", program.display(), after.program.display());
    Err(Fault::new(Code::UpgradeFailed, what)
        .because("applications and connections were not touched")
        .next("seaworthy logs --control")
        .into())
}

/// The control process after the one that was asked.
async fn next(layout: &Layout, before: &Hello) -> Result<Hello, Failure> {
    let begun = Instant::now();
    loop {
        match Client::new(&layout.control_socket()).hello().await {
            Ok(hello) if hello.identity != before.identity => return Ok(hello),
            Err(error) if begun.elapsed() > PATIENCE => return Err(error.into()),
            _ if begun.elapsed() > PATIENCE => {
                let what = "the control process did not make way within a minute";
                return Err(Fault::new(Code::UpgradeFailed, what).next("seaworthy status").into());
            }
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
