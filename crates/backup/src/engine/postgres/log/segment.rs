//! Names of the log's files (eight digits each for timeline, and a number's high and low part): pure.

use std::collections::BTreeSet;

/// The number of a file; none for what is no complete file of the log.
pub(super) fn number(name: &str, size: u64) -> Option<u64> {
    let hex = name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let part = |from: usize| u64::from_str_radix(name.get(from..from + 8)?, 16).ok();
    let per = (1 << 32) / size.max(1);
    if hex { Some(part(8)? * per + part(16)?) } else { None }
}

/// Whether a file belongs to the log: complete, or the note about where a timeline began.
pub(super) fn is_whole(name: &str) -> bool {
    number(name, 16 << 20).is_some()
        || (name.len() == 16
            && name.ends_with(".history")
            && name.get(..8).is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit())))
}

/// The last number that is reached from `first` without a gap; none when not even `first` is there.
pub(super) fn reaches(first: u64, have: &BTreeSet<u64>) -> Option<u64> {
    let run = have.range(first..).zip(first..).take_while(|(is, should)| **is == *should);
    run.last().map(|(number, _)| *number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn name(timeline: u32, number: u64, size: u64) -> String {
        let per = (1 << 32) / size;
        format!("{timeline:08X}{:08X}{:08X}", number / per, number % per)
    }

    #[test]
    fn names_are_those_that_the_server_gives() {
        assert_eq!(name(1, 0x1_0000_0028 / (16 * MIB), 16 * MIB), "000000010000000100000000");
        assert_eq!(name(2, 0x0400_0028 / (16 * MIB), 16 * MIB), "000000020000000000000004");
        assert_eq!(number("000000010000000000000004.partial", 16 * MIB), None);
        assert!(is_whole("00000002.history") && !is_whole("000000010000000000000004.partial"));
        assert!(!is_whole("../0000002.history"));
    }

    #[test]
    fn a_gap_ends_what_is_reached() {
        assert_eq!(reaches(3, &[1, 3, 4, 6].into()), Some(4));
        assert_eq!(reaches(5, &[1, 3, 4, 6].into()), None);
    }

    proptest! {
        #[test]
        fn a_name_has_its_number(at in 0u64..1 << 40, power in 0u32..11, timeline in 1u32..100) {
            let size = MIB << power;
            let at = at / size;
            prop_assert_eq!(number(&name(timeline, at, size), size), Some(at));
        }
    }
}
