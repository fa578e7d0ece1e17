//! `[job.X]`: what runs at its time.

use std::time::Duration;

use seaworthy_base::ServiceName;
use serde::{Deserialize, Serialize};

use super::Command;
use crate::cron::Cron;

/// One `[job.X]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its name.
    pub name: String,
    /// When.
    pub when: When,
    /// What.
    pub work: Work,
    /// `timeout`: how long it may take.
    pub timeout: Duration,
}

/// When a job runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// `at`: each day at this minute of the day.
    At(u16),
    /// `every`: so long after the last time.
    Every(Duration),
    /// `cron`.
    Cron(Cron),
}

/// What a job does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// `service` and `run`: commands in a service's environment, folder and user.
    Run {
        /// Which service.
        service: ServiceName,
        /// Run in order; the first failure is the end.
        commands: Vec<Command>,
    },
    /// `get` or `post`: a request to the site itself, through the edge.
    Request {
        /// `GET` or `POST`.
        method: String,
        /// One of the site's hosts; the first when absent.
        host: Option<String>,
        /// The path, with a query where there is one.
        path: String,
        /// The secret that is sent as `Authorization: Bearer`.
        bearer: Option<String>,
    },
}
