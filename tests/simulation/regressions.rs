//! Bugs that seeds have found, as explicit scenarios: a later change gives the seeds another
//! meaning.

use crate::plan::{Feature, Plan};
use crate::random::Random;
use crate::violation::{Checked, ensure};
use crate::world::World;
use puka::machine::Settle;
use std::time::Duration;

/// A time in which a request gets its reply.
const MOMENT: Duration = Duration::from_millis(20);

/// Runs a scenario with one connected client whose queues are declared.
fn run_scenario(plan: Plan, scenario: impl FnOnce(&mut World) -> Checked) {
    let mut world = World::new(plan, true);
    let result = world
        .connect(0, true)
        .and_then(|()| world.run_for(Duration::from_secs(1)))
        .and_then(|()| scenario(&mut world))
        .and_then(|()| world.finish());
    if let Err(violation) = result {
        panic!("{}\n{}", violation.0, world.trace.unwrap().join("\n"));
    }
}

/// Publishes a persistent message.
fn publish(world: &mut World, exchange: &str, key: &str, bytes: usize) -> Checked {
    world
        .publish_this(0, (exchange, key), (false, true), bytes, true)
        .map(|_| ())
}

#[test]
fn no_ack_deliveries_while_closing_are_not_rejected() {
    run_scenario(Plan::bare(1, &[Feature::NoAck]), |world| {
        world.consume_from(0, "q0", true, false, 0)?;
        world.run_for(MOMENT)?;
        publish(world, "", "q0", 20)?;
        world.close(0)
    });
}

#[test]
fn many_consumers_find_fewer_channels_again() {
    // On this small stack, a recursion for each consumer without a channel would overflow.
    let builder = std::thread::Builder::new().stack_size(512 << 10);
    let thread = builder.spawn(|| {
        run_scenario(
            Plan::bare(1, &[Feature::Recover, Feature::FewerChannels]),
            |world| {
                for _ in 0..1_000 {
                    world.consume_from(0, "q0", false, false, 1)?;
                }
                world.run_for(Duration::from_secs(1))?;
                world.broker.set_channel_max(7);
                lose(world);
                world.run_for(Duration::from_secs(5))?;
                let live = world
                    .session(0)
                    .map_or(0, |session| session.live_consumers("q0"));
                ensure((1..7).contains(&live), || {
                    format!("{live} consumers have one of 7 channels")
                })
            },
        );
    });
    thread.unwrap().join().unwrap();
}

/// Makes the broker drop the connection without a close.
fn lose(world: &mut World) {
    let lost = world.session(0).and_then(|session| {
        session.expect_break("lost");
        session
            .transport_mut()
            .map(|transport| transport.connection)
    });
    world.broker.drop_connection(world.now, lost.unwrap());
}

#[test]
fn exclusive_consumer_survives_a_half_open_loss() {
    run_scenario(
        Plan::bare(1, &[Feature::Recover, Feature::Exclusive, Feature::Silence]),
        |world| {
            world.consume_from(0, "q0", false, true, 1)?;
            world.run_for(MOMENT)?;
            if let Some(session) = world.session(0) {
                session.expect_break("silent");
            }
            if let Some(transport) = world.transport(0, 0) {
                transport.silence();
            }
            // The client detects the loss, and the broker does not yet.
            world.run_for(Duration::from_secs(80))?;
            let refused = world
                .session(0)
                .map(|session| session.missing_consumers("q0"));
            ensure(refused == Some(1), || {
                format!("{refused:?} consumers are refused")
            })?;
            world.run_for(Duration::from_secs(60))?;
            let live = world.session(0).map(|session| session.live_consumers("q0"));
            ensure(live == Some(1), || {
                format!("{live:?} consumers are restored")
            })
        },
    );
}

#[test]
fn queue_deleted_at_a_loss_stays_deleted() {
    // In the first case the broker has not received the delete, in the second it has executed it.
    for pause in [Duration::ZERO, Duration::from_micros(1_500)] {
        run_scenario(
            Plan::bare(
                1,
                &[Feature::Recover, Feature::Wipe, Feature::DeletedAtLoss],
            ),
            |world| {
                world.delete(0, "q0")?;
                world.run_for(pause)?;
                lose(world);
                world.run_for(Duration::from_secs(5))
            },
        );
    }
}

#[test]
fn requests_to_a_stuck_queue_leave_channels_free() {
    run_scenario(Plan::bare(1, &[Feature::Stuck]), |world| {
        world.make_stuck("q1");
        for _ in 0..100 {
            world.get_from(0, "q1", false)?;
        }
        world.run_for(Duration::from_secs(6))?;
        world.probe(0)
    });
}

#[test]
fn publishes_to_stuck_queues_leave_capacity_for_others() {
    let mut seeds = 0..1000;
    let plan = seeds.find_map(|seed| {
        let plan = Plan::bare(seed, &[Feature::SmallBounds, Feature::Stuck]);
        plan.has_small_counts().then_some(plan)
    });
    run_scenario(plan.unwrap(), |world| {
        world.make_stuck("q1");
        for _ in 0..30 {
            publish(world, "", "q1", 20)?;
        }
        world.run_for(Duration::from_secs(6))?;
        world.probe(0)
    });
}

