//! Two contenders with wrong clocks on a bad network: never may both write.

use super::lease::{Answer, Call, Contender, Next, Settings};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use std::time::Duration;

const WALL: Timestamp = Timestamp::UNIX_EPOCH;

/// A sequence of numbers that look random and are the same for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// A contender with a clock that is off and runs wrong, on a network that delays and drops.
struct Actor {
    contender: Contender,
    skew: Duration,
    rate: f64,
    busy: Option<Flight>,
    wakes: Duration,
    alive: bool,
}

struct Flight {
    call: Call,
    started: Duration,
    arrives: Duration,
    returns: Duration,
    lost: bool,
    answer: Option<Answer>,
}

impl Actor {
    fn local(&self, real: Duration) -> Duration {
        self.skew + real.mul_f64(self.rate)
    }

    fn writes(&self, real: Duration) -> bool {
        self.alive && self.contender.may_write_until().is_some_and(|until| self.local(real) < until)
    }
}

fn serve(store: &mut Option<Lease>, version: &mut u64, call: &Call) -> Answer {
    let current = store.as_ref().and_then(|l| l.metadata.resource_version.clone());
    let spec = match call {
        Call::Read => return store.clone().map_or(Answer::Absent, |l| Answer::Read(Box::new(l))),
        Call::Create(spec) if current.is_none() => Some(spec.clone()),
        Call::Replace(lease) if current == lease.metadata.resource_version => lease.spec.clone(),
        Call::Create(_) | Call::Replace(_) => return Answer::Conflict,
    };
    *version += 1;
    let mut lease = Lease { spec, ..Lease::default() };
    lease.metadata.resource_version = Some(version.to_string());
    *store = Some(lease.clone());
    Answer::Written(Box::new(lease))
}

/// Returns how many times the right to write went from one contender to another.
fn simulate(seed: u64) -> u32 {
    let mut dice = Dice(seed);
    let (mut store, mut version) = (None, 0);
    let tick = Duration::from_millis(50);
    let mut actors: Vec<Actor> = ["a", "b"]
        .iter()
        .map(|name| Actor {
            contender: Contender::new(Settings::new(*name)).unwrap(),
            skew: Duration::from_secs(dice.roll(100_000)),
            rate: 0.9 + 0.01 * dice.roll(21) as f64,
            busy: None,
            wakes: Duration::ZERO,
            alive: true,
        })
        .collect();
    let (mut last, mut turns) = (None, 0);
    let mut partitioned: Option<(usize, Duration)> = None;
    for step in 0..6000_u32 {
        let real = tick * step;
        if step % 400 == 399 {
            let who = dice.roll(3) as usize;
            partitioned = (who < 2).then(|| (who, real + Duration::from_secs(dice.roll(30))));
        }
        for (index, actor) in actors.iter_mut().enumerate() {
            let cut = partitioned.is_some_and(|(who, until)| who == index && real < until);
            let now = actor.local(real);
            if let Some(flight) = &mut actor.busy {
                if real >= flight.arrives && flight.answer.is_none() {
                    let dropped = cut || dice.roll(20) == 0;
                    flight.answer = Some(if dropped {
                        Answer::Failed
                    } else {
                        serve(&mut store, &mut version, &flight.call)
                    });
                }
                if real >= flight.returns {
                    let flight = actor.busy.take().unwrap();
                    let answer = if flight.lost { Answer::Failed } else { flight.answer.unwrap() };
                    actor.contender.answer(flight.started, now, answer);
                }
            } else if real >= actor.wakes {
                match actor.contender.next(now, WALL + real) {
                    Next::Call(call) => {
                        let arrives = real + tick * dice.roll(30) as u32;
                        let returns = arrives + tick * (1 + dice.roll(30) as u32);
                        let lost = dice.roll(20) == 0;
                        actor.busy =
                            Some(Flight { call, started: now, arrives, returns, lost, answer: None });
                    }
                    Next::Pause => {
                        actor.wakes = real + actor.contender.settings().pause(dice.roll(100) as f64 / 100.0);
                        actor.contender.wake();
                    }
                    // The process ends, and a new one of that pod starts.
                    Next::Lost => {
                        let name = format!("{}-{step}", ["a", "b"][index]);
                        actor.contender = Contender::new(Settings::new(name)).unwrap();
                        actor.wakes = real + Duration::from_secs(1);
                    }
                }
            }
        }
        let writers: Vec<usize> = (0..2).filter(|i| actors[*i].writes(real)).collect();
        assert!(writers.len() < 2, "seed {seed}: two may write at {real:?}");
        if let [writer] = writers[..] {
            turns += u32::from(last.is_some_and(|l| l != writer));
            last = Some(writer);
        }
    }
    assert!(last.is_some(), "seed {seed}: nobody ever held the lease");
    turns
}

#[test]
fn two_contenders_with_skewed_clocks_never_both_may_write() {
    let turns: u32 = (0..200).map(simulate).sum();
    assert!(turns > 100, "the partitions made too few turns: {turns}");
}
