use super::*;
use proptest::prelude::*;

fn wanted(count: u16, hash: &str) -> Wanted {
    Wanted {
        site: "s".parse().unwrap(),
        service: "web".parse().unwrap(),
        how: How::Steady { count, hash: hash.to_owned(), may_start: true, rejected: None },
    }
}

fn launch(slot: u16, hash: &str) -> Action {
    Action::Launch("s".parse().unwrap(), "web".parse().unwrap(), slot, hash.to_owned())
}

fn reject(service: &mut Wanted, hash: &str) {
    if let How::Steady { rejected, .. } = &mut service.how {
        *rejected = Some(hash.to_owned());
    }
}

fn seen(slot: u16, generation: u32, hash: &str, ready: bool) -> Seen {
    Seen {
        id: InstanceId {
            site: "s".parse().unwrap(),
            service: "web".parse().unwrap(),
            slot,
            generation,
        },
        hash: hash.to_owned(),
        alive: true,
        ready,
        draining: false,
        drained: false,
        stopping: false,
        wants_replacement: false,
        failed_start: false,
    }
}

#[test]
fn missing_slots_are_launched() {
    let actions = decide(&[wanted(2, "a")], &[seen(0, 1, "a", false)]);
    assert_eq!(actions, [launch(1, "a")]);
}

#[test]
fn nothing_starts_before_what_it_starts_after() {
    let mut service = wanted(2, "a");
    service.how = How::Steady { count: 2, hash: "a".to_owned(), may_start: false, rejected: None };
    assert_eq!(decide(&[service], &[]), []);
}

#[test]
fn one_instance_at_a_time_is_replaced_and_the_old_one_waits_for_the_new() {
    let service = wanted(2, "b");
    let mut all = vec![seen(0, 1, "a", true), seen(1, 2, "a", true)];
    assert_eq!(decide(std::slice::from_ref(&service), &all), [launch(0, "b")]);
    all.push(seen(0, 3, "b", false));
    assert_eq!(decide(std::slice::from_ref(&service), &all), []);
    all[2].ready = true;
    assert_eq!(decide(std::slice::from_ref(&service), &all), [Action::Drain(all[0].id.clone())]);
}

#[test]
fn what_was_started_for_a_release_that_is_given_up_takes_the_place_of_nothing() {
    let service = wanted(1, "a");
    // Launched while the release was still to come, ready after it was given up.
    for ready in [false, true] {
        let all = [seen(0, 1, "a", true), seen(0, 2, "b", ready)];
        let actions = decide(std::slice::from_ref(&service), &all);
        assert_eq!(actions, [Action::Drain(all[1].id.clone())], "ready: {ready}");
    }
    // While the wanted one serves nobody, the other one is all there is.
    let all = [seen(0, 1, "a", false), seen(0, 2, "b", true)];
    assert_eq!(decide(&[service], &all), [Action::Drain(all[0].id.clone())]);
}

#[test]
fn one_that_shares_its_data_with_no_other_starts_when_nothing_of_the_old_one_is_left() {
    let service = Wanted { how: How::Alone { hash: "b".to_owned() }, ..wanted(1, "") };
    let mut old = seen(0, 1, "a", true);
    let decided = |seen: &[Seen]| decide(std::slice::from_ref(&service), seen);
    assert_eq!(decided(std::slice::from_ref(&old)), [Action::Drain(old.id.clone())]);
    (old.draining, old.drained) = (true, true);
    assert_eq!(decided(std::slice::from_ref(&old)), [Action::Stop(old.id.clone())]);
    old.stopping = true;
    assert_eq!(decided(std::slice::from_ref(&old)), []);
    old.alive = false;
    assert_eq!(
        decided(std::slice::from_ref(&old)),
        [Action::Forget(old.id.clone()), launch(0, "b")]
    );
    assert_eq!(decided(&[seen(0, 2, "b", false)]), []);
}

#[test]
fn a_replacement_that_does_not_come_up_is_rejected_and_not_tried_again() {
    let mut service = wanted(1, "b");
    let mut all = vec![seen(0, 1, "a", true), seen(0, 2, "b", false)];
    all[1].failed_start = true;
    assert_eq!(decide(std::slice::from_ref(&service), &all), [Action::Reject(all[1].id.clone())]);
    reject(&mut service, "b");
    all.pop();
    assert_eq!(decide(&[service], &all), []);
}

