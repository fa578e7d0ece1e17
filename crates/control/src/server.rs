//! The control socket: routes, and who may talk.
//!
//! A Unix socket of mode 0600; besides, the peer's credentials are checked: only root and the user that
//! control runs as. Long work answers with one JSON object a line and goes on when the client leaves.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::stream;
use seaworthy_api::model::{
    ApplyRequest, AuditRequest, ClearRequest, Cleared, DownRequest, ExecRequest, ExplainRequest,
    GateRequest, Hello, JobRequest, LimitsView, OrderRequest, PurgeRequest, ReleasesRequest,
    RestartRequest, RollbackRequest, ScaleRequest, UpgradeRequest, VERSION,
};
use seaworthy_base::Fault;
use serde::Serialize;
use tokio::net::{UnixListener, UnixStream, unix};
use tokio::sync::mpsc;

use crate::edge_link::build_id;
use crate::platform::Platform;
use crate::release::{self, Reporter};
use crate::{backups, by_hand, certificates, counts, explain, jobs, lifecycle, status, upgrade};

pub(crate) type Shared = State<Arc<Platform>>;

/// A fault as an answer: 422, since the request was understood and refused.
pub(crate) struct Refusal(pub(crate) Fault);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (StatusCode::UNPROCESSABLE_ENTITY, Json(self.0)).into_response()
    }
}

/// Binds the control socket, replacing the one of a dead control (the lock says that it is dead).
pub(crate) fn bind(socket: &PathBuf) -> io::Result<UnixListener> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves until the task is dropped.
pub(crate) async fn serve(listener: UnixListener, platform: Arc<Platform>) -> io::Result<()> {
    let uid = seaworthy_sys::process::current_uid();
    let routes = Router::new()
        .route("/v1/hello", get(hello))
        .route("/v1/status", get(full_status))
        .route("/v1/apply", post(apply_folder))
        .route("/v1/rollback", post(roll_back))
        .route("/v1/releases", post(releases))
        .route("/v1/order", post(order))
        .route("/v1/gate", post(gate))
        .route("/v1/scale", post(scale))
        .route("/v1/exec", post(exec))
        .route("/v1/audit", post(audit))
        .route("/v1/jobs", post(list_jobs))
        .route("/v1/jobs/run", post(run_job))
        .route("/v1/upgrade", post(upgrade_to))
        .route("/v1/down", post(down))
        .route("/v1/restart", post(restart))
        .route("/v1/explain", post(explain_why))
        .merge(backups::routes())
        .merge(certificates::routes())
        .route("/v1/limits", get(limits))
        .route("/v1/limits/clear", post(clear_limits))
        .route("/v1/cache/purge", post(purge_cache))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&platform), refuse_at_the_end))
        .with_state(platform);
    axum::serve(OwnUsersOnly { listener, uid }, routes).await
}

/// Nothing is begun any more by a control that ends.
async fn refuse_at_the_end(State(platform): Shared, request: Request, next: Next) -> Response {
    if platform.world().closing {
        return Refusal(lifecycle::ending()).into_response();
    }
    next.run(request).await
}

/// Accepts only peers that are root or ourselves.
struct OwnUsersOnly {
    listener: UnixListener,
    uid: u32,
}

impl axum::serve::Listener for OwnUsersOnly {
    type Io = UnixStream;
    type Addr = unix::SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => match stream.peer_cred() {
                    Ok(peer) if peer.uid() == 0 || peer.uid() == self.uid => {
                        return (stream, address);
                    }
                    Ok(peer) => crate::say(&format!(
                        "refused a connection of user {} to the control socket",
                        peer.uid()
                    )),
                    Err(error) => {
                        crate::say(&format!("refused a connection without credentials: {error}"))
                    }
                },
                Err(error) => {
                    crate::say(&format!("could not accept on the control socket: {error}"));
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

async fn hello(State(platform): Shared) -> Json<Hello> {
    Json(Hello {
        v: VERSION,
        build: build_id(),
        pid: std::process::id(),
        boot_id: seaworthy_sys::process::boot_id(),
        state: platform.layout.state.clone(),
        program: platform.program.clone(),
        identity: platform.identity.clone(),
    })
}

async fn full_status(State(platform): Shared) -> Response {
    Json(status::platform_status(&platform).await).into_response()
}

async fn apply_folder(State(platform): Shared, Json(request): Json<ApplyRequest>) -> Response {
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        release::apply(&platform, request, &Reporter(sender)).await;
        // Most of what a release takes is not needed again before the next one.
        tokio::time::sleep(Duration::from_millis(500)).await;
        seaworthy_sys::process::forget_code();
    });
    lines(receiver)
}

async fn roll_back(State(platform): Shared, Json(request): Json<RollbackRequest>) -> Response {
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        release::rollback(&platform, request, &Reporter(sender)).await;
    });
    lines(receiver)
}

