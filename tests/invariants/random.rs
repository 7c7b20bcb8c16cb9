//! Anything in any order: whatever people, answers, pods and crashes do, the invariants hold, and when they stop, all comes
//! to rest with every revision accounted for.

#![expect(clippy::unit_arg, reason = "deeds that cannot fail stand beside those that can")]

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::json;
use sidetrack::api::revision::Revision;
use sidetrack::api::status::Phase;
use sidetrack::api::{Verb, keys};
use sim::World;
use sim::cluster::Defaults;
use sim::faults::Fault;
use sim::manifests::{by_replicas, canary, deployment, in_place};
use sim::world::Fuse;
use sim::writers::Webhook;

/// Makes a Canary of a layout, with these hooks.
type Canary = fn(&[(&str, &str)]) -> serde_json::Value;

#[derive(Clone, Debug)]
enum Deed {
    Update(u8),
    Apply(u8, i32),
    Scale(i32),
    ScalePrimary(i32),
    Restart,
    Pause(bool),
    Retry,
    BreakGlass(u8),
    Gate(bool),
    Load(bool),
    Rate(bool),
    CanaryPods(bool),
    PrimaryPods(bool),
    Kill {
        write: usize,
        after: bool,
    },
    Skip(bool),
    Step(i64),
    Route(i64),
    /// Of the Deployment that Sidetrack made.
    DeleteGenerated,
    /// An API server with other defaults.
    Upgrade(bool),
    /// A break-glass that only the admission policy saw.
    Unseen(u8),
    Quiet,
    /// The API server answers so many writes, from the n-th on, with a fault.
    Fault {
        write: usize,
        fault: Fault,
        count: usize,
    },
    /// The watch brings nothing for so many seconds.
    Lag(i64),
    /// A verb, about the revision that is released, else rejected, else promoted.
    Ask(Verb),
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        6 => (1u8..5).prop_map(Deed::Update),
        2 => ((1u8..5), (1i32..4)).prop_map(|(v, n)| Deed::Apply(v, n)),
        1 => (0i32..4).prop_map(Deed::Scale),
        1 => (0i32..4).prop_map(Deed::ScalePrimary),
        1 => Just(Deed::Restart),
        1 => any::<bool>().prop_map(Deed::Pause),
        2 => Just(Deed::Retry),
        1 => (1u8..5).prop_map(Deed::BreakGlass),
        2 => any::<bool>().prop_map(Deed::Gate),
        4 => prop::sample::select(Verb::ALL.to_vec()).prop_map(Deed::Ask),
        2 => any::<bool>().prop_map(Deed::Load),
        2 => any::<bool>().prop_map(Deed::Rate),
        2 => any::<bool>().prop_map(Deed::CanaryPods),
        2 => any::<bool>().prop_map(Deed::PrimaryPods),
        3 => ((1usize..9), any::<bool>()).prop_map(|(write, after)| Deed::Kill { write, after }),
        3 => (1usize..7, fault(), 1usize..5).prop_map(|(write, fault, count)| Deed::Fault { write, fault, count }),
        2 => (1i64..20).prop_map(Deed::Lag),
        1 => any::<bool>().prop_map(Deed::Skip),
        1 => (1i64..4).prop_map(|n| Deed::Step(n * 20)),
        1 => (0i64..3).prop_map(|n| Deed::Route(n * 50)),
        1 => Just(Deed::DeleteGenerated),
        1 => any::<bool>().prop_map(Deed::Upgrade),
        1 => (1u8..3).prop_map(Deed::Unseen),
        3 => Just(Deed::Quiet),
    ]
}

fn fault() -> impl Strategy<Value = Fault> {
    prop::sample::select(vec![Fault::Refused, Fault::Conflict, Fault::Busy, Fault::AnswerLost])
}

fn pods_of(world: &World, version: u8) -> Option<&'static str> {
    // v3 works as canary only, v4 never.
    let canary_only = if world.names.in_place() { "generatedonly" } else { "canaryonly" };
    [None, None, Some(canary_only), Some("never")][usize::from(version) - 1]
}

fn image(version: u8) -> String {
    format!("v{version}")
}

/// Does a deed; what admission refuses is refused.
fn act(world: &mut World, deed: &Deed) {
    let (target, names) = ("app", world.names.clone());
    let (primary, canary) = (names.primary.as_str(), names.canary_deployment.as_str());
    let answer = |ok: &bool| if *ok { 200 } else { 500 };
    let _ = match deed {
        Deed::Update(v) => world.update_with(&image(*v), pods_of(world, *v)),
        Deed::Apply(v, n) => world.try_apply(deployment(&image(*v), pods_of(world, *v), Some(*n))),
        Deed::Scale(n) => world.scale(target, *n),
        Deed::ScalePrimary(n) => world.scale(primary, *n),
        Deed::Restart => world.restart(target),
        Deed::Pause(paused) => world.pause(*paused),
        Deed::Retry => world.retry(),
        Deed::BreakGlass(v) => world.break_glass(&image((*v).min(2))),
        Deed::Gate(ok) => Ok(world.answers.hook("gate", answer(ok))),
        Deed::Load(ok) => Ok(world.answers.hook("load", answer(ok))),
        Deed::Rate(ok) => Ok(world.answers.success_rate(if *ok { "100" } else { "50" })),
        Deed::CanaryPods(ready) => Ok(world.set_ready(canary, *ready, 2)),
        Deed::PrimaryPods(ready) => Ok(world.set_ready(primary, *ready, 2)),
        Deed::Kill { write, after } => Ok(world.arm(Fuse { write: *write, after: *after })),
        Deed::Fault { write, fault, count } => Ok(world.meets(*write, *fault, *count)),
        Deed::Lag(seconds) => Ok(world.lags(*seconds)),
        Deed::Skip(skip) => Ok(world.edit_canary("/spec/skipAnalysis", json!(skip))),
        Deed::Step(step) => Ok(world.edit_canary("/spec/analysis/stepWeight", json!(step))),
        Deed::Route(weight) if world.by_replicas => world.scale(canary, i32::try_from(weight / 25).unwrap()),
        Deed::Route(weight) => Ok(world.set_route(*weight)),
        Deed::DeleteGenerated => {
            let at = world.deployment(names.generated());
            Ok(world.delete(&at))
        }
        Deed::Upgrade(newer) => Ok(world.upgrade(if *newer { Defaults::Newer } else { Defaults::Older })),
        Deed::Unseen(v) => {
            world.webhook = Webhook::Gone;
            let done = world.break_glass(&image(*v));
            world.webhook = Webhook::Up;
            done
        }
        Deed::Quiet => Ok(()),
        Deed::Ask(verb) => Ok(ask(world, *verb)),
    };
}

