//! When what lives long has to end: WebSockets and event streams on an instance, or an edge, that goes.
//!
//! A drain gives them a span, and each ends at a moment of its own in it, so that clients that come back do
//! not come all at once. Invariants: nothing ends before a span was given; a span that was given stays as it is
//! until it is taken back. Not here: how they are told (`serve::tunnel` for WebSockets, `body` for streams).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::instance::Load;
use crate::snapshot::Shared;

/// Parts of a hundred of the time: none ends before the first, all are told before the second. The rest is
/// for their answers.
const SPREAD: (u32, u32) = (10, 80);

/// From when to when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    within: Duration,
    from: Instant,
    until: Instant,
}

/// Whether something ends, for all that depend on it.
#[derive(Debug, Default)]
pub(crate) struct Ending(watch::Sender<Option<Span>>);

impl Ending {
    /// It ends within that time. Said again, it stays with what was said first.
    pub(crate) fn set(&self, within: Duration) {
        self.0.send_if_modified(|span| {
            if span.is_some_and(|span| span.within == within) {
                return false;
            }
            let now = Instant::now();
            let at = |part: u32| now + within * part / 100;
            *span = Some(Span { within, from: at(SPREAD.0), until: at(SPREAD.1) });
            true
        });
    }

    /// It does not end after all.
    pub(crate) fn take_back(&self) {
        self.0.send_if_modified(|span| span.take().is_some());
    }

    /// Waits for a moment of its own in the span.
    async fn over(&self) {
        let mut spans = self.0.subscribe();
        loop {
            let span = *spans.borrow_and_update();
            let moment = async {
                let Some(Span { from, until, .. }) = span else {
                    return std::future::pending().await;
                };
                let length = until.duration_since(from);
                tokio::time::sleep_until(from + length.mul_f64(rand::random())).await;
            };
            tokio::select! {
                () = moment => return,
                changed = spans.changed() => if changed.is_err() { return },
            }
        }
    }
}

/// Waits until what goes over that instance has to end, for its sake or for the edge's.
pub(crate) async fn over(load: Arc<Load>, shared: Arc<Shared>) {
    tokio::select! {
        () = load.ending.over() => {}
        () = shared.ending.over() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_ends_at_a_moment_of_its_own_within_the_span_and_none_without_one() {
        let ending = Arc::new(Ending::default());
        let begun = Instant::now();
        let early = tokio::time::timeout(Duration::from_secs(600), ending.over()).await;
        assert!(early.is_err());
        ending.set(Duration::from_secs(100));
        let told = Instant::now();
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let ending = Arc::clone(&ending);
            waiting.spawn(async move {
                ending.over().await;
                told.elapsed().as_millis()
            });
        }
        let mut moments = waiting.join_all().await;
        assert!(moments.iter().all(|at| (10_000..=80_010).contains(at)), "{moments:?}");
        moments.sort_unstable();
        moments.dedup();
        assert!(moments.len() > 10, "{moments:?}");
        ending.take_back();
        let early = tokio::time::timeout(Duration::from_secs(600), ending.over()).await;
        assert!(early.is_err() && begun.elapsed() > Duration::from_secs(1200));
    }
}
