//! What people, answers, pods and crashes do in a round, drawn from a seed: the same seed, the same deeds in the same order.

use std::fmt;
use std::time::Duration;

/// How the pods of a revision behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pods {
    Good,
    Slow,
    /// They break as primary.
    CanaryOnly,
    Flapping,
    Never,
    CrashLoop,
}

impl Pods {
    pub(crate) const ALL: [Self; 6] =
        [Self::Good, Self::Slow, Self::CanaryOnly, Self::Flapping, Self::Never, Self::CrashLoop];

    /// The value of the label `ready`, which the fake kubelet goes by.
    pub(crate) const fn label(self) -> Option<&'static str> {
        match self {
            Self::Good => None,
            Self::Slow => Some("slow"),
            Self::CanaryOnly => Some("canaryonly"),
            Self::Flapping => Some("flapping"),
            Self::Never => Some("never"),
            Self::CrashLoop => Some("crashloop"),
        }
    }
}

/// A revision of the application; its tag says all about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) number: usize,
    pub(crate) pods: Pods,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pods.label() {
            Some(label) => write!(f, "v{}-{label}", self.number),
            None => write!(f, "v{}", self.number),
        }
    }
}

impl Version {
    /// The version whose image this is.
    pub(crate) fn of(image: &str) -> Option<Self> {
        let (_, tag) = image.split_once(":v")?;
        let (number, label) = tag.split_once('-').map_or((tag, None), |(n, l)| (n, Some(l)));
        let pods = Pods::ALL.into_iter().find(|p| p.label() == label)?;
        Some(Self { number: number.parse().ok()?, pods })
    }
}

/// Whose pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Target,
    Primary,
}

/// What an answer is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Says {
    Yes,
    No,
    Late,
    Nothing,
}

/// The hooks of each Canary, which are their types too.
pub(crate) const HOOKS: [&str; 4] = ["confirm-rollout", "pre-rollout", "rollout", "confirm-promotion"];

/// Something done to one application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// The template alone is changed.
    Update(Version),
    /// The whole manifest is applied as Flux does.
    Apply(Version, i32),
    /// What was last applied is applied once more.
    Again,
    /// Back to what the primary runs.
    Revert,
    Scale(Side, i32),
    Restart(Side),
    Retry,
    BreakGlass(Version),
    Hook(&'static str, Says),
    Rate(Says),
    Readiness(Side, bool),
    DeletePods(Side),
    Delete(Side),
    Route(i64),
    Skip(bool),
    Interval(u8),
}

/// Something done to what all applications share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outage {
    /// SIGKILL to one of the two processes; the first is the one that the API server's webhook calls go to.
    Kill(usize),
    /// The webhook configuration is deleted.
    Configuration,
    ApiServer,
}

/// When, and what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Move<T> {
    pub(crate) at: Duration,
    pub(crate) what: T,
}

/// A round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Round {
    /// By application.
    pub(crate) deeds: Vec<Vec<Move<Deed>>>,
    /// With how long each lasts; none begins before the one before has ended.
    pub(crate) outages: Vec<Move<(Outage, Duration)>>,
}

impl Round {
    /// Draws a round of so many applications and about so many milliseconds.
    pub(crate) fn new(seed: u64, applications: usize, span: u64) -> Self {
        let mut deeds = Vec::new();
        for application in 0..applications {
            // A stream of its own each, so that fewer applications do the same.
            let mut dice = Dice::new(seed, application + 1);
            let mut author = Author { next: 2, known: vec![Version { number: 1, pods: Pods::Good }] };
            let (mut all, mut now) = (Vec::new(), dice.below(1500));
            while now < span {
                all.push(Move { at: Duration::from_millis(now), what: author.deed(&mut dice) });
                // Some come together, most as a run has time to get somewhere.
                now += if dice.below(4) == 0 { dice.below(250) } else { 500 + dice.below(5000) };
            }
            deeds.push(all);
        }
        let mut dice = Dice::new(seed, 0);
        let (mut outages, mut now) = (Vec::new(), 1500 + dice.below(5000));
        while now < span {
            let what = match dice.below(10) {
                0..=3 => Outage::Kill(0),
                4..=6 => Outage::Kill(1),
                7..=8 => Outage::Configuration,
                _ => Outage::ApiServer,
            };
            let lasts = dice.below(3500);
            outages.push(Move { at: Duration::from_millis(now), what: (what, Duration::from_millis(lasts)) });
            now += lasts + 2000 + dice.below(9000);
        }
        Self { deeds, outages }
    }
}