fn ask(world: &mut World, verb: Verb) {
    let run = world.status().run.map(|run| run.revision).filter(|_| verb != Verb::Restart);
    let of = run.or_else(|| world.key(keys::FAILED).filter(|_| verb == Verb::Retry).map(str::to_owned));
    let of = of.or_else(|| world.key(keys::PROMOTED).map(str::to_owned)).unwrap_or_default();
    let id = world.cluster.now.to_string();
    world.request(verb, &Revision::from_key(of), &id);
}

/// I5 and I9 at rest.
fn accounted_for(world: &World) {
    let status = world.status();
    // In place a roll that never ends is stated, and waits for its owner.
    if world.names.in_place() && status.phase == Phase::Promoting && world.ready_message().contains("is late")
    {
        return;
    }
    let live = Revision::of(world.target().unwrap().pointer("/spec/template").unwrap());
    let promoted = status.revisions.primary.as_deref() == Some(live.as_str());
    let failed = world.key(keys::FAILED) == Some(live.as_str())
        && status.phase == Phase::Failed
        && status.revisions.failed.as_deref() == Some(live.as_str());
    let held = world.key(keys::HOLD) == Some(live.as_str()) && world.ready_message().contains(live.short());
    if !(promoted || failed || held) {
        world.fail(&format!("{live} is lost: {:?}, {}", status.phase, world.ready_message()));
    }
    if promoted
        && (world.key(keys::HOLD).is_some() || world.image("app") != world.image(&world.names.primary))
    {
        world.fail(&format!("{live} is promoted and held"));
    }
    let idle = world.canary_pods().sets.iter().all(|s| s.pods.is_empty());
    if !idle || world.weight() != 0 || status.canary_weight != 0 || status.run.is_some() {
        world.fail(&format!("not at rest: weight {}, run {:?}", world.weight(), status.run));
    }
    if !world.fresh_process_has_nothing_to_do() {
        world.fail("a new process would do something");
    }
}

fn check(canary: Canary, deeds: &[(Deed, u32)]) {
    let mut world = World::initialised(canary(&[("gate", "confirm-rollout"), ("load", "rollout")]));
    for (deed, tenths) in deeds {
        world.note(format!("-- {deed:?}"));
        act(&mut world, deed);
        let end = world.cluster.now + jiff::SignedDuration::from_millis(i64::from(*tenths) * 100);
        while world.cluster.now < end {
            world.step(end);
        }
    }
    world.note("-- all is well from here on".into());
    world.recovers();
    for deed in [
        Deed::Gate(true),
        Deed::Load(true),
        Deed::Rate(true),
        Deed::CanaryPods(true),
        Deed::PrimaryPods(true),
        Deed::Pause(false),
        Deed::Ask(Verb::Resume),
    ] {
        act(&mut world, &deed);
    }
    if world.names.in_place() && world.replicas("app") == 0 {
        world.scale("app", 2).unwrap();
    }
    let over =
        |w: &World| w.status().run.is_none() || w.names.in_place() && w.ready_message().contains("is late");
    if !world.run_until(900, |w| w.at_rest() && over(w)) {
        let status = world.status();
        world.fail(&format!(
            "never comes to rest: {:?} {:?} {}",
            status.phase,
            status.run,
            world.ready_message()
        ));
    }
    accounted_for(&world);
    // What is held for want of a person is released by one.
    world.note("-- a person retries".into());
    world.retry().unwrap();
    world.update("v1");
    world.run_until(900, |w| w.at_rest() && w.status().run.is_none());
    accounted_for(&world);
    assert_eq!(world.image(&world.names.primary), "v1", "{}", world.tail());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), rng_seed: seed(), failure_persistence: None, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_invariants_hold_and_all_comes_to_rest(
        deeds in prop::collection::vec((deed(), 0u32..250), 1..14),
    ) {
        check(canary, &deeds);
    }

    #[test]
    fn whatever_happens_in_place_the_invariants_hold_and_all_comes_to_rest(
        deeds in prop::collection::vec((deed(), 0u32..250), 1..14),
    ) {
        check(in_place, &deeds);
    }

    #[test]
    fn whatever_happens_by_replicas_the_invariants_hold_and_all_comes_to_rest(
        deeds in prop::collection::vec((deed(), 0u32..250), 1..14),
    ) {
        check(by_replicas, &deeds);
    }
}

/// `SIDETRACK_CASES` for a long search, through other cases each time.
fn search() -> Option<u32> {
    std::env::var("SIDETRACK_CASES").ok()?.parse().ok()
}

fn cases() -> u32 {
    search().unwrap_or(64)
}

/// A known one, as long as nobody searches: who changes something else is not to meet a case that nobody has seen.
pub(super) fn seed() -> RngSeed {
    search().map_or(RngSeed::Fixed(1), |_| RngSeed::Random)
}
