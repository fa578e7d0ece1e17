//! One connection to an instance.
//!
//! Nobody else runs it: whoever waits for it reads and writes it, so the request, the response and the
//! client's connection are one task, and nothing is handed from task to task. Invariant: an idle link has
//! no unread bytes and holds no room for any.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use http::HeaderMap;
use http::HeaderName;
use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use super::Outgoing;
use crate::instance::Instance;
use crate::model::Settings;
use crate::proxy_header;
use crate::rooms::make_room;
use crate::socket::Socket;
use crate::watch::within;
use crate::worker::Local;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// A connection, and what was read of it and not yet taken.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) stream: Socket,
    pub(super) bytes: BytesMut,
    /// How long it may be idle, as far as the instance said (`Keep-Alive: timeout=`).
    pub(super) patience: Duration,
    /// When the last answer began; before the first, when it was opened.
    pub(super) heard: Instant,
}

impl Link {
    pub(super) fn new(stream: Socket, bytes: BytesMut, patience: Duration) -> Self {
        Self { stream, bytes, patience, heard: Instant::now() }
    }

    /// Reads more, about as much as is `wanted`; 0 at the end.
    pub(super) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        wanted: u64,
    ) -> Poll<io::Result<usize>> {
        make_room(&mut self.bytes, wanted);
        pin!(self.stream.read_buf(&mut self.bytes)).poll(context)
    }

    /// Whether nothing came while it was idle, the end included; as far as the runtime knows.
    pub(super) fn is_quiet(&self) -> bool {
        let nothing = self.stream.try_read(&mut [0]);
        matches!(nothing, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// The same, asked of the kernel: for a request that cannot be sent again.
    pub(super) fn is_quiet_now(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        recv(&self.stream, &mut [0_u8; 1], flags).err() == Some(rustix::io::Errno::AGAIN)
    }

    /// Notes that an answer begins, and for how long the instance keeps an idle connection.
    pub(super) fn hear(&mut self, headers: &HeaderMap) {
        self.heard = Instant::now();
        let said = headers.get(KEEP_ALIVE).and_then(|value| value.to_str().ok());
        let timeout = said.and_then(|said| {
            said.split(',')
                .find_map(|part| part.trim().strip_prefix("timeout=")?.parse::<u64>().ok())
        });
        if let Some(seconds) = timeout {
            // A second less: the request must not meet the instance's closing.
            let kept = Duration::from_secs(seconds.saturating_sub(1));
            self.patience = kept.min(super::pool::IDLE);
        }
    }
}

/// A pooled connection, or a new one, or why there is none. The flag says whether it was used before.
pub(super) async fn get(
    local: &Rc<Local>,
    instance: &Arc<Instance>,
    settings: &Settings,
    request: &Outgoing<'_>,
) -> Result<(Link, bool), String> {
    while let Some(mut link) = local.pool.take(instance.key(), request.begun) {
        if request.replayable || link.is_quiet_now() {
            link.bytes = local.rooms.buffer();
            return Ok((link, true));
        }
    }
    let limit = Duration::from_millis(settings.connect_ms);
    let connect = async {
        let mut stream = Socket::connect(&instance.address).await?;
        if instance.proxy_header {
            let header = proxy_header::write(request.client, instance.public_address());
            stream.write_all(&header).await?;
        }
        match (request.tls, stream) {
            (Some(tls), Socket::Tcp(stream)) => {
                tls.handshake(stream).await.map(|stream| Socket::Tls(Box::new(stream)))
            }
            (_, stream) => io::Result::Ok(stream),
        }
    };
    let stream = match Box::pin(within(&local.watch, limit, connect)).await {
        Some(Ok(stream)) => stream,
        Some(Err(error)) => return Err(error.to_string()),
        None => return Err(format!("no connection within {} ms", limit.as_millis())),
    };
    Ok((Link::new(stream, local.rooms.buffer(), super::pool::IDLE), false))
}
