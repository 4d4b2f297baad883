//! Workspace tests: whole models end to end, snapshots of every IR level, and the tidy rules. See `tests/tests/`.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

/// Root of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate is in the workspace").to_owned()
}

/// A file under `fixtures/`.
pub fn fixture(path: &str) -> PathBuf {
    workspace().join("fixtures").join(path)
}
