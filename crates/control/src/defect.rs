//! Panics: defects of ours, caught where work begins, named, and outlived.
//!
//! A task that panics is gone without a word to anybody: a deployment would leave its journal open, a loop would stand
//! still while control answers as if all were well. Invariants: the text of a panic reaches whoever asked for the work,
//! or the events where nobody did; a loop that panicked begins again; nothing else of control ends. Not here: what a
//! deployment comes to that panicked (`release::resume`).

use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use seaworthy_base::{Code, Fault};

use crate::platform::Platform;

/// A loop that panicked begins again after this long: one that does so at once must not take the processor.
const AGAIN: Duration = Duration::from_secs(1);

/// Does work to its end; a panic in it is the fault. What the work holds is dropped then. That half-changed things of
/// control's can be seen afterwards is as true of its locks, which do not ask either.
pub(crate) fn caught<T>(work: impl Future<Output = T>) -> impl Future<Output = Result<T, Fault>> {
    // A deployment's is large, and stands in the futures of all that wait for it.
    let mut work = Box::pin(work);
    poll_fn(move |context| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(done)) => Poll::Ready(Ok(done)),
        Err(panic) => Poll::Ready(Err(fault(&*panic))),
    })
}

fn fault(panic: &(dyn Any + Send)) -> Fault {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    Fault::new(Code::Internal, "control met a defect of its own")
        .because(text.unwrap_or_else(|| "a panic without words".to_owned()))
        .next("seaworthy logs --control   (says where; please report it)")
}

/// Runs a loop as long as control lives.
pub(crate) fn keep_running<F>(
    platform: &Arc<Platform>,
    name: &'static str,
    work: fn(Arc<Platform>) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let platform = Arc::clone(platform);
    tokio::spawn(async move {
        while let Err(fault) = caught(work(Arc::clone(&platform))).await {
            let what = format!("the loop of {name} begins again: {fault}");
            crate::say(&what);
            platform.event(None, None, "defect", &what, Some(&fault));
            tokio::time::sleep(AGAIN).await;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_a_fault_with_its_words_and_what_is_well_goes_through() {
        assert_eq!(caught(async { 7 }).await, Ok(7));
        let number = 3;
        let work = async {
            tokio::task::yield_now().await;
            assert_eq!(number, 4, "no four");
        };
        let fault = caught(work).await.unwrap_err();
        assert_eq!(fault.code, Code::Internal);
        assert!(fault.causes[0].contains("no four"), "{fault:?}");
    }
}
