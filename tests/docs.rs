//! The documents: every link leads somewhere, and every page is in the book.

#![expect(clippy::unwrap_used, reason = "a test stops at what it cannot read")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every document, by its path from the checkout, without what a build left behind.
fn documents() -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            let hidden = entry.file_name().is_some_and(|name| name.to_str().unwrap().starts_with('.'));
            let built = entry.join("CACHEDIR.TAG").exists();
            if entry.is_dir() && !hidden && !built {
                folders.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "md") {
                let text = fs::read_to_string(&entry).unwrap();
                found.insert(entry.strip_prefix(root()).unwrap().to_owned(), text);
            }
        }
    }
    found
}

/// The lines that are no code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut code = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    })
}

/// The anchors of headings, as forges and mdbook name them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for heading in prose(text).filter(|line| line.starts_with('#')) {
        let heading = heading.trim_start_matches('#').trim();
        let shown: String =
            heading.split("](").map(|part| part.rsplit_once(')').map_or(part, |(_, rest)| rest)).collect();
        let lower = shown.to_lowercase();
        let plain = lower.chars().filter_map(|c| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
            _ => None,
        });
        let plain: String = plain.collect();
        let count = (1..).find(|n| !found.contains(&numbered(&plain, *n))).unwrap_or(1);
        found.insert(numbered(&plain, count));
    }
    found
}

fn numbered(anchor: &str, n: usize) -> String {
    if n == 1 { anchor.to_owned() } else { format!("{anchor}-{}", n - 1) }
}

/// The targets of links that lead to a place in the checkout.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in prose(text) {
        // What stands in code is shown, not followed.
        let words: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        for after in words.split("](").skip(1) {
            let target = after.split([')', ' ']).next().unwrap_or_default();
            if !target.contains("://") && !target.starts_with("mailto:") {
                found.push(target.to_owned());
            }
        }
    }
    found
}

fn joined(folder: &Path, link: &str) -> PathBuf {
    let mut path = PathBuf::new();
    for part in folder.join(link).components() {
        match part {
            Component::ParentDir => drop(path.pop()),
            Component::CurDir => {}
            part => path.push(part),
        }
    }
    path
}

#[test]
fn every_link_leads_somewhere() {
    let documents = documents();
    let mut dead = Vec::new();
    let mut followed = 0;
    for (file, text) in &documents {
        for link in links(text) {
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if path.is_empty() { file.clone() } else { joined(file.parent().unwrap(), path) };
            followed += 1;
            if !root().join(&target).exists() {
                dead.push(format!("{}: {link}: there is no {}", file.display(), target.display()));
            } else if !anchor.is_empty()
                && documents.get(&target).is_some_and(|to| !anchors(to).contains(anchor))
            {
                dead.push(format!("{}: {link}: {} has no such heading", file.display(), target.display()));
            }
        }
    }
    assert!(followed > 100, "only {followed} links were found");
    assert!(dead.is_empty(), "{}", dead.join("\n"));
}

#[test]
fn every_page_is_in_the_book() {
    let documents = documents();
    let summary = documents.get(Path::new("docs/SUMMARY.md")).unwrap_or_else(|| panic!("no summary"));
    let listed: BTreeSet<PathBuf> =
        links(summary).iter().map(|link| joined(Path::new("docs"), link)).collect();
    let missing: Vec<_> = documents
        .keys()
        .filter(|page| page.starts_with("docs") && !page.ends_with("SUMMARY.md") && !listed.contains(*page))
        .collect();
    assert!(missing.is_empty(), "docs/SUMMARY.md does not list {missing:?}");
}

#[test]
fn anchors_are_those_of_a_forge() {
    let text = "# One\n```\n# no heading\n```\n## `two` of [three](x.md)!\n## One\n";
    assert_eq!(anchors(text), ["one", "two-of-three", "one-1"].map(str::to_owned).into());
    assert_eq!(links("see [a](b.md#c) and `[x](y)` and [z](https://z)"), ["b.md#c"]);
}
