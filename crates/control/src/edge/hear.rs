//! What the edges say: the one that serves, and those that finish.
//!
//! Invariant: what an edge that finishes still has with an instance counts; one that lives and says nothing is known
//! as such, so that nobody takes its silence for nothing to do.

use seaworthy_base::Fault;
use seaworthy_edge::model::{EdgeStatus, Reply, Request};

use super::{Edge, edge_fault};
use crate::edge_link::Link;

impl Edge {
    /// How the edge is; what the draining ones still have with instances is added. None if nobody says anything.
    pub(crate) async fn status(&self) -> Option<EdgeStatus> {
        let newest = match &self.link {
            Some(link) => status_of(link).await,
            None => None,
        };
        let mut said = newest.is_some();
        let mut status = newest.unwrap_or_default();
        for (_, old) in &self.draining {
            let Some(more) = status_of(old).await else { continue };
            said = true;
            for (instance, load) in more.instances {
                let entry = status.instances.entry(instance).or_default();
                entry.in_flight += load.in_flight;
                entry.pooled += load.pooled;
                entry.tunnels += load.tunnels;
                entry.answered += load.answered;
                entry.errors += load.errors;
                entry.times.resize(load.times.len().max(entry.times.len()), 0);
                entry.times.iter_mut().zip(load.times).for_each(|(sum, one)| *sum += one);
            }
        }
        said.then_some(status)
    }

    /// Whether an edge lives that says nothing: nobody knows what it has with instances.
    pub(crate) fn is_silent(&self) -> bool {
        let all = self.link.iter().chain(self.draining.iter().map(|(_, link)| link));
        all.into_iter().any(|link| link.is_dead() && !link.has_ended())
    }

    /// Asks every living edge the same, the newest first. A draining one may end before it answers.
    pub(crate) async fn ask_all(&self, request: &Request) -> Result<Vec<Reply>, Fault> {
        let mut replies = Vec::new();
        if let Some(link) = self.link.as_ref().filter(|link| !link.is_dead()) {
            let failed = |error| edge_fault("the edge did not answer", &error);
            replies.push(link.ask(request.clone(), Vec::new()).await.map_err(failed)?.0);
        }
        for (_, link) in self.draining.iter().filter(|(_, link)| !link.is_dead()) {
            let answer = link.ask(request.clone(), Vec::new()).await;
            replies.extend(answer.ok().map(|(reply, _)| reply));
        }
        Ok(replies)
    }
}

async fn status_of(link: &Link) -> Option<EdgeStatus> {
    match link.ask(Request::Status, Vec::new()).await {
        Ok((Reply::Status(status), _)) => Some(*status),
        _ => None,
    }
}
