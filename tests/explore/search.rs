//! The search: depth first, in as many threads as there are processors.

use serde_json::{Value, json};
use sidetrack::api::status::Phase;
use sim::World;
use sim::faults::Fault;
use sim::manifests::{canary, deployment, in_place};
use sim::world::Fuse;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// States that are looked at where nobody says otherwise.
const STATES: u64 = 40_000;
/// Steps after which a world that nobody disturbs any more is at rest.
const STEPS: usize = 3_000;
const SHARDS: usize = 64;

/// What may happen at any step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Update(&'static str),
    CanaryPods(bool),
    PrimaryPods(bool),
    Rate(bool),
    Route(i64),
    DeleteCanary,
    /// Before or after the next write.
    Kill {
        after: bool,
    },
    Fault(Fault),
    Lag,
}

/// What people and pods do.
const DEEDS: [Act; 11] = [
    Act::Update("v2"),
    Act::Update("v3"),
    Act::Update("v1"),
    Act::CanaryPods(false),
    Act::CanaryPods(true),
    Act::PrimaryPods(false),
    Act::PrimaryPods(true),
    Act::Rate(false),
    Act::Rate(true),
    Act::Route(30),
    Act::DeleteCanary,
];

/// What befalls the process and the API server.
const MISHAPS: [Act; 7] = [
    Act::Kill { after: false },
    Act::Kill { after: true },
    Act::Fault(Fault::Refused),
    Act::Fault(Fault::Conflict),
    Act::Fault(Fault::Busy),
    Act::Fault(Fault::AnswerLost),
    Act::Lag,
];

/// How many of each may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Left {
    deeds: u8,
    mishaps: u8,
}

impl Left {
    fn acts(self) -> impl Iterator<Item = (Act, Self)> {
        let deeds = if self.deeds > 0 { &DEEDS[..] } else { &[] };
        let mishaps = if self.mishaps > 0 { &MISHAPS[..] } else { &[] };
        let deeds = deeds.iter().map(move |act| (*act, Self { deeds: self.deeds - 1, ..self }));
        deeds.chain(mishaps.iter().map(move |act| (*act, Self { mishaps: self.mishaps - 1, ..self })))
    }
}

fn act(world: &mut World, act: Act) {
    world.note(format!("-- {act:?}"));
    let (primary, pods) = (world.names.primary.clone(), world.names.canary_deployment.clone());
    let gone = world.cluster.get(&world.canary).is_none();
    match act {
        Act::Update(image) => drop(world.update_with(image, None)),
        Act::CanaryPods(ready) => world.set_ready(&pods, ready, 1),
        Act::PrimaryPods(ready) => world.set_ready(&primary, ready, 1),
        Act::Rate(good) => world.answers.success_rate(if good { "100" } else { "50" }),
        Act::Route(weight) => world.set_route(weight),
        Act::DeleteCanary if gone => {}
        Act::DeleteCanary => {
            let at = world.canary.clone();
            world.delete(&at);
        }
        Act::Kill { after } => world.arm(Fuse { write: 1, after }),
        Act::Fault(fault) => world.meets(1, fault, 1),
        Act::Lag => world.lags(2),
    }
}

/// A way to a state: steps, then an act, and so on.
type Path = Vec<(usize, Act)>;

#[derive(Debug)]
struct Search {
    seen: Vec<Mutex<HashSet<u64>>>,
    states: AtomicU64,
    most: u64,
    stop: AtomicBool,
    failed: Mutex<Option<Path>>,
}

impl Search {
    fn is_new(&self, world: &World, left: Left) -> bool {
        let print = world.fingerprint() ^ (u64::from(left.deeds) << 8 | u64::from(left.mishaps));
        let shard = &self.seen[usize::try_from(print % SHARDS as u64).unwrap()];
        let new = shard.lock().unwrap().insert(print);
        if new && self.states.fetch_add(1, Ordering::Relaxed) + 1 >= self.most {
            self.stop.store(true, Ordering::Relaxed);
        }
        new
    }

    fn visit(&self, mut world: World, left: Left, path: &mut Path) {
        for steps in 0.. {
            if self.stop.load(Ordering::Relaxed) || !self.is_new(&world, left) {
                return;
            }
            for (next, left) in left.acts() {
                let mut child = world.fork();
                path.push((steps, next));
                act(&mut child, next);
                self.visit(child, left, path);
                path.pop();
            }
            if world.at_rest() {
                return rests(&world);
            }
            if steps > STEPS {
                world.fail("it never comes to rest");
            }
            step(&mut world);
        }
    }

