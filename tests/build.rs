//! Builds the host whose SQLite is single-threaded, from the amalgamation that the bundled SQLite is built from too.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let source = "harness/single_threaded_host.c";
    println!("cargo:rerun-if-changed={source}");
    println!("cargo:rerun-if-changed=build.rs");
    // libsqlite3-sys names the folder of its bundled amalgamation to the crates that depend on it.
    let amalgamation = PathBuf::from(std::env::var("DEP_SQLITE3_INCLUDE").expect("bundled SQLite"));
    let out = std::env::var("OUT_DIR").expect("cargo sets it");
    let host = Path::new(&out).join("single-threaded-host");
    // Not the `cc` crate: it builds libraries, and this one's symbols must stay out of the tests' own SQLite.
    let status = Command::new("gcc")
        .args(["-O1", "-w", "-DSQLITE_THREADSAFE=0", "-I"])
        .arg(&amalgamation)
        .arg(source)
        .arg(amalgamation.join("sqlite3.c"))
        .arg("-o")
        .arg(&host)
        .args(["-ldl", "-lm"])
        .status()
        .expect("gcc runs");
    assert!(status.success(), "gcc: {status}");
    println!("cargo:rustc-env=SINGLE_THREADED_HOST={}", host.display());
}
