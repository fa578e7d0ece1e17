//! WebSockets that stay open and echo.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::Target;
use super::connect::{Connection, Connector, failed_connect};
use super::report::{Outcome, Tally};

/// Between two messages of one WebSocket.
const PAUSE: Duration = Duration::from_millis(250);

struct Echoer {
    connector: Connector,
    patience: Duration,
    end: Instant,
    tally: Arc<Tally>,
    stopped: watch::Receiver<bool>,
}

/// Keeps `count` WebSockets open and echoing until the time is over or the run is stopped.
pub(crate) async fn run(
    target: Target,
    count: usize,
    patience: Duration,
    longest: Duration,
    tally: Arc<Tally>,
    stopped: watch::Receiver<bool>,
) {
    let connector = Connector::new(target, "http/1.1");
    let mut all = JoinSet::new();
    for number in 0..count {
        let (connector, tally, stopped) = (connector.clone(), Arc::clone(&tally), stopped.clone());
        let mut echoer =
            Echoer { connector, patience, end: Instant::now() + longest, tally, stopped };
        all.spawn(async move {
            // Spread over a second: a hundred handshakes at once are a load of another kind.
            echoer.over_after(Duration::from_millis((number as u64 * 10) % 1000)).await;
            while !echoer.over() {
                echoer.one_life(number).await;
            }
        });
    }
    while all.join_next().await.is_some() {}
}

impl Echoer {
    fn over(&self) -> bool {
        *self.stopped.borrow() || Instant::now() >= self.end
    }

    /// Waits, or less when the run is over; says whether it is.
    async fn over_after(&mut self, pause: Duration) -> bool {
        let until = (Instant::now() + pause).min(self.end);
        tokio::time::timeout_at(until, self.stopped.wait_for(|stop| *stop)).await.ok();
        self.over()
    }

    async fn one_life(&mut self, number: usize) {
        let Some(mut socket) = self.open().await else {
            self.over_after(Duration::from_millis(50)).await;
            return;
        };
        self.tally.web_socket(|ws| ws.opened += 1, None);
        for message in 0_u64.. {
            let text = format!("{number}-{message}");
            if !self.echo(&mut socket, &text).await {
                return;
            }
            if self.over_after(PAUSE).await {
                // One more, so that a break since the last one does not go unnoticed.
                self.echo(&mut socket, "last").await;
                tokio::time::timeout(Duration::from_secs(1), socket.close(None)).await.ok();
                return;
            }
        }
    }

    async fn open(&self) -> Option<WebSocketStream<Connection>> {
        let opening = async {
            let stream = self.connector.connect().await.map_err(|error| failed_connect(&error))?;
            let request = format!("{}/ws", self.connector.origin("ws"));
            match client_async(request, stream).await {
                Ok((socket, _)) => Ok(socket),
                Err(Error::Http(answer)) => Err(Outcome::Status(answer.status().as_u16())),
                Err(error) => Err(Outcome::Reset(error.to_string())),
            }
        };
        let failed = match tokio::time::timeout(self.patience, opening).await {
            Ok(Ok(socket)) => return Some(socket),
            Ok(Err(outcome)) => outcome,
            Err(_) => Outcome::Lost,
        };
        let what = Some(format!("could not be opened: {failed:?}"));
        self.tally.web_socket(
            |ws| match failed {
                Outcome::Refused => ws.refused += 1,
                Outcome::Status(_) => ws.not_upgraded += 1,
                Outcome::Lost => ws.lost += 1,
                _ => ws.reset += 1,
            },
            what,
        );
        None
    }

    /// One message there and back; false when the connection is over.
    async fn echo(&self, socket: &mut WebSocketStream<Connection>, text: &str) -> bool {
        let exchange = async {
            if let Err(error) = socket.send(Message::text(text)).await {
                return Some(Err(error));
            }
            socket.next().await
        };
        let Ok(answer) = tokio::time::timeout(self.patience, exchange).await else {
            self.tally.web_socket(|ws| ws.lost += 1, Some("no echo".to_owned()));
            return false;
        };
        match answer {
            Some(Ok(Message::Text(back))) if back.as_str() == text => {
                self.tally.web_socket(|ws| ws.echoes += 1, None);
                true
            }
            Some(Ok(Message::Close(frame))) => {
                let code = frame.map_or(1005, |frame| u16::from(frame.code));
                self.tally.web_socket(
                    |ws| *ws.closed.entry(code).or_default() += 1,
                    Some(format!("closed with {code}")),
                );
                false
            }
            Some(Ok(other)) => {
                self.tally.web_socket(
                    |ws| ws.wrong += 1,
                    Some(format!("`{other}` came back for `{text}`")),
                );
                true
            }
            Some(Err(error)) => {
                self.tally.web_socket(|ws| ws.reset += 1, Some(error.to_string()));
                false
            }
            None => {
                self.tally
                    .web_socket(|ws| ws.reset += 1, Some("ended without a close frame".to_owned()));
                false
            }
        }
    }
}
