//! What an end means: the reason from what is known about it, and whether memory is too much. Pure.

use std::time::Duration;

use seaworthy_sys::process::signal_name;

use crate::model::{ExitReason, Limits};

/// A program that ends so soon after the kernel took a process of it for lack of memory ended of that.
const OOM_CAUSE: Duration = Duration::from_secs(5);
/// So often in a row a port that was lost to a stranger is replaced without counting as an end.
const MOST_LOST_PORTS: u32 = 3;

/// What is known about an end.
#[derive(Debug, Clone)]
pub(crate) struct End {
    /// Why we ended it ourselves, if we did.
    pub(crate) forced: Option<ExitReason>,
    /// Whether it was being stopped.
    pub(crate) asked: bool,
    /// How long ago the kernel ended a process of it for lack of memory.
    pub(crate) starved: Option<Duration>,
    /// Its code, or else the signal that ended it.
    pub(crate) how: Result<i32, i32>,
}

impl End {
    /// The one reason that is reported.
    pub(crate) fn reason(self) -> ExitReason {
        // A parent that loses a child to it (a shell, npm) mostly ends with a code soon after.
        let starved = self.starved.is_some_and(|ago| ago < OOM_CAUSE) && self.how != Ok(0);
        match self.how {
            _ if self.forced.is_some() => self.forced.unwrap_or(ExitReason::Asked),
            _ if self.asked => ExitReason::Asked,
            _ if starved => ExitReason::OutOfMemory,
            Ok(code) => ExitReason::Code(code),
            Err(signal) => ExitReason::Signal(signal_name(signal)),
        }
    }
}

/// Whether an end was only the loss of a port to a stranger: it starts again at once, on another one.
pub(crate) fn starts_at_once(reason: &ExitReason, listened: bool, lost_in_a_row: u32) -> bool {
    !listened && matches!(reason, ExitReason::Code(_)) && lost_in_a_row < MOST_LOST_PORTS
}

/// What use of memory asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Memory {
    /// Nothing.
    Fine,
    /// To be replaced gracefully.
    Replace,
    /// To be ended now.
    TooMuch,
}

/// Judges a sample. The kernel ends what passes `memory_max` itself where it `enforces` that.
pub(crate) fn judge_memory(limits: &Limits, used: u64, enforces: bool) -> Memory {
    if !enforces && limits.memory_max.is_some_and(|max| used > max) {
        Memory::TooMuch
    } else if limits.memory_restart.is_some_and(|bound| used > bound) {
        Memory::Replace
    } else {
        Memory::Fine
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAIN: End = End { forced: None, asked: false, starved: None, how: Ok(1) };

    #[test]
    fn the_nearest_cause_is_the_reason() {
        assert_eq!(PLAIN.reason(), ExitReason::Code(1));
        assert_eq!(End { how: Err(9), ..PLAIN }.reason(), ExitReason::Signal("SIGKILL".to_owned()));
        let starved = End { starved: Some(Duration::from_secs(1)), ..PLAIN };
        assert_eq!(starved.clone().reason(), ExitReason::OutOfMemory);
        assert_eq!(End { how: Ok(0), ..starved.clone() }.reason(), ExitReason::Code(0));
        assert_eq!(End { asked: true, ..starved.clone() }.reason(), ExitReason::Asked);
        let hung = End { forced: Some(ExitReason::Hung), asked: true, ..starved };
        assert_eq!(hung.reason(), ExitReason::Hung);
        let long_ago = End { starved: Some(Duration::from_secs(60)), ..PLAIN };
        assert_eq!(long_ago.reason(), ExitReason::Code(1));
    }

    #[test]
    fn a_port_is_not_lost_for_ever() {
        assert!(starts_at_once(&ExitReason::Code(1), false, 0));
        assert!(!starts_at_once(&ExitReason::Code(1), true, 0));
        assert!(!starts_at_once(&ExitReason::Hung, false, 0));
        assert!(!starts_at_once(&ExitReason::Code(1), false, MOST_LOST_PORTS));
    }

    proptest! {
        #[test]
        fn memory_is_never_ended_below_its_limit_nor_where_the_kernel_does_it(
            max in prop::option::of(0u64..100), restart in prop::option::of(0u64..100),
            used in 0u64..120, enforces: bool
        ) {
            let limits = Limits { memory_max: max, memory_restart: restart, ..Limits::default() };
            let found = judge_memory(&limits, used, enforces);
            prop_assert_eq!(found == Memory::TooMuch, !enforces && max.is_some_and(|max| used > max));
            if found == Memory::Fine {
                prop_assert!(restart.is_none_or(|bound| used <= bound));
            }
        }
    }
}
