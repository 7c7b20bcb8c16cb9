use super::*;
use crate::api::status::{Revisions, Run, Stage};
use proptest::prelude::*;
use serde_json::json;

fn revision(name: &str) -> Revision {
    Revision::from_key(name)
}

fn key() -> Key {
    ("shop".into(), "app".into())
}

fn time(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn wave(after: &[&str], passed: Option<i32>, soak: Option<&str>) -> Wave {
    let after = after.iter().map(|name| (*name).to_owned()).collect();
    Wave { after, passed, soak: soak.map(str::to_owned) }
}

/// What a Canary says: what its primary runs, and its history as `+revision` and `-revision`, ten seconds apart.
fn says(primary: &str, history: &str) -> Seen {
    let past = |(index, word): (usize, &str)| Past {
        revision: word[1..].to_owned(),
        outcome: if word.starts_with('+') { Outcome::Promoted } else { Outcome::Rejected },
        by: None,
        at: Some(time(10 * i64::try_from(index).unwrap() + 10)),
    };
    Seen::of(CanaryStatus {
        revisions: Revisions { primary: Some(primary.to_owned()), ..Revisions::default() },
        history: history.split_whitespace().enumerate().map(past).collect(),
        ..CanaryStatus::default()
    })
}

fn peers(clusters: &[(&str, Seen)]) -> Peers {
    let mut peers = Peers::default();
    for (name, seen) in clusters {
        peers.listed(name, [(key(), seen.clone())].into());
    }
    peers
}

fn ask(wave: &Wave, peers: &Peers, now: i64) -> Gate {
    gate(wave, peers, &key(), &revision("v2"), time(now))
}

fn closed(gate: Gate) -> String {
    match gate {
        Gate::Closed { why, until: None } => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn it_opens_when_all_have_promoted_it_and_the_last_has_soaked() {
    let one = wave(&["a"], None, None);
    assert_eq!(ask(&one, &peers(&[("a", says("v2", "+v1 +v2"))]), 20), Gate::Open);
    let both = wave(&["a", "b"], None, Some("1m"));
    let peers = peers(&[("a", says("v2", "+v1 +v2")), ("b", says("v2", "+v1 -v3 +v2"))]);
    assert_eq!(
        ask(&both, &peers, 89),
        Gate::Closed {
            why: "Revision v2 was promoted in a, b, soak until 1970-01-01T00:01:30Z.".into(),
            until: Some(time(90)),
        }
    );
    assert_eq!(ask(&both, &peers, 90), Gate::Open);
    // The one that is enough soaks, not the one that came after it.
    let either = wave(&["a", "b"], Some(1), Some("1m"));
    assert_eq!(ask(&either, &peers, 80), Gate::Open);
}

#[test]
fn a_cluster_that_has_moved_on_counts_and_one_that_went_back_does_not() {
    let one = wave(&["a"], None, None);
    assert_eq!(ask(&one, &peers(&[("a", says("v3", "+v1 +v2 +v3"))]), 99), Gate::Open);
    let back = ask(&one, &peers(&[("a", says("v1", "+v1 +v2 +v1"))]), 99);
    assert_eq!(closed(back), "Revision v2 waits for its wave: cluster a went back from it to revision v1.");
    // The second time it passed.
    assert_eq!(ask(&one, &peers(&[("a", says("v2", "+v1 -v2 +v2"))]), 99), Gate::Open);
}

#[test]
fn the_sentence_says_which_cluster_keeps_it_closed_and_why() {
    let one = wave(&["a"], None, None);
    let says_of = |peers: &Peers| closed(ask(&one, peers, 99));
    let starts = "Revision v2 waits for its wave: cluster a ";
    let mut all = Peers::default();
    assert_eq!(says_of(&all), format!("{starts}has not been listed yet."));
    assert_eq!(says_of(&peers(&[("a", says("v1", "+v1"))])), format!("{starts}runs revision v1, not v2."));
    let mut running = says("v1", "+v1 -v2");
    running.running = Some("v2".into());
    assert_eq!(says_of(&peers(&[("a", running)])), format!("{starts}has not finished releasing it."));
    assert_eq!(says_of(&peers(&[("a", Seen::default())])), format!("{starts}has promoted nothing yet."));

    all.listed("a", BTreeMap::new());
    assert_eq!(says_of(&all), format!("{starts}has no Canary shop/app."));
    let unusable = Contact::Unusable("there is no Secret a".into());
    assert!(all.contact("a", unusable.clone()) && !all.contact("a", unusable));
    assert_eq!(says_of(&all), format!("{starts}cannot be asked: there is no Secret a."));

    // However often it is tried, it is lost since it was first; what it had said before does not count.
    let mut lost = peers(&[("a", says("v2", "+v2"))]);
    for (second, why) in [(30, "it cannot be reached"), (31, "it answers 503")] {
        assert!(lost.contact("a", Contact::Lost { since: time(second), why: why.into() }));
        assert_eq!(says_of(&lost), format!("{starts}has not been heard since 1970-01-01T00:00:30Z: {why}."));
    }
    assert!(!lost.contact("a", Contact::Lost { since: time(32), why: "it answers 503".into() }));
    let amiss = lost.amiss(&wave(&["a", "unknown"], None, None));
    assert_eq!(amiss, ["cluster a has not been heard since 1970-01-01T00:00:30Z: it answers 503"]);
    lost.listed("a", [(key(), says("v2", "+v2"))].into());
    assert_eq!(ask(&one, &lost, 99), Gate::Open);
}

#[test]
fn a_wave_fails_when_too_few_can_still_pass() {
    let clusters =
        peers(&[("a", says("v1", "+v1 -v2")), ("b", says("v1", "+v1")), ("c", says("v2", "+v1 +v2"))]);
    let rejected = |names: &str| Gate::Rejected(format!("it was rejected in {names}"));
    assert_eq!(ask(&wave(&["a", "b", "c"], None, None), &clusters, 99), rejected("cluster a"));
    let two = wave(&["a", "b", "c"], Some(2), None);
    assert_eq!(
        closed(ask(&two, &clusters, 99)),
        "Revision v2 waits for its wave, promoted in 1 of 2: cluster a rejected it; cluster b runs revision v1, not v2."
    );
    assert_eq!(ask(&wave(&["a", "b", "c"], Some(1), None), &clusters, 99), Gate::Open);
    let clusters = peers(&[("a", says("v1", "-v2")), ("b", says("v3", "-v2 +v3")), ("c", says("v2", "+v2"))]);
    assert_eq!(ask(&two, &clusters, 99), rejected("clusters a, b"));
    // Where the history does not reach back, what status names counts.
    let mut failed = says("v1", "");
    failed.failed = Some("v2".into());
    assert_eq!(ask(&wave(&["a"], None, None), &peers(&[("a", failed)]), 99), rejected("cluster a"));
}

#[test]
fn a_promotion_without_a_time_does_not_soak() {
    let soaks = wave(&["a"], None, Some("1s"));
    let text = closed(ask(&soaks, &peers(&[("a", says("v2", ""))]), 99));
    assert!(text.contains("cluster a promoted it and does not say when"), "{text}");
    assert_eq!(ask(&wave(&["a"], None, None), &peers(&[("a", says("v2", ""))]), 0), Gate::Open);
    // It was before everything that is remembered.
    assert_eq!(
        ask(&soaks, &peers(&[("a", says("v2", "-v3"))]), 10),
        Gate::Closed {
            why: "Revision v2 was promoted in a, soak until 1970-01-01T00:00:11Z.".into(),
            until: Some(time(11)),
        }
    );
}

#[test]
fn steps_of_a_release_are_no_news() {
    let status = |weight: i32| {
        serde_json::from_value::<CanaryStatus>(json!({
            "phase": "Progressing", "canaryWeight": weight, "revisions": {"primary": "v1"},
            "run": {"revision": "v2", "stage": "Analysing", "since": "2026-01-01T00:00:00Z", "weight": weight},
        }))
        .unwrap()
    };
    let mut peers = Peers::default();
    peers.listed("a", BTreeMap::new());
    assert!(peers.see("a", key(), Some(Seen::of(status(10)))));
    assert!(!peers.see("a", key(), Some(Seen::of(status(20)))));
    assert!(peers.see("a", key(), None) && !peers.see("a", key(), None));
    let run = status(10).run.unwrap();
    assert_eq!((run.stage, run.revision.as_str()), (Stage::Analysing, "v2"));
    drop::<Run>(run);
}

/// A cluster as it may be found: not listed, lost, or with a Canary that has any past.
fn any_cluster() -> impl Strategy<Value = Option<(bool, Seen)>> {
    let word = (any::<bool>(), 1u8..4).prop_map(|(ok, n)| format!("{}v{n}", if ok { '+' } else { '-' }));
    let seen = (1u8..4, proptest::collection::vec(word, 0..6), proptest::option::of(1u8..4)).prop_map(
        |(primary, words, running)| {
            let mut seen = says(&format!("v{primary}"), &words.join(" "));
            seen.running = running.map(|n| format!("v{n}"));
            seen
        },
    );
    proptest::option::of((any::<bool>(), seen))
}

proptest! {
    /// Never open without enough clusters that are heard and whose Canary says that it promoted this very revision, none
    /// of these promotions younger than the soak; never worse because one more promotes it or because time passes.
    #[test]
    fn open_means_promoted_and_more_never_closes(
        clusters in proptest::collection::vec(any_cluster(), 1..5), passed in proptest::option::of(1i32..6),
        soak in 0i64..60, now in 0i64..120, later in 0i64..60, better in 0usize..5,
    ) {
        let names: Vec<String> = (0..clusters.len()).map(|n| format!("c{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let wave = wave(&names, passed, Some(&format!("{soak}s")));
        let mut peers = Peers::default();
        for (name, cluster) in names.iter().zip(&clusters) {
            let Some((heard, seen)) = cluster else { continue };
            peers.listed(name, [(key(), seen.clone())].into());
            if !heard {
                peers.contact(name, Contact::Lost { since: time(0), why: "x".into() });
            }
        }
        let needed = passed.map_or(names.len(), |n| usize::try_from(n).unwrap().min(names.len()));
        let old_enough = clusters.iter().flatten().filter(|(heard, seen)| {
            let promoted = seen.history.iter().any(|p| {
                p.revision == "v2" && p.outcome == Outcome::Promoted && p.at.unwrap() <= time(now - soak)
            });
            *heard && (promoted || seen.primary.as_deref() == Some("v2"))
        });
        let before = ask(&wave, &peers, now);
        prop_assert!(before != Gate::Open || old_enough.count() >= needed);
        if let Gate::Closed { until: Some(until), .. } = &before {
            prop_assert!(*until > time(now) && ask(&wave, &peers, until.as_second()) == Gate::Open);
        }
        let open_later = ask(&wave, &peers, now + later) == Gate::Open;
        prop_assert!(before != Gate::Open || open_later);
        if let Some(name) = names.get(better) {
            peers.listed(name, [(key(), says("v2", "+v2"))].into());
            let after = ask(&wave, &peers, now.max(10 + soak));
            prop_assert!(!matches!(after, Gate::Rejected(_)) || matches!(before, Gate::Rejected(_)));
            prop_assert!(before != Gate::Open || after == Gate::Open);
        }
    }
}
