//! The worker's role: one job from standard input, events on standard output, answers on standard input.
//!
//! It is shut in before it speaks to anybody (`seaworthy_sys::sandbox`): no files, no programs, TCP only. It
//! ends when its standard input ends: control went away, and the next one starts another.

use std::io::{self, BufRead, Write};

use seaworthy_base::{Code, Exit, Fault};
use tokio::sync::Mutex;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use crate::client::Client;
use crate::dns::Resolver;
use crate::model::{Action, Answer, Event, Job, Refusal};
use crate::order;
use crate::window;

/// Speaks with control.
#[derive(Debug)]
pub(crate) struct Voice {
    answers: Mutex<UnboundedReceiver<Answer>>,
}

impl Voice {
    /// Says something. Nobody may be listening any more; then standard input ends, too.
    #[expect(clippy::unused_self, reason = "only who does a job speaks for it")]
    pub(crate) fn say(&self, event: &Event) {
        let Ok(mut line) = serde_json::to_vec(event) else { return };
        line.push(b'\n');
        let mut out = io::stdout().lock();
        out.write_all(&line).and_then(|()| out.flush()).ok();
    }

    /// Asks for something and waits until it is so.
    pub(crate) async fn ask(&self, event: &Event) -> Result<(), Fault> {
        let mut answers = self.answers.lock().await;
        self.say(event);
        match answers.recv().await {
            Some(Answer::Done) => Ok(()),
            Some(Answer::Failed { fault }) => Err(fault),
            None => Err(Fault::new(Code::Internal, "control does not answer")),
        }
    }

    /// A step begins.
    pub(crate) fn step(&self, text: impl Into<String>) {
        self.say(&Event::Step { text: text.into() });
    }
}

/// Does the job.
pub fn main() -> Exit {
    seaworthy_sys::process::lower_memory_use();
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line);
    let Ok(Ok(job)) = read.map(|_| serde_json::from_str(&line)) else { return Exit::Usage };
    let (sender, answers) = mpsc::unbounded_channel();
    let voice = Voice { answers: Mutex::new(answers) };
    if let Err(fault) = work(&job, &voice, sender) {
        voice.say(&Event::Failed { fault });
    }
    Exit::Ok
}

fn work(job: &Job, voice: &Voice, sender: UnboundedSender<Answer>) -> Result<(), Fault> {
    let internal = |what: &str, why: String| Fault::new(Code::Internal, what).because(why);
    let client = Client::new(Resolver::system(&job.resolvers), job.roots_pem.as_deref());
    let client = client.map_err(|why| {
        Fault::new(Code::CertificateUnfit, "the roots that `ca` names cannot be used").because(why)
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| internal("no runtime", error.to_string()))?;
    if let Some((uid, gid)) = job.user {
        seaworthy_sys::process::drop_to_user(uid, gid, &[gid])
            .map_err(|error| internal("the worker's user cannot be taken", error.to_string()))?;
    }
    seaworthy_sys::sandbox::enter(&seaworthy_sys::sandbox::Rules::default())
        .map_err(|error| internal("the worker could not be shut in", error.to_string()))?;
    seaworthy_sys::sandbox::attempt("worker");
    std::thread::Builder::new()
        .name("answers".to_owned())
        .stack_size(256 << 10)
        .spawn(move || read_answers(&sender))
        .map_err(|error| internal("no thread", error.to_string()))?;
    runtime.block_on(async {
        match &job.action {
            Action::Obtain => order::obtain(job, &client, voice).await?,
            Action::Rehearse => order::rehearse(job, &client, voice).await?,
            Action::AskWindow { directory, chain_pem } => {
                ask_window(&client, voice, directory, chain_pem).await?;
            }
        }
        voice.say(&Event::Done);
        Ok(())
    })
}

async fn ask_window(
    client: &Client,
    voice: &Voice,
    directory: &str,
    chain_pem: &str,
) -> Result<(), Fault> {
    let asked = window::ask(client, directory, chain_pem).await;
    match &asked {
        Ok(window) => voice.say(&Event::Window { window: window.clone() }),
        Err(fault) => {
            let (directory, fault) = (directory.to_owned(), fault.clone());
            let not_before = client.take_patience();
            voice.say(&Event::Refused { refusal: Refusal { directory, fault, not_before } });
        }
    }
    asked.map(drop)
}

#[expect(
    clippy::exit,
    reason = "whoever asked is gone: what was begun is taken up by the next one"
)]
fn read_answers(to: &UnboundedSender<Answer>) {
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let Ok(answer) = serde_json::from_str(&line) else { continue };
        if to.send(answer).is_err() {
            return;
        }
    }
    std::process::exit(Exit::Interrupted as i32);
}
