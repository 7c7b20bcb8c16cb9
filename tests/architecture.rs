//! The dependency rule: the pure modules name no client, no runtime and no clock, and files stay readable.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test stops at what it cannot read")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms of `src` from the ground up, and which of the rooms below each names: no arrow points up. `main` and `bin`
/// stand above all of them.
const ROOMS: &str = "
    clock:
    foreign:
    go:
    object:
    outbound:
    api: go
    hooks: api go outbound
    metrics: go outbound
    router: api foreign go object
    review: api go router
    rollout: api foreign hooks metrics object outbound review router
    policy: api go object review rollout
    admission: api object policy
    telemetry: clock
    kubernetes: api clock object rollout
    tls: clock kubernetes
    controller: admission api clock foreign kubernetes object outbound policy rollout router telemetry
    install: admission api go object rollout router
    check: admission api clock controller install kubernetes object policy rollout telemetry
    cli: admission api check clock controller go install kubernetes rollout router telemetry tls
    plugin: admission api check clock go install kubernetes object rollout
";

/// The rooms of `src/rollout` likewise; stages and interrupts hand over to each other.
const CORE: &str = "
    model:
    objects:
    status: model
    case: model status
    interrupts: case model stages status
    stages: case interrupts model status
    advance: case interrupts model stages status
    subject: model objects
    preview: advance model subject
";

/// Rooms, and files of other rooms, whose code is pure.
const PURE: [&str; 16] = [
    "src/api",
    "src/go.rs",
    "src/hooks",
    "src/metrics",
    "src/object.rs",
    "src/outbound.rs",
    "src/policy",
    "src/review",
    "src/rollout",
    "src/router",
    "src/admission/decide.rs",
    "src/admission/rules",
    "src/plugin/progress.rs",
    "src/plugin/screen.rs",
    "src/plugin/tree.rs",
    "src/plugin/view.rs",
];

/// What pure code does not name.
const FORBIDDEN: [&str; 9] = [
    "kube::Client",
    "kube::Api",
    "kube::api",
    "tokio",
    "reqwest",
    "Timestamp::now",
    "SystemTime::now",
    "Instant::now",
    "crate::controller",
];

fn rust_files(at: &Path) -> Vec<PathBuf> {
    if at.is_file() {
        return vec![at.to_owned()];
    }
    let mut files: Vec<PathBuf> = fs::read_dir(at)
        .unwrap_or_else(|e| panic!("{}: {e}", at.display()))
        .flat_map(|entry| rust_files(&entry.unwrap().path()))
        .filter(|p| p.extension().is_some_and(|e| e == "rs"))
        .collect();
    files.sort();
    files
}

#[test]
fn pure_modules_name_no_io() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut offences = Vec::new();
    for file in PURE.iter().flat_map(|at| rust_files(&root.join(at))) {
        let text = fs::read_to_string(&file).unwrap();
        for (number, line) in text.lines().enumerate().filter(|(_, l)| !l.trim_start().starts_with("//")) {
            for word in FORBIDDEN.iter().filter(|word| line.contains(**word)) {
                offences.push(format!("{}:{}: {word}", file.display(), number + 1));
            }
        }
    }
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}

/// Files and folders that are compiled for tests only.
fn test_only(root: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for file in rust_files(&root.join("src")) {
        let text = fs::read_to_string(&file).unwrap();
        let folder = match file.file_stem().unwrap().to_str().unwrap() {
            "mod" | "lib" | "main" => file.parent().unwrap().to_owned(),
            name => file.parent().unwrap().join(name),
        };
        for after in text.split("#[cfg(test)]\n").skip(1) {
            let line = after.lines().next().unwrap_or_default();
            if let Some((_, name)) = line.strip_suffix(';').and_then(|line| line.split_once("mod ")) {
                found.extend([folder.join(format!("{name}.rs")), folder.join(name)]);
            }
        }
    }
    found
}

/// Checks a table against what the files below `at` name after `prefix`: every arrow is in it, and points down, and every one
/// in it is there.
fn check_arrows(at: &str, prefix: &str, table: &str, handing_over: &[&str]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tests = test_only(root);
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in rust_files(&root.join(at)) {
        if tests.iter().any(|t| file.starts_with(t)) {
            continue;
        }
        let below = file.strip_prefix(root.join(at)).unwrap().with_extension("");
        let room = below.components().next().unwrap().as_os_str().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let code: String = code.lines().filter(|l| !l.trim_start().starts_with("//")).collect();
        for after in code.split(prefix).skip(1) {
            let names = match after.strip_prefix('{') {
                Some(group) => group.split('}').next().unwrap_or_default().split(',').collect(),
                None => vec![after],
            };
            let word = |text: &str| {
                text.trim().split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap().to_owned()
            };
            found.entry(room.clone()).or_default().extend(names.into_iter().map(word).filter(|w| *w != room));
        }
    }
    let mut known = BTreeSet::new();
    let mut wrong = Vec::new();
    for (room, below) in table.lines().filter_map(|line| line.trim().split_once(':')) {
        let listed: BTreeSet<&str> = below.split_whitespace().collect();
        known.insert(room);
        let names = found.remove(room).unwrap_or_default();
        wrong.extend(
            listed.iter().filter(|r| !names.contains(**r)).map(|r| format!("{room} no longer names {r}")),
        );
        wrong.extend(
            names
                .iter()
                .filter(|r| table.contains(&format!(" {r}:")) && !listed.contains(r.as_str()))
                .map(|r| format!("{room} names {r}")),
        );
        wrong.extend(
            listed
                .iter()
                .filter(|r| !known.contains(**r) && !handing_over.contains(*r))
                .map(|r| format!("{room} stands below {r}")),
        );
    }
    wrong.extend(
        found
            .keys()
            .filter(|r| !["lib", "main", "bin", "mod"].contains(&r.as_str()))
            .map(|r| format!("{r} is not in the table")),
    );
    assert!(wrong.is_empty(), "{at}:\n{}", wrong.join("\n"));
}

#[test]
fn no_arrow_points_up() {
    check_arrows("src", "crate::", ROOMS, &[]);
    check_arrows("src/rollout", "crate::rollout::", CORE, &["stages"]);
}

#[test]
fn files_have_one_idea() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let long: Vec<String> = ["src", "tests", "benches", "hack/ground/src"]
        .iter()
        .map(|at| root.join(at))
        .filter(|at| at.exists())
        .flat_map(|at| rust_files(&at))
        .map(|file| (fs::read_to_string(&file).unwrap().lines().count(), file))
        .filter(|(lines, _)| *lines > 600)
        .map(|(lines, file)| format!("{} has {lines} lines", file.display()))
        .collect();
    assert!(long.is_empty(), "split:\n{}", long.join("\n"));
}

/// The page on security says of each row by which test it is kept: all of these are there.
#[test]
fn every_test_that_the_page_on_security_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |at: &str| {
        rust_files(&root.join(at)).iter().map(|f| fs::read_to_string(f).unwrap()).collect::<String>()
    };
    let code = read("src") + &read("tests");
    let page = fs::read_to_string(root.join("docs/security.md")).unwrap();
    let named: Vec<&str> = page
        .lines()
        .filter(|line| line.starts_with('|'))
        .filter_map(|line| line.trim_end_matches(['|', ' ']).rsplit('|').next())
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .filter(|name| name.contains('_') && !name.contains(['.', '-']))
        .collect();
    assert!(named.len() > 10, "{named:?}");
    let missing: Vec<&&str> = named.iter().filter(|name| !code.contains(&format!("fn {name}("))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