    /// Searches what begins with one of the acts of a share.
    fn share(&self, mut world: World, (worker, workers): (usize, usize), left: Left) {
        let mut turn = 0;
        for steps in 0.. {
            for (next, left) in left.acts() {
                turn += 1;
                if turn % workers != worker || self.stop.load(Ordering::Relaxed) {
                    continue;
                }
                let mut path = vec![(steps, next)];
                let done = catch_unwind(AssertUnwindSafe(|| {
                    let mut child = world.fork();
                    act(&mut child, next);
                    self.visit(child, left, &mut path);
                }));
                if done.is_err() {
                    self.stop.store(true, Ordering::Relaxed);
                    self.failed.lock().unwrap().get_or_insert(path);
                    return;
                }
            }
            if world.at_rest() || self.stop.load(Ordering::Relaxed) {
                return;
            }
            step(&mut world);
        }
    }
}

fn step(world: &mut World) {
    let end = world.cluster.now + jiff::SignedDuration::from_hours(1);
    world.step(end);
    world.said.clear();
    world.written.clear();
    world.statuses.drain(..world.statuses.len().saturating_sub(2));
    world.answers.calls.clear();
    world.answers.queries.clear();
}

/// Where nothing happens any more, nothing is left half done.
fn rests(world: &World) {
    if world.cluster.get(&world.canary).is_none() {
        for (at, object) in &world.cluster.objects {
            if object["metadata"]["finalizers"].to_string().contains("sidetrack.dev") {
                world.fail(&format!("{at} has a finalizer of ours, and no Canary"));
            }
        }
        return;
    }
    let status = world.status();
    let late = world.names.in_place() && world.ready_message().contains("is late");
    // What waits for pods that stay broken waits for a person, and says so.
    let sets = world.primary_pods().sets.iter().chain(&world.canary_pods().sets);
    let broken = world.primary_pods().ready(world.cluster.now) == 0
        || sets.flat_map(|set| &set.pods).any(|pod| pod.broken);
    if status.run.is_some() && !late && !broken {
        world.fail(&format!("a run never ends: {}", world.ready_message()));
    }
    if status.run.is_none() && world.weight() != 0 && !broken && status.phase != Phase::Terminating {
        world.fail("weight is left behind");
    }
}

/// Plays a path again, and writes down what happens.
fn replay(root: &World, path: &Path) -> ! {
    let mut world = root.fork();
    world.silent = false;
    for (steps, next) in path {
        (0..*steps).for_each(|_| step(&mut world));
        act(&mut world, *next);
    }
    for _ in 0..STEPS {
        if world.at_rest() {
            rests(&world);
            break;
        }
        step(&mut world);
    }
    world.fail("it did not fail again");
}

fn one_pod(canary: fn(&[(&str, &str)]) -> Value) -> World {
    let mut object = canary(&[]);
    json_patch::merge(
        &mut object,
        &json!({"spec": {"analysis": {"threshold": 1, "stepWeight": 50, "maxWeight": 100}}}),
    );
    let mut world = World::applied(deployment("v1", None, Some(1)), object);
    world.until_phase(Phase::Initialized);
    world.silent = true;
    world
}

fn search(canary: fn(&[(&str, &str)]) -> Value) {
    let most = std::env::var("SIDETRACK_STATES").ok().and_then(|n| n.parse().ok()).unwrap_or(STATES);
    let root = one_pod(canary);
    let search = Search {
        seen: (0..SHARDS).map(|_| Mutex::default()).collect(),
        states: AtomicU64::new(0),
        most,
        stop: AtomicBool::new(false),
        failed: Mutex::default(),
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    // A few things that happen are searched to the end before more are.
    for (deeds, mishaps) in [(1, 0), (1, 1), (2, 0), (2, 1), (2, 2), (3, 1), (3, 2), (4, 3)] {
        let before = search.states.load(Ordering::Relaxed);
        std::thread::scope(|scope| {
            for worker in 0..workers {
                let (search, world) = (&search, root.fork());
                scope.spawn(move || search.share(world, (worker, workers), Left { deeds, mishaps }));
            }
        });
        if let Some(path) = search.failed.lock().unwrap().take() {
            println!("{path:?}");
            replay(&root, &path);
        }
        let states = search.states.load(Ordering::Relaxed);
        let all = if search.stop.load(Ordering::Relaxed) { "some" } else { "all" };
        println!("{deeds} deeds, {mishaps} mishaps: {all}, {} states", states - before);
        if states >= most {
            break;
        }
    }
    println!("{} states", search.states.load(Ordering::Relaxed));
}

#[test]
fn every_order_of_a_few_things_keeps_the_laws() {
    search(canary);
}

#[test]
fn every_order_of_a_few_things_keeps_the_laws_in_place() {
    search(in_place);
}