#[test]
fn delayed_publish_is_unconfirmed_after_its_timeout() {
    run_scenario(Plan::bare(1, &[Feature::Block, Feature::Stall]), |world| {
        world.broker.block("low on memory");
        world.blocked = true;
        publish(world, "", "q0", 20)?;
        world.run_for(MOMENT)?;
        publish(world, "", "q0", 20)?;
        world.run_for(Duration::from_secs(4))?;
        world.unblock()?;
        while world.broker.published().count() < 2 {
            world.run_for(Duration::from_micros(50))?;
        }
        let now = world.now;
        if let Some(transport) = world.transport(0, 0) {
            transport.down.read_at = now + Duration::from_secs(3);
        }
        // The broker has received the second publish, but its confirm has not arrived.
        world.run_for(Duration::from_secs(4))
    });
}

#[test]
fn server_is_not_silent_while_reading_is_paused() {
    let mut seeds = 0..1000;
    let plan = seeds.find_map(|seed| {
        let plan = Plan::bare(seed, &[Feature::SmallBounds, Feature::Heartbeats]);
        plan.has_small_counts().then_some(plan)
    });
    run_scenario(plan.unwrap(), |world| {
        world.consume_from(0, "q0", false, false, 0)?;
        for _ in 0..30 {
            publish(world, "", "q0", 50)?;
            world.run_for(MOMENT)?;
        }
        // This is longer than a server may be silent, and too short to count as a late wake-up.
        world.run_for(Duration::from_millis(2500))?;
        let mut random = Random::stream(1, 1);
        for _ in 0..30 {
            world.take(0, &mut random)?;
        }
        world.run_for(MOMENT)?;
        let sound = world.session(0).is_some_and(|session| session.is_sound());
        ensure(sound, || "the client gave the connection up".into())
    });
}

#[test]
fn ack_leaves_before_its_channels_next_request() {
    run_scenario(Plan::bare(1, &[Feature::FewChannels]), |world| {
        publish(world, "", "q0", 20)?;
        world.run_for(MOMENT)?;
        world.get_from(0, "q0", false)?;
        world.run_for(MOMENT)?;
        // Requests wait for their replies on every request channel, and further ones for a channel.
        for _ in 0..6 {
            world.get_from(0, "missing", false)?;
        }
        world.settle_this(0, 0, Settle::Ack { multiple: false })?;
        world.run_for(MOMENT)
    });
}

#[test]
fn second_cancel_has_its_deadline_at_once() {
    run_scenario(
        Plan::bare(1, &[Feature::Cancel, Feature::Silence]),
        |world| {
            world.consume_from(0, "q0", false, false, 0)?;
            world.run_for(MOMENT)?;
            if let Some(session) = world.session(0) {
                session.expect_break("silent");
            }
            if let Some(transport) = world.transport(0, 0) {
                transport.silence();
            }
            let mut random = Random::stream(1, 1);
            world.cancel(0, &mut random)?;
            world.run_for(Duration::from_secs(1))?;
            world.cancel(0, &mut random)?;
            world.run_for(Duration::from_secs(6))
        },
    );
}

#[test]
fn accepted_publish_is_not_refused_with_later_ones() {
    run_scenario(
        Plan::bare(1, &[Feature::LateConfirms, Feature::Churn]),
        |world| {
            world.declare_exchange(0, "sometimes", "fanout")?;
            world.run_for(MOMENT)?;
            for _ in 0..5 {
                publish(world, "sometimes", "q0", 20)?;
            }
            world.run_for(Duration::from_millis(5))?;
            world.delete_exchange(0, "sometimes")?;
            world.run_for(Duration::from_millis(5))?;
            publish(world, "sometimes", "q0", 20)
        },
    );
}

#[test]
fn requests_leave_a_channel_for_publishes() {
    let mut seeds = 0..1000;
    let plan = seeds.find_map(|seed| {
        let plan = Plan::bare(seed, &[Feature::FewChannels]);
        (plan.config().channel_max == 3 && plan.small_channel_count() == 3).then_some(plan)
    });
    run_scenario(plan.unwrap(), |world| {
        publish(world, "", "q0", 20)?;
        world.require_success(0);
        world.run_for(MOMENT)
    });
}

#[test]
fn output_to_a_stuck_transport_is_bounded() {
    let mut seeds = 0..1000;
    let plan = seeds.find_map(|seed| {
        let plan = Plan::bare(
            seed,
            &[Feature::SmallBounds, Feature::Stall, Feature::Large],
        );
        (!plan.has_small_counts()).then_some(plan)
    });
    run_scenario(plan.unwrap(), |world| {
        let now = world.now;
        if let Some(transport) = world.transport(0, 0) {
            transport.up.write_at = now + Duration::from_secs(5);
        }
        for _ in 0..40 {
            publish(world, "", "q0", 40_000)?;
            world.run_for(MOMENT)?;
        }
        Ok(())
    });
}

#[test]
fn publish_refusing_queue_drops_no_requeued_messages() {
    run_scenario(Plan::bare(1, &[Feature::Full]), |world| {
        for _ in 0..3 {
            publish(world, "", "f0", 20)?;
        }
        world.run_for(MOMENT)?;
        world.get_from(0, "f0", false)?;
        world.run_for(MOMENT)?;
        publish(world, "", "f0", 20)?;
        world.run_for(MOMENT)?;
        world.drop_delivery(0, &mut Random::stream(1, 1))?;
        world.run_for(MOMENT)
    });
}
