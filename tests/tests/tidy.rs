//! Rules about the source tree that the compiler does not check.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use peregrine_tests::workspace;

/// Which workspace crates each crate may depend on, outside its tests.
const ARROWS: [(&str, &[&str]); 8] = [
    ("peregrine-ckks", &[]),
    ("peregrine-ir", &["peregrine-ckks"]),
    ("peregrine-passes", &["peregrine-ir", "peregrine-ckks"]),
    ("peregrine-data", &["peregrine-ir"]),
    ("peregrine-compiler", &["peregrine-passes", "peregrine-ir", "peregrine-ckks", "peregrine-data"]),
    ("peregrine-runtime", &["peregrine-ir", "peregrine-ckks", "peregrine-data"]),
    ("peregrine-tune", &["peregrine-compiler", "peregrine-data", "peregrine-passes", "peregrine-ir"]),
    ("peregrine-tests", &[]),
];

/// External crates that only these folders or files may name.
const CONFINED: [(&str, &[&str]); 4] = [
    (
        "tract_onnx",
        &["compiler/src/onnx", "compiler/src/oracle.rs", "data/src/onnx", "runtime/src/client/onnx", "tests"],
    ),
    ("egg::", &["passes/src/tensor/algebra"]),
    ("tfhe_ntt", &["ckks/src/ntt"]),
    ("tfhe_csprng", &["ckks/src/ring/sampler", "ckks/src/random"]),
];

/// Longest source file, in lines; test modules do not count.
const MAX_LINES: usize = 600;

fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for member in ["ckks", "ir", "passes", "data", "compiler", "runtime", "tune", "tests"] {
        collect(&workspace().join(member), &mut found);
    }
    assert!(found.len() > 50, "the source tree was not found");
    found
}

fn collect(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() && path.file_name().is_none_or(|n| n != "target") {
            collect(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).expect("source files are UTF-8");
            found.push((path.strip_prefix(workspace()).expect("inside").to_owned(), text));
        }
    }
}

fn is_test(path: &Path) -> bool {
    let name = path.file_stem().and_then(|n| n.to_str()).unwrap_or_default();
    name.contains("test") || path.components().any(|c| c.as_os_str() == "tests" || c.as_os_str() == "benches")
}

#[test]
fn crates_depend_along_the_arrows_only() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(workspace())
        .output()
        .expect("cargo metadata runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let arrows: BTreeMap<&str, &[&str]> = ARROWS.into_iter().collect();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("name");
        let allowed = arrows.get(name).unwrap_or_else(|| panic!("{name} is not in ARROWS"));
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let target = dependency["name"].as_str().expect("name");
            let normal = dependency["kind"].is_null();
            if normal && target.starts_with("peregrine-") && name != "peregrine-tests" {
                assert!(allowed.contains(&target), "{name} must not depend on {target}");
            }
        }
    }
}

#[test]
fn source_files_stay_small() {
    let long: Vec<String> = sources()
        .iter()
        .filter(|(path, _)| !is_test(path))
        .map(|(path, text)| {
            (path, text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text).lines().count())
        })
        .filter(|(_, lines)| *lines > MAX_LINES)
        .map(|(path, lines)| format!("{}: {lines} lines", path.display()))
        .collect();
    assert!(long.is_empty(), "files past {MAX_LINES} lines: {long:#?}");
}

#[test]
fn unsafe_code_is_in_the_kernels_and_the_mapping_module_only() {
    for (path, text) in sources() {
        let allowed = path.starts_with("ckks/src/kernels")
            || path.starts_with("ckks/src/ring/arena.rs")
            || path.starts_with("ir/src/container/mapped.rs")
            || path.ends_with("tidy.rs");
        let uses = text.lines().any(|l| {
            let code = l.split("//").next().unwrap_or(l);
            code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("unsafe impl")
        });
        assert!(allowed || !uses, "{}: unsafe code", path.display());
    }
}

#[test]
fn every_unsafe_block_says_why_it_is_safe() {
    for (path, text) in sources() {
        if path.ends_with("tidy.rs") {
            continue;
        }
        let lines: Vec<&str> = text.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            if line.split("//").next().unwrap_or(line).contains("unsafe {") {
                let before = &lines[i.saturating_sub(6)..=i];
                assert!(
                    before.iter().any(|l| l.contains("SAFETY")),
                    "{}:{}: unsafe block without a SAFETY note",
                    path.display(),
                    i + 1
                );
            }
        }
    }
}

#[test]
fn external_crates_stay_behind_their_doors() {
    for (path, text) in sources().into_iter().filter(|(path, _)| !is_test(path)) {
        for (name, places) in CONFINED {
            let uses = text.lines().any(|l| l.split("//").next().unwrap_or(l).contains(name));
            let allowed = places.iter().any(|p| path.starts_with(p) || path.to_string_lossy().starts_with(p));
            assert!(!uses || allowed, "{} names {name}", path.display());
        }
    }
}

#[test]
fn the_runtime_evaluator_cannot_name_a_secret_key() {
    for (path, text) in sources() {
        let server_side = path.starts_with("runtime/src/exec") || path.starts_with("ckks/src/evaluator");
        if server_side && !is_test(&path) {
            let code = text.split("#[cfg(test)]").next().unwrap_or(&text);
            let names = code.lines().any(|l| l.split("//").next().unwrap_or(l).contains("SecretKey"));
            assert!(!names, "{} names SecretKey", path.display());
        }
    }
}
