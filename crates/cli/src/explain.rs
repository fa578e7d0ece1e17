//! `explain`: the story of a request or an instance.

use std::fmt::Write as _;

use seaworthy_api::Layout;
use seaworthy_api::model::{ExplainRequest, Explanation};
use seaworthy_base::Exit;

use crate::args::{Explain, ExplainWhat};
use crate::platform::connect;
use crate::render::{self, Failure};

/// Asks and shows.
pub(crate) async fn explain(layout: &Layout, options: &Explain) -> Result<Exit, Failure> {
    let question = match &options.what {
        ExplainWhat::Request { id } => ExplainRequest::Request(id.clone()),
        ExplainWhat::Instance { name } => ExplainRequest::Instance(name.clone()),
    };
    let answer: Explanation = connect(layout).await?.post("/v1/explain", &question).await?;
    if options.json {
        render::json(&answer);
    } else {
        render::print(&show(&answer));
    }
    Ok(Exit::Ok)
}

fn show(answer: &Explanation) -> String {
    let mut out = format!("{}\n  {}\n\n", answer.subject, answer.summary);
    for (name, value) in &answer.facts {
        let _infallible = writeln!(out, "  {name:<12} {value}");
    }
    if !answer.evidence.is_empty() {
        out.push('\n');
    }
    for line in &answer.evidence {
        let _infallible = writeln!(out, "  | {line}");
    }
    out.push('\n');
    for step in &answer.next {
        let _infallible = writeln!(out, "next: {step}");
    }
    out
}
