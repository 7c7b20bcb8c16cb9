//! Conformance: recorded runs of Flagger 1.44.0, driven again through the shipped core, and what differs.
//!
//! Every difference stands in `tests/data/deviations.tsv` with its reason, every trace that is not driven in
//! `tests/data/traces-left-out.tsv`; a row that is not needed fails as a missing one does.

#[cfg(test)]
mod conformance {
    mod compare;
    mod drive;
    mod tables;
    mod view;
    mod words;

    use tables::{Deviations, LeftOut};

    #[test]
    fn every_recorded_run_is_reproduced_but_for_the_deviations_that_are_listed() {
        let runs = recordings::all();
        let (mut deviations, mut left_out) = (Deviations::read(), LeftOut::read());
        let (mut differences, mut driven, mut forms) = (Vec::new(), 0, 0);
        for trace in runs {
            if left_out.names(trace) {
                continue;
            }
            driven += 1;
            let (theirs, (ours, told)) = (view::of_trace(trace), drive::drive(trace));
            differences.extend(compare::differences(trace.name(), &theirs, &ours, &mut deviations));
            let (theirs, ours) = words::of_both(words::of_trace(trace), told);
            forms += theirs.values().map(Vec::len).sum::<usize>();
            differences.extend(compare::differences(trace.name(), &theirs, &ours, &mut deviations));
        }
        assert!(forms > 1_000, "only {forms} conditions and Events are told by both");
        println!("left out, by reason: {:#?}", left_out.reasons());
        let told = format!("{driven} of {} recorded runs", runs.len());
        assert!(include_str!("../README.md").contains(&told), "the README does not say: {told}");
        differences.extend(deviations.unused());
        differences.extend(left_out.unused());
        assert!(differences.is_empty(), "{} differences\n{}", differences.len(), differences.join("\n"));
    }
}