async fn releases(
    State(platform): Shared,
    Json(request): Json<ReleasesRequest>,
) -> Result<Response, Refusal> {
    let answer = release::releases(&platform, &request.site).map_err(Refusal)?;
    Ok(Json(answer).into_response())
}

async fn order(
    State(platform): Shared,
    Json(request): Json<OrderRequest>,
) -> Result<Response, Refusal> {
    let answer = release::order(&platform, &request).map_err(Refusal)?;
    Ok(Json(answer).into_response())
}

/// An answer of one JSON object a line, as they come.
pub(crate) fn lines<T: Serialize + Send + 'static>(
    receiver: mpsc::UnboundedReceiver<T>,
) -> Response {
    let each = stream::unfold(receiver, |mut receiver| async {
        let progress = receiver.recv().await?;
        let mut line = serde_json::to_vec(&progress).unwrap_or_default();
        line.push(b'\n');
        Some((Ok::<_, Infallible>(Bytes::from(line)), receiver))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(each)).into_response()
}

async fn gate(
    State(platform): Shared,
    Json(request): Json<GateRequest>,
) -> Result<Response, Refusal> {
    Ok(Json(by_hand::gate(&platform, &request).await.map_err(Refusal)?).into_response())
}

async fn scale(
    State(platform): Shared,
    Json(request): Json<ScaleRequest>,
) -> Result<Response, Refusal> {
    Ok(Json(by_hand::scale(&platform, &request).map_err(Refusal)?).into_response())
}

async fn exec(
    State(platform): Shared,
    Json(request): Json<ExecRequest>,
) -> Result<Response, Refusal> {
    Ok(Json(by_hand::exec(&platform, &request).map_err(Refusal)?).into_response())
}

async fn audit(
    State(platform): Shared,
    Json(request): Json<AuditRequest>,
) -> Result<Response, Refusal> {
    Ok(Json(by_hand::audit(&platform, &request).map_err(Refusal)?).into_response())
}

async fn list_jobs(
    State(platform): Shared,
    Json(request): Json<JobRequest>,
) -> Result<Response, Refusal> {
    Ok(Json(jobs::list(&platform, &request.site).map_err(Refusal)?).into_response())
}

async fn run_job(
    State(platform): Shared,
    Json(request): Json<JobRequest>,
) -> Result<Response, Refusal> {
    jobs::start_now(&platform, &request.site, &request.job).map_err(Refusal)?;
    let subject = format!("{}/{}", request.site, request.job);
    platform.audit(&request.asker.who, "job-run", &subject, "");
    Ok(Json(subject).into_response())
}

async fn upgrade_to(
    State(platform): Shared,
    Json(request): Json<UpgradeRequest>,
) -> Result<Response, Refusal> {
    let who = &request.asker.who;
    upgrade::prepare(&platform, &request.program, who).await.map_err(Refusal)?;
    let answer = Json(platform.identity.clone()).into_response();
    tokio::spawn(async move {
        // The answer goes out first.
        tokio::time::sleep(Duration::from_millis(50)).await;
        platform.next_program.set(request.program);
    });
    Ok(answer)
}

async fn down(
    State(platform): Shared,
    Json(request): Json<DownRequest>,
) -> Result<Response, Refusal> {
    let stopped = lifecycle::down(&platform, request.site.as_deref()).await.map_err(Refusal)?;
    Ok(Json(stopped).into_response())
}

async fn restart(
    State(platform): Shared,
    Json(request): Json<RestartRequest>,
) -> Result<Response, Refusal> {
    let restarted = lifecycle::restart(&platform, &request.target).await.map_err(Refusal)?;
    Ok(Json(restarted).into_response())
}

async fn limits(State(platform): Shared) -> Result<Response, Refusal> {
    let lockouts = counts::lockouts(&platform).await.map_err(Refusal)?;
    Ok(Json(LimitsView { v: VERSION, lockouts }).into_response())
}

async fn clear_limits(
    State(platform): Shared,
    Json(request): Json<ClearRequest>,
) -> Result<Response, Refusal> {
    let count = counts::clear(&platform, request).await.map_err(Refusal)?;
    Ok(Json(Cleared { count }).into_response())
}

async fn purge_cache(
    State(platform): Shared,
    Json(request): Json<PurgeRequest>,
) -> Result<Response, Refusal> {
    let count = counts::purge(&platform, request).await.map_err(Refusal)?;
    Ok(Json(Cleared { count }).into_response())
}

async fn explain_why(
    State(platform): Shared,
    Json(question): Json<ExplainRequest>,
) -> Result<Response, Refusal> {
    let answer = explain::explain(&platform, &question).await.map_err(Refusal)?;
    Ok(Json(answer).into_response())
}