/// Who draws the deeds of one application, and knows which versions there have been.
struct Author {
    next: usize,
    known: Vec<Version>,
}

impl Author {
    fn version(&mut self, dice: &mut Dice) -> Version {
        if dice.below(8) == 0 {
            return self.known[dice.index(self.known.len())];
        }
        let pods = match dice.below(20) {
            0..=10 => Pods::Good,
            11..=12 => Pods::Slow,
            13..=15 => Pods::CanaryOnly,
            16 => Pods::Flapping,
            17..=18 => Pods::Never,
            _ => Pods::CrashLoop,
        };
        self.make(pods)
    }

    fn make(&mut self, pods: Pods) -> Version {
        let version = Version { number: self.next, pods };
        self.next += 1;
        self.known.push(version);
        version
    }

    fn deed(&mut self, dice: &mut Dice) -> Deed {
        let side = |dice: &mut Dice| if dice.below(2) == 0 { Side::Target } else { Side::Primary };
        let pods = |dice: &mut Dice| i32::try_from(dice.below(3)).unwrap_or(0) + 1;
        let says = |dice: &mut Dice| match dice.below(8) {
            0..=3 => Says::Yes,
            4..=5 => Says::No,
            6 => Says::Late,
            _ => Says::Nothing,
        };
        match dice.below(56) {
            0..=11 => Deed::Update(self.version(dice)),
            12..=16 => Deed::Apply(self.version(dice), pods(dice)),
            17..=18 => Deed::Again,
            19..=21 => Deed::Revert,
            22..=24 => Deed::Scale(side(dice), pods(dice) - 1),
            25..=26 => Deed::Restart(side(dice)),
            27..=28 => Deed::Retry,
            29 => Deed::BreakGlass(self.make(Pods::Good)),
            30..=37 => Deed::Hook(HOOKS[dice.index(HOOKS.len())], says(dice)),
            38..=40 => Deed::Rate(says(dice)),
            41..=45 => Deed::Readiness(side(dice), dice.below(2) == 0),
            46..=47 => Deed::DeletePods(side(dice)),
            48 => Deed::Delete(side(dice)),
            49..=51 => Deed::Route(i64::try_from(dice.below(6)).unwrap_or(0) * 20),
            52..=53 => Deed::Skip(dice.below(3) == 0),
            _ => Deed::Interval(if dice.below(2) == 0 { 1 } else { 2 }),
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): enough for drawing lots, and the same on every machine.
struct Dice(u64);

impl Dice {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

    fn new(seed: u64, stream: usize) -> Self {
        let stream = u64::try_from(stream).unwrap_or(0);
        let mut dice = Self(seed.wrapping_mul(Self::GOLDEN) ^ stream.wrapping_mul(0xd1b5_4a32_d192_ed03));
        dice.next();
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(Self::GOLDEN);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.next() % length as u64).unwrap_or(0)
    }
}

#[test]
fn a_seed_always_draws_the_same_round_and_another_one_another() {
    assert_eq!(Round::new(7, 6, 60_000), Round::new(7, 6, 60_000));
    assert_ne!(Round::new(7, 6, 60_000), Round::new(8, 6, 60_000));
    assert_eq!(Round::new(7, 2, 60_000).deeds, Round::new(7, 6, 60_000).deeds[..2]);
}

#[test]
fn everything_that_can_be_done_is_drawn() {
    let rounds: Vec<Round> = (0..50).map(|seed| Round::new(seed, 6, 60_000)).collect();
    let kinds = |all: Vec<String>| -> std::collections::BTreeSet<String> {
        all.into_iter().map(|d| d.split('(').next().unwrap_or_default().to_owned()).collect()
    };
    let deeds = rounds.iter().flat_map(|r| r.deeds.iter().flatten()).map(|m| format!("{:?}", m.what));
    assert_eq!(kinds(deeds.collect()).len(), 16);
    let outages = rounds.iter().flat_map(|r| &r.outages).map(|m| format!("{:?}", m.what.0));
    assert_eq!(kinds(outages.collect()).len(), 3);
}

#[test]
fn a_version_is_read_back_from_its_image() {
    for pods in Pods::ALL {
        let version = Version { number: 12, pods };
        assert_eq!(Version::of(&format!("app:{version}")), Some(version));
    }
}
