//! Two views side by side.

use super::tables::{Deviations, Side};
use super::view::View;

/// Lines that stand on one side only, in order: a longest common subsequence is left out.
fn apart<'a>(theirs: &'a [String], ours: &'a [String]) -> Vec<(Side, &'a str)> {
    let (n, m) = (theirs.len(), ours.len());
    let mut length = vec![vec![0usize; m + 1]; n + 1];
    for i in (0..n).rev() {
        for j in (0..m).rev() {
            length[i][j] = if theirs[i] == ours[j] {
                length[i + 1][j + 1] + 1
            } else {
                length[i + 1][j].max(length[i][j + 1])
            };
        }
    }
    let (mut i, mut j, mut apart) = (0, 0, Vec::new());
    while i < n || j < m {
        if i < n && j < m && theirs[i] == ours[j] {
            (i, j) = (i + 1, j + 1);
        } else if j == m || (i < n && length[i + 1][j] >= length[i][j + 1]) {
            apart.push((Side::Theirs, theirs[i].as_str()));
            i += 1;
        } else {
            apart.push((Side::Ours, ours[j].as_str()));
            j += 1;
        }
    }
    paired(apart)
}

/// Takes lines that stand on both sides together as moved.
fn paired(mut apart: Vec<(Side, &str)>) -> Vec<(Side, &str)> {
    let mut at = 0;
    while at < apart.len() {
        let (side, line) = apart[at];
        let twin = apart.iter().skip(at + 1).position(|(s, l)| *s != side && *s != Side::Moved && *l == line);
        if let Some(twin) = twin.filter(|_| side != Side::Moved) {
            apart.remove(at + 1 + twin);
            apart[at].0 = Side::Moved;
        }
        at += 1;
    }
    apart
}

/// Differences that are not listed.
pub(super) fn differences(
    trace: &str,
    theirs: &View,
    ours: &View,
    deviations: &mut Deviations,
) -> Vec<String> {
    let mut found = Vec::new();
    let mut themes: Vec<&String> = theirs.keys().chain(ours.keys()).collect();
    themes.sort();
    themes.dedup();
    for theme in themes {
        let lines = |view: &View| view.get(theme).cloned().unwrap_or_default();
        for (side, line) in apart(&lines(theirs), &lines(ours)) {
            if !deviations.lists(trace, theme, side, line) {
                found.push(format!("{trace}\t{theme}\t{side:?}\t{line}"));
            }
        }
    }
    found
}