#[test]
fn a_lost_instance_is_forgotten_and_launched_again() {
    let service = wanted(1, "a");
    let lost = Seen { alive: false, ..seen(0, 1, "a", true) };
    let actions = decide(std::slice::from_ref(&service), std::slice::from_ref(&lost));
    assert_eq!(actions, [Action::Forget(lost.id), launch(0, "a")]);
}

#[test]
fn what_nobody_wants_is_drained_and_stopped_only_when_drained() {
    let mut one = seen(0, 1, "a", true);
    assert_eq!(decide(&[], std::slice::from_ref(&one)), [Action::Drain(one.id.clone())]);
    one.draining = true;
    assert_eq!(decide(&[], std::slice::from_ref(&one)), []);
    one.drained = true;
    assert_eq!(decide(&[], std::slice::from_ref(&one)), [Action::Stop(one.id.clone())]);
}

#[test]
fn in_a_rollout_the_new_release_starts_beside_the_old_one_and_what_belongs_to_neither_goes() {
    let view = View {
        phase: seaworthy_release::Phase::Start { all: true },
        exclusive: false,
        now: 2,
        next: 1,
        leading: 0,
        warm: 1,
        now_lives: true,
        next_lives: false,
    };
    let side = |hash: &str| Some((hash.to_owned(), true));
    let how = How::Rollout { view, now: side("a"), next: side("b") };
    let service = Wanted { how, ..wanted(1, "") };
    let all = [seen(0, 1, "a", true), seen(1, 2, "a", true), seen(0, 3, "other", true)];
    let drained = Action::Drain(all[2].id.clone());
    assert_eq!(decide(std::slice::from_ref(&service), &all), [launch(0, "b"), drained]);
    let back = View { phase: seaworthy_release::Phase::Back, ..view };
    let how = How::Rollout { view: back, now: side("a"), next: side("b") };
    let all = [seen(0, 1, "a", true), seen(0, 4, "b", true)];
    let service = Wanted { how, ..wanted(1, "") };
    assert_eq!(decide(&[service], &all), [launch(1, "a"), Action::Drain(all[1].id.clone())]);
}

/// A world of one service that performs what is decided, in which replacements become ready or fail at random.
fn play(count: u16, old_ready: &[bool], fates: &[bool]) {
    let mut service = wanted(count, "new");
    let mut world: Vec<Seen> = old_ready
        .iter()
        .take(count as usize)
        .enumerate()
        .map(|(slot, ready)| seen(slot as u16, slot as u32, "old", *ready))
        .collect();
    let ready_before = world.iter().filter(|one| one.ready).count();
    let mut generation = 100;
    let mut fates = fates.iter().cycle();
    for _ in 0..200 {
        for action in decide(std::slice::from_ref(&service), &world) {
            match action {
                Action::Launch(_, _, slot, _) => {
                    generation += 1;
                    let mut one = seen(slot, generation, "new", false);
                    one.failed_start = !*fates.next().unwrap();
                    world.push(one);
                }
                Action::Drain(id) => {
                    world.iter_mut().filter(|one| one.id == id).for_each(|one| one.draining = true)
                }
                Action::Stop(id) | Action::Forget(id) => world.retain(|one| one.id != id),
                Action::Reject(id) => {
                    world.retain(|one| one.id != id);
                    reject(&mut service, "new");
                }
            }
            let serving = world.iter().filter(|one| one.ready && !one.draining).count();
            assert!(serving >= ready_before, "capacity fell from {ready_before} to {serving}");
        }
        for one in &mut world {
            one.ready |= one.hash == "new" && !one.failed_start;
            one.drained |= one.draining;
        }
    }
    assert!(world.iter().all(|one| !one.draining), "something drains for ever");
    assert_eq!(world.iter().filter(|one| !one.draining).count(), count as usize);
}

proptest! {
    #[test]
    fn capacity_never_falls_while_a_specification_changes(count in 1u16..6, old in prop::collection::vec(any::<bool>(), 6), fates in prop::collection::vec(any::<bool>(), 1..6)) {
        play(count, &old, &fates);
    }
}
