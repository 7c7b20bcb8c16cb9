//! The dependency rule: the pure modules name no client, no runtime and no clock, and files stay readable.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test stops at what it cannot read")]

use std::fs;
use std::path::{Path, PathBuf};

/// Directories and files whose code is pure.
const PURE: [&str; 14] = [
    "src/api",
    "src/rollout",
    "src/router",
    "src/metrics",
    "src/policy",
    "src/hooks",
    "src/object.rs",
    "src/outbound.rs",
    "src/plugin/progress.rs",
    "src/plugin/screen.rs",
    "src/plugin/tree.rs",
    "src/plugin/view.rs",
    "src/admission/decide.rs",
    "src/admission/rules",
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
