//! Balancing against what each rule promises, and against any state that instances can be in.

use super::*;
use crate::instance::{Address, Load};
use proptest::prelude::*;
use seaworthy_base::policy::Key;
use std::collections::HashMap;

/// Past the slow start of what began at 0.
const NOW: u64 = 100_000;

fn service(count: usize) -> Service {
    let instance = |nth: usize| {
        Arc::new(Instance {
            name: format!("shop/web/{nth}@1").into(),
            address: Address::Tcp(([127, 0, 0, 1], 1000 + nth as u16).into()),
            http2: false,
            proxy_header: false,
            tag: crate::policy::keys::ident("shop/web", &nth.to_string()),
            check: None,
            load: Arc::new(Load::default()),
        })
    };
    Service { ready: (0..count).map(instance).collect(), ..Service::default() }
}

fn question(balance: &Balance) -> Question<'_> {
    Question { balance, hash: 0, wanted: None, refused: &[], now: NOW }
}

/// How often each is chosen.
fn shares(service: &Service, question: &Question<'_>, times: u32) -> Vec<u32> {
    let mut counts: HashMap<usize, u32> = HashMap::new();
    for _ in 0..times {
        let one = pick(service, question, |below| rand::random_range(0..below)).unwrap();
        *counts.entry(one.key()).or_default() += 1;
    }
    service.ready.iter().map(|one| counts.get(&one.key()).copied().unwrap_or(0)).collect()
}

fn busy(service: &Service, counts: &[usize]) {
    for (one, count) in service.ready.iter().zip(counts) {
        (0..*count).for_each(|_| one.load.in_flight.add());
    }
}

#[test]
fn the_slower_one_of_two_is_not_asked_and_of_many_the_slowest_never() {
    let two = service(2);
    two.ready[0].load.latency.note(50_000, NOW);
    two.ready[1].load.latency.note(1_000, NOW);
    assert_eq!(shares(&two, &question(&Balance::P2c), 100), [0, 100]);
    // What it has to do weighs too.
    busy(&two, &[0, 99]);
    assert_eq!(shares(&two, &question(&Balance::P2c), 100), [100, 0]);
    let many = service(5);
    many.ready.iter().zip(1..).for_each(|(one, nth)| one.load.latency.note(nth * 1_000, NOW));
    let found = shares(&many, &question(&Balance::P2c), 1000);
    assert!(found[4] == 0 && found[0] > found[1] && found[3] > 0, "{found:?}");
}

#[test]
fn least_conn_gives_to_the_least_busy_and_round_robin_to_each_in_turn() {
    let three = service(3);
    busy(&three, &[3, 1, 2]);
    assert_eq!(shares(&three, &question(&Balance::LeastConn), 20), [0, 20, 0]);
    let equal = service(3);
    let found = shares(&equal, &question(&Balance::LeastConn), 300);
    assert!(found.iter().all(|count| *count > 50), "{found:?}");
    assert_eq!(shares(&three, &question(&Balance::RoundRobin), 30), [10, 10, 10]);
}

#[test]
fn an_instance_that_begins_grows_into_its_share() {
    let two = service(2);
    busy(&two, &[4, 0]);
    two.ready[1].load.health.begin(NOW);
    let at = |now| Question { now, ..question(&Balance::LeastConn) };
    assert_eq!(shares(&two, &at(NOW), 10), [10, 0]);
    assert_eq!(shares(&two, &at(NOW + 5_000), 10), [0, 10]);
    // Where all begin none is preferred.
    two.ready[0].load.health.begin(NOW);
    assert_eq!(shares(&two, &at(NOW), 10), [0, 10]);
}

#[test]
fn whoever_is_out_is_passed_over_until_all_are() {
    let three = service(3);
    three.ready[0].load.health.refuse();
    for balance in [Balance::P2c, Balance::LeastConn, Balance::RoundRobin, Balance::Hash(Key::Ip)] {
        let mine = Question { wanted: Some(three.ready[0].tag), ..question(&balance) };
        assert_eq!(shares(&three, &mine, 50)[0], 0, "{balance:?}");
    }
    assert!(three.ready.iter().filter(|one| one.load.health.refuse()).count() == 2);
    assert_eq!(shares(&three, &question(&Balance::P2c), 5).iter().sum::<u32>(), 5);
    let met: Vec<usize> = three.ready.iter().map(|one| one.key()).collect();
    let all = Question { refused: &met, ..question(&Balance::P2c) };
    assert!(pick(&three, &all, |_| 0).is_none());
}

#[test]
fn a_visitor_stays_and_a_value_keeps_its_instance_when_another_leaves() {
    let five = service(5);
    for one in &five.ready {
        let question = Question { wanted: Some(one.tag), ..question(&Balance::P2c) };
        assert!(Arc::ptr_eq(&pick(&five, &question, |_| 0).unwrap(), one));
    }
    let hash = Balance::Hash(Key::Ip);
    let of = |service: &Service, hash_of: u64| {
        let question = Question { hash: hash_of, ..question(&hash) };
        pick(service, &question, |_| 0).unwrap().tag
    };
    let before: Vec<u64> = (0..1000).map(|value| of(&five, value)).collect();
    let gone = five.ready[2].tag;
    five.ready[2].load.health.refuse();
    for (value, tag) in before.iter().enumerate() {
        let now = of(&five, value as u64);
        assert!(if *tag == gone { now != gone } else { now == *tag });
    }
    for one in &five.ready {
        let share = before.iter().filter(|tag| **tag == one.tag).count();
        assert!((120..280).contains(&share), "{share}");
    }
}

proptest! {
    #[test]
    fn somebody_is_chosen_as_long_as_one_was_not_met_closed_and_nobody_who_is_out_before_who_is_not(
        states in prop::collection::vec((any::<bool>(), any::<bool>(), 0usize..5, prop::option::of(0u64..1_000_000)), 1..8),
        which in 0usize..4, hash in any::<u64>(), seed in any::<u64>(),
    ) {
        let all = service(states.len());
        let mut refused = Vec::new();
        for (one, (met, out, busy, latency)) in all.ready.iter().zip(&states) {
            if *met { refused.push(one.key()); }
            if *out { one.load.health.refuse(); }
            (0..*busy).for_each(|_| one.load.in_flight.add());
            if let Some(micros) = latency { one.load.latency.note(*micros, NOW); }
        }
        let balance = [Balance::P2c, Balance::LeastConn, Balance::RoundRobin, Balance::Hash(Key::Ip)];
        let question = Question { hash, refused: &refused, ..question(&balance[which]) };
        let found = pick(&all, &question, |below| (seed % below as u64) as usize);
        let good = |one: &Arc<Instance>| !refused.contains(&one.key()) && !one.load.health.is_out(NOW);
        prop_assert_eq!(found.is_some(), refused.len() < states.len());
        if let Some(found) = found {
            prop_assert!(!refused.contains(&found.key()));
            prop_assert!(good(&found) || states.len() == 1 || !all.ready.iter().any(good));
        }
    }
}
