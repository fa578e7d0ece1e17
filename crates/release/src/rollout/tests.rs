//! Rollouts played through, with instances that become ready, fail and disappear at random.

use proptest::prelude::{any, prop, prop_assert, proptest};

use super::*;
use crate::Strategy;

/// A service with one bit for each slot: is there an instance, is it ready.
#[derive(Debug, Clone, Default)]
struct World {
    now: Vec<(bool, bool)>,
    next: Vec<(bool, bool)>,
}

impl World {
    fn new(now: u16, next: u16) -> Self {
        let none = |count| vec![(false, false); usize::from(count)];
        Self { now: vec![(true, true); usize::from(now)], next: none(next) }
    }

    fn view(&self, phase: Phase, exclusive: bool, warm: u16) -> View {
        let lives = |side: &[(bool, bool)]| side.iter().any(|(lives, _)| *lives);
        View {
            phase,
            exclusive,
            now: self.now.len() as u16,
            next: self.next.len() as u16,
            leading: self.next.iter().take_while(|(_, ready)| *ready).count() as u16,
            warm,
            now_lives: lives(&self.now),
            next_lives: lives(&self.next),
        }
    }

    /// One round of what the view wants.
    fn perform(&mut self, view: &View) {
        for (side, slots) in [(Side::Now, &mut self.now), (Side::Next, &mut self.next)] {
            for (slot, (lives, ready)) in slots.iter_mut().enumerate() {
                match view.want(side, slot as u16) {
                    Want::Run if !*lives => (*lives, *ready) = (true, false),
                    Want::Nothing => (*lives, *ready) = (false, false),
                    _ => {}
                }
            }
        }
    }

    fn serving(&self, view: &View) -> usize {
        let of = |side: Side, slots: &[(bool, bool)]| {
            slots
                .iter()
                .enumerate()
                .filter(|(slot, (_, ready))| *ready && view.role(side, *slot as u16) == Role::Serve)
                .count()
        };
        of(Side::Now, &self.now) + of(Side::Next, &self.next)
    }
}

fn phases(strategy: Strategy) -> Vec<Phase> {
    match strategy {
        Strategy::Rolling => vec![Phase::Start { all: false }, Phase::Rolling, Phase::Switched],
        Strategy::BlueGreen => vec![Phase::Start { all: true }, Phase::Switched],
        Strategy::Canary => {
            vec![Phase::Start { all: true }, Phase::Canary { share: 100 }, Phase::Switched]
        }
        Strategy::Recreate => vec![Phase::Stop, Phase::Switched],
    }
}

/// A phase may end when all that it wants to run is ready.
fn settled(world: &World, phase: Phase) -> bool {
    let view = world.view(phase, false, u16::MAX);
    match phase {
        Phase::Start { all: false } => view.next == 0 || view.leading > 0,
        Phase::Stop => !view.now_lives,
        _ => view.leading == view.next,
    }
}

proptest! {
    #[test]
    fn capacity_never_falls_below_what_it_was_or_is_to_be(
        now in 1u16..5, next in 1u16..5, warm in prop::sample::select(vec![1u16, u16::MAX]),
        strategy in prop::sample::select(vec![Strategy::Rolling, Strategy::BlueGreen, Strategy::Canary]),
        back_after in 0usize..40, fates in prop::collection::vec(any::<bool>(), 8..60),
    ) {
        let mut world = World::new(now, next);
        let mut queue = phases(strategy).into_iter();
        let mut phase = queue.next().unwrap();
        for (round, fate) in fates.iter().enumerate() {
            if round == back_after {
                phase = Phase::Back;
            }
            let view = world.view(phase, false, warm);
            world.perform(&view);
            let view = world.view(phase, false, warm);
            // Going back with only some kept warm starts the others anew: the print of the plan says so.
            if phase != Phase::Back || warm == u16::MAX {
                prop_assert!(world.serving(&view) >= usize::from(now.min(next)), "{phase:?} {world:?}");
            }
            // One instance that is being started becomes ready, or none does in this round.
            let starting = world.next.iter_mut().chain(&mut world.now).find(|(lives, ready)| *lives && !*ready);
            if let (Some(one), true) = (starting, *fate) {
                one.1 = true;
            }
            if phase != Phase::Back && settled(&world, phase) {
                phase = queue.next().unwrap_or(Phase::Switched);
            }
        }
    }

    #[test]
    fn two_that_exclude_each_other_never_run_at_the_same_time(
        count in 1u16..4, back_after in 0usize..20, rounds in 5usize..40,
    ) {
        let mut world = World::new(count, count);
        let mut phase = Phase::Stop;
        for round in 0..rounds {
            if round == back_after {
                phase = Phase::Back;
            }
            let view = world.view(phase, true, u16::MAX);
            world.perform(&view);
            let after = world.view(phase, true, u16::MAX);
            prop_assert!(!(after.now_lives && after.next_lives), "{phase:?} {world:?}");
            world.next.iter_mut().chain(&mut world.now).for_each(|one| one.1 = one.0);
            if phase == Phase::Stop && settled(&world, phase) {
                phase = Phase::Switched;
            }
        }
        if back_after + 3 < rounds {
            prop_assert!(world.now.iter().all(|(lives, _)| *lives) && !world.view(phase, true, 0).next_lives);
        }
    }
}

#[test]
fn rolling_starts_one_goes_slot_by_slot_and_keeps_the_old_ones_warm() {
    let mut world = World::new(2, 2);
    let start = world.view(Phase::Start { all: false }, false, u16::MAX);
    assert_eq!((start.want(Side::Next, 0), start.want(Side::Next, 1)), (Want::Run, Want::Nothing));
    assert_eq!(start.role(Side::Next, 0), Role::Candidate);
    world.next[0] = (true, true);
    let rolling = world.view(Phase::Rolling, false, u16::MAX);
    assert_eq!(
        (rolling.role(Side::Next, 0), rolling.role(Side::Now, 0)),
        (Role::Serve, Role::Standby)
    );
    assert_eq!((rolling.role(Side::Now, 1), rolling.want(Side::Now, 0)), (Role::Serve, Want::Keep));
    assert_eq!(rolling.want(Side::Next, 1), Want::Run);
}

#[test]
fn little_memory_keeps_one_old_instance_warm() {
    let world = World { now: vec![(true, true); 3], next: vec![(true, true); 3] };
    let view = world.view(Phase::Switched, false, 1);
    let kept: Vec<Want> = (0..3).map(|slot| view.want(Side::Now, slot)).collect();
    assert_eq!(kept, [Want::Keep, Want::Nothing, Want::Nothing]);
}
