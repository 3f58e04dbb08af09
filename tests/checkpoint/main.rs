//! `osier checkpoint` and `osier restore`: what runs in a machine goes on, and what cannot be done leaves it as it is.
//!
//! Needs root, the trees (tests/run makes them), and a criu: `OSIER_CRIU`, or one in PATH.
#![expect(clippy::unwrap_used, reason = "a test that cannot do its own work has failed")]

#[expect(dead_code, reason = "other tests need more of it")]
#[path = "../support/mod.rs"]
mod support;

mod others;
mod peer;
mod refused;
mod systemd;
mod timers;

use std::path::Path;
use std::process::{Command, Output};

use support::machine::{osier, output};

/// The option that says which criu it is.
fn criu() -> String {
    format!("--criu={}", std::env::var("OSIER_CRIU").unwrap_or_else(|_| "criu".to_owned()))
}

fn said(arguments: &[&str]) -> Output {
    output(&mut osier(arguments))
}

/// What a verb prints that has to succeed.
fn done(arguments: &[&str]) -> String {
    let output = said(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The output of `osier checkpoint --to=TARGET OPTIONS NAME`.
fn checkpoint(name: &str, target: &Path, options: &[&str]) -> Output {
    output(&mut checkpointing(name, target, options))
}

fn checkpointing(name: &str, target: &Path, options: &[&str]) -> Command {
    let mut command = osier(["checkpoint", &criu()]);
    command.arg("--to").arg(target).args(options).arg(name);
    command
}

/// As [`checkpoint`], which has to succeed.
fn save(name: &str, target: &Path, options: &[&str]) {
    let output = checkpoint(name, target, options);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert!(text.starts_with(&format!("'{name}' is saved in {}: ", target.display())), "{text}");
}

/// `osier restore OPTIONS FROM`.
fn restoring(from: &Path, options: &[&str]) -> Command {
    let mut command = osier(["restore", &criu()]);
    command.args(options).arg(from);
    command
}
