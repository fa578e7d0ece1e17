//! The client's side of the control protocol.
//!
//! One connection for each call: calls are rare and a control process that died in between must not
//! matter. Errors say whether nobody answered, somebody else answered, or control refused.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
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
    /// The answer was cut off or is none.
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
        let (mut pending, mut last) = (Vec::new(), None);
        while let Some(frame) = response.body_mut().frame().await {
            let frame = frame.map_err(|error| garbled(format!("cut off: {error}")))?;
            pending.extend_from_slice(frame.data_ref().map_or(&[][..], |data| &data[..]));
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                let progress: P =
                    serde_json::from_slice(&line).map_err(|error| garbled(error.to_string()))?;
                each(&progress);
                last = Some(progress);
            }
        }
        last.ok_or_else(|| garbled("an empty answer".to_owned()))
    }

    async fn whole<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let response = self.send(method, path, body).await?;
        let garbled = |detail: String| ClientError::Garbled { call: path.to_owned(), detail };
        let status = response.status();
        let limited = http_body_util::Limited::new(response.into_body(), MAX_ANSWER);
        let answer =
            limited.collect().await.map_err(|error| garbled(error.to_string()))?.to_bytes();
        if status.is_success() {
            return serde_json::from_slice(&answer).map_err(|error| garbled(error.to_string()));
        }
        match serde_json::from_slice::<Fault>(&answer) {
            Ok(fault) => Err(ClientError::Refused(fault)),
            Err(_) => Err(garbled(format!("status {status}"))),
        }
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        body: Bytes,
    ) -> Result<http::Response<hyper::body::Incoming>, ClientError> {
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
        response.map_err(|error| garbled(format!("the connection ended: {error}")))
    }
}

fn encode(path: &str, body: &impl Serialize) -> Result<Bytes, ClientError> {
    serde_json::to_vec(body)
        .map(Bytes::from)
        .map_err(|error| ClientError::Garbled { call: path.to_owned(), detail: error.to_string() })
}
