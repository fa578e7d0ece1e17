//! Who draws, who forgets, and what lies in the memory when: with clocks of the tests' own.

use std::sync::Barrier;

use super::*;
use crate::table::tests::dies_before;

fn words() -> Vec<AtomicU64> {
    (0..WORDS).map(|_| AtomicU64::new(0)).collect()
}

/// What somebody learns who reads the memory.
fn seen(words: &[AtomicU64]) -> Vec<u64> {
    words.iter().map(|word| word.load(Ordering::Relaxed)).collect()
}

/// Whether a part of a secret can be found in it.
fn holds(seen: &[u64], secret: &Secret) -> bool {
    secret.as_chunks::<8>().0.iter().any(|part| seen.contains(&u64::from_ne_bytes(*part)))
}

#[test]
fn a_secret_is_drawn_in_its_span_one_for_all_and_is_gone_two_spans_later() {
    let words = words();
    let (one, other) = (Secrets::new(&words).unwrap(), Secrets::new(&words).unwrap());
    let mut all: Vec<Secret> = Vec::new();
    for span in 1000..1010 {
        let before = seen(&words);
        assert_eq!(other.read(span), None, "before its time");
        let secret = one.draw(span).unwrap();
        assert!(!holds(&before, &secret), "it could be told in advance");
        assert_eq!([other.draw(span), other.read(span)], [Some(secret); 2]);
        // The former one still lies there, and none of the older ones.
        if let Some((former, older)) = all.split_last() {
            assert_eq!(other.read(span - 1).as_ref(), Some(former));
            assert!(!older.iter().any(|older| holds(&seen(&words), older)), "{span}");
        }
        all.push(secret);
    }
}

#[test]
fn a_clock_that_is_behind_or_ahead_by_less_than_a_span_disturbs_nobody() {
    let words = words();
    let secrets = Secrets::new(&words).unwrap();
    let [one, other] = [10, 11].map(|span| secrets.draw(span).unwrap());
    // Behind: its own, and the one that has begun for others.
    assert_eq!((secrets.draw(10), secrets.read(11)), (Some(one), Some(other)));
    for span in [10, 11] {
        secrets.forget(span);
        assert_eq!([10, 11].map(|span| secrets.read(span)), [Some(one), Some(other)]);
    }
    // Nobody asked in the span before, and then somebody who is behind does.
    let late = secrets.draw(13).unwrap();
    secrets.forget(13);
    assert!(!holds(&seen(&words), &one) && !holds(&seen(&words), &other));
    assert_eq!(secrets.read(12), None);
    assert!(secrets.draw(12).is_some());
    assert_eq!(secrets.draw(13), Some(late));
    // Whoever is two spans late takes it from the others, and they draw again.
    let later = secrets.draw(11).unwrap();
    assert!(later != other && secrets.read(13).is_none());
    assert!(secrets.draw(13).is_some_and(|again| again != late));
}

#[test]
fn who_was_slow_to_forget_touches_nothing_that_was_drawn_since() {
    let words = words();
    let secrets = Secrets::new(&words).unwrap();
    secrets.draw(5).unwrap();
    let later = secrets.draw(7).unwrap();
    let (of, place) = secrets.place(5);
    assert!(!clear(of, 5, place));
    assert_eq!(secrets.read(7), Some(later));
}

#[test]
fn what_nobody_asks_for_any_more_is_forgotten_all_the_same() {
    let words = words();
    let secrets = Secrets::new(&words).unwrap();
    let all = [20, 21].map(|span| secrets.draw(span).unwrap());
    secrets.forget(22);
    assert_eq!([20, 21].map(|span| holds(&seen(&words), &all[span - 20])), [false, true]);
    secrets.forget(23);
    assert!(!holds(&seen(&words), &all[1]));
    // Neither in days to come, for a clock that was ahead.
    let ahead = secrets.draw(99).unwrap();
    secrets.forget(24);
    assert!(!holds(&seen(&words), &ahead));
}

#[test]
fn no_clock_and_no_nonsense_makes_a_secret_that_could_be_guessed() {
    let nonsense = [0, 1, 4, 5, 6, 7, u64::MAX];
    for span in [0, 1, 5, u64::MAX / 2] {
        for (one, other) in nonsense.iter().flat_map(|one| nonsense.map(|other| (*one, other))) {
            let words = words();
            words[0].store(one, Ordering::Relaxed);
            words[1 + SECRET].store(other, Ordering::Relaxed);
            let secrets = Secrets::new(&words).unwrap();
            let secret = secrets.draw(span).unwrap();
            assert!(secret.as_chunks::<8>().0.iter().all(|word| *word != [0; 8]));
            secrets.forget(span);
            assert_eq!(secrets.draw(span), Some(secret));
        }
    }
    // A part of it is none.
    let words = words();
    let secrets = Secrets::new(&words).unwrap();
    secrets.draw(4).unwrap();
    words[1].store(0, Ordering::Relaxed);
    assert_eq!(secrets.read(4), None);
    assert!(Secrets::new(&words[1..]).is_none() && Secrets::new(&[]).is_none());
}

#[test]
fn who_dies_at_any_step_leaves_a_table_on_which_the_others_agree() {
    let mut deaths = 0;
    for write in 0.. {
        let words = words();
        let (one, other) = (Secrets::new(&words).unwrap(), Secrets::new(&words).unwrap());
        let (older, former) = (one.draw(5).unwrap(), one.draw(6).unwrap());
        let died = dies_before(write, || assert!(one.draw(7).is_some()));
        deaths += usize::from(died);
        // Before anybody goes on, the former one is whole, and of the older one nothing is taken for a secret.
        assert_eq!(other.read(6), Some(former), "{write}");
        assert!(other.read(5).is_none_or(|read| read == older), "{write}");
        let secret = other.draw(7).unwrap();
        assert_eq!([one.draw(7), one.read(7)], [Some(secret); 2], "{write}");
        assert!(!holds(&seen(&words), &older), "{write}");
        if !died {
            break;
        }
    }
    // Four words to forget, the span, four words to draw.
    assert_eq!(deaths, 9);
}

#[test]
fn those_who_pass_into_a_span_at_once_agree_on_its_secret() {
    let words = words();
    let spans = 1000..1300;
    let barrier = Barrier::new(4);
    // One of them sees to what is old.
    let pass = |forgets: bool| {
        let secrets = Secrets::new(&words).unwrap();
        let mut drawn: Vec<Secret> = Vec::new();
        for span in spans.clone() {
            barrier.wait();
            if forgets {
                secrets.forget(span);
            }
            assert_eq!(drawn.last().copied(), drawn.last().and_then(|_| secrets.read(span - 1)));
            drawn.push(secrets.draw(span).unwrap());
        }
        drawn
    };
    let all = std::thread::scope(|scope| {
        let threads = [true, false, false, false].map(|forgets| scope.spawn(move || pass(forgets)));
        threads.map(|thread| thread.join().unwrap())
    });
    assert_eq!(all[0].len(), 300);
    assert!(all.iter().all(|drawn| *drawn == all[0]));
}
