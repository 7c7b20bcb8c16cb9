//! Where recorded runs of Flagger lie, for the tests of the library and the conformance tests.
//!
//! `$SIDETRACK_FIXTURES`, else `../shared/fixtures` beside the checkout. A checkout that stands alone has nothing to
//! replay: the tests say so and pass, as they do with the variable set to nothing. Where the variable or `../shared` is
//! there, the recordings must be.

use std::io::Write as _;
use std::path::{Path, PathBuf};

/// The directory of the recordings; `None` where there are none, which is said.
pub(crate) fn directory() -> Option<PathBuf> {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let given = std::env::var_os("SIDETRACK_FIXTURES").map(PathBuf::from);
    let root = given.or_else(|| shared.is_dir().then(|| shared.join("fixtures")));
    let Some(root) = root.filter(|root| !root.as_os_str().is_empty()) else {
        // Not captured with what the test prints.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: no recorded runs here; SIDETRACK_FIXTURES names where they are"
        );
        return None;
    };
    let directory = root.join("flagger-traces");
    assert!(
        directory.is_dir(),
        "no recorded runs in {}: let SIDETRACK_FIXTURES name the directory that holds flagger-traces, or nothing to skip",
        directory.display()
    );
    Some(directory)
}
