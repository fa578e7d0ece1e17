//! The client's side of the control protocol.
//!
//! One connection for each call: calls are rare and a control process that died in between must not
//! matter. Errors say whether nobody answered, somebody else answered, or control refused.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use seaworthy_base::{Code, Fault};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::UnixStream;

use crate::model::Hello;

/// The longest answer that is not a stream, in bytes.
const MAX_ANSWER: usize = 64 << 20;

/// Why a call came to nothing.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error("no control process answers on `{}`", socket.display())]
    NotRunning {
        /// Where it was looked for.
        socket: PathBuf,
        /// What the connection attempt came to.
        #[source]
        source: io::Error,
    },
    /// Control said no.
    #[error("{0}")]
    Refused(Fault),
    /// Control ended before its answer did.
    #[error("the control process ended in the middle of its answer to `{call}`: {detail}")]
    CutOff {
        /// What was asked.
        call: String,
        /// What the connection said.
        detail: String,
    },
    /// The answer is none.
    #[error("the control process gave no sensible answer to `{call}`: {detail}")]
    Garbled {
        /// What was asked.
        call: String,
        /// What came instead.
        detail: String,
    },
}

impl ClientError {
    /// The error as people meet it.
    pub fn to_fault(&self) -> Fault {
        match self {
            Self::Refused(fault) => fault.clone(),
            Self::NotRunning { source, .. } => {
                Fault::new(Code::ControlNotRunning, self.to_string())
                    .because(source.to_string())
                    .next("seaworthy up DIR   (starts it, and adopts what still runs)")
            }
            Self::CutOff { .. } => Fault::new(Code::ControlCutOff, self.to_string())
                .next("seaworthy status   (whether another one has taken over)"),
            Self::Garbled { .. } => {
                Fault::new(Code::Internal, self.to_string()).next("seaworthy logs --control")
            }
        }
    }
}

/// Talks to one control process.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client for the control process behind `socket`; nothing is connected yet.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_path_buf() }
    }

    /// Who answers.
    pub async fn hello(&self) -> Result<Hello, ClientError> {
        self.get("/v1/hello").await
    }

    /// A question without a body.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.whole("GET", path, Bytes::new()).await
    }

    /// A question with a JSON body and one JSON answer.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.whole("POST", path, encode(path, body)?).await
    }

    /// A long piece of work; `each` sees every line of the answer as it comes, the last one is returned.
    pub async fn follow<P: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        mut each: impl FnMut(&P),
    ) -> Result<P, ClientError> {
        let mut response = self.send("POST", path, encode(path, body)?).await?;
        let garbled = |detail: String| ClientError::Garbled { call: path.to_owned(), detail };
        let cut_off = |detail: String| ClientError::CutOff { call: path.to_owned(), detail };
        if !response.status().is_success() {
            return Err(refusal(path, response).await);
        }
        let (mut pending, mut last) = (Vec::new(), None);
        while let Some(frame) = response.body_mut().frame().await {
            let frame = frame.map_err(|error| cut_off(error.to_string()))?;
            pending.extend_from_slice(frame.data_ref().map_or(&[][..], |data| &data[..]));
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                let progress: P =
                    serde_json::from_slice(&line).map_err(|error| garbled(error.to_string()))?;
                each(&progress);
                last = Some(progress);
            }
        }
        last.ok_or_else(|| cut_off("an empty answer".to_owned()))
    }

    async fn whole<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let response = self.send(method, path, body).await?;
        if !response.status().is_success() {
            return Err(refusal(path, response).await);
        }
        let answer = collect(path, response).await?;
        serde_json::from_slice(&answer).map_err(|error| ClientError::Garbled {
            call: path.to_owned(),
            detail: error.to_string(),
        })
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        body: Bytes,
    ) -> Result<http::Response<Incoming>, ClientError> {
        let not_running = |source| ClientError::NotRunning { socket: self.socket.clone(), source };
        let garbled = |detail: String| ClientError::Garbled { call: path.to_owned(), detail };
        let stream =
            tokio::time::timeout(Duration::from_secs(5), UnixStream::connect(&self.socket))
                .await
                .map_err(|_| not_running(io::ErrorKind::TimedOut.into()))?
                .map_err(not_running)?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| garbled(error.to_string()))?;
        tokio::spawn(connection);
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "control")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|error| garbled(error.to_string()))?;
        let response = sender.send_request(request).await;
        response.map_err(|error| ClientError::CutOff {
            call: path.to_owned(),
            detail: error.to_string(),
        })
    }
}

async fn collect(path: &str, response: http::Response<Incoming>) -> Result<Bytes, ClientError> {
    let limited = http_body_util::Limited::new(response.into_body(), MAX_ANSWER);
    let collected = limited.collect().await.map_err(|error| ClientError::CutOff {
        call: path.to_owned(),
        detail: error.to_string(),
    })?;
    Ok(collected.to_bytes())
}

/// What an answer without success says.
async fn refusal(path: &str, response: http::Response<Incoming>) -> ClientError {
    let status = response.status();
    match collect(path, response).await {
        Ok(answer) => serde_json::from_slice(&answer).map_or_else(
            |_| ClientError::Garbled { call: path.to_owned(), detail: format!("status {status}") },
            ClientError::Refused,
        ),
        Err(error) => error,
    }
}

fn encode(path: &str, body: &impl Serialize) -> Result<Bytes, ClientError> {
    serde_json::to_vec(body)
        .map(Bytes::from)
        .map_err(|error| ClientError::Garbled { call: path.to_owned(), detail: error.to_string() })
}
