//! `osier image prewarm`, `osier boot --from`: machines that start by going on from one that has booted, each as itself. Needs root,
//! the Debian tree (tests/run makes it), and a criu: `OSIER_CRIU`, or one in PATH.
#![expect(clippy::unwrap_used, reason = "a test that cannot do its own work has failed")]

#[expect(dead_code, reason = "other tests need more of it")]
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::machine::{Machine, osier, output};
use support::tree::{Scratch, Tree, debian};
use support::{await_that, leftovers, unique};

/// With the option that names the criu of the tests.
fn criu(mut command: Command) -> Command {
    if let Some(criu) = std::env::var_os("OSIER_CRIU") {
        command.arg("--criu").arg(criu);
    }
    command
}

fn shell(name: &str, script: &str) -> String {
    let output = output(&mut osier(["shell", name, "--", "sh", "-c", script]));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// What a machine takes itself for.
fn identity(name: &str) -> Vec<String> {
    let script = "cat /proc/sys/kernel/hostname /etc/hostname /etc/machine-id /proc/sys/kernel/random/boot_id /run/host/container-uuid; \
        cat /sys/class/net/host0/address; ls /var/lib/systemd/random-seed 2>/dev/null; systemctl is-system-running";
    shell(name, script).lines().map(str::to_owned).collect()
}

fn listed(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn copies_of_a_prewarmed_machine_run_at_once_each_as_itself() {
    let scratch = Scratch::new();
    let image = unique("prewarm");
    let tree = scratch.path().join(&image);
    assert!(Command::new("cp").arg("-a").arg(debian()).arg(&tree).status().unwrap().success());
    fs::write(tree.join("etc/hostname"), format!("{image}\n")).unwrap();
    let saved = scratch.path().join("saved");
    let mut prewarm = criu(osier(["image", "prewarm"]));
    prewarm.arg(&tree).arg("--to").arg(&saved);
    let made = output(&mut prewarm);
    assert!(made.status.success(), "{made:?}");
    assert_eq!(listed(scratch.path()), BTreeSet::from([image.clone(), "saved".to_owned()]));
    assert!(!output(&mut osier(["show", &image])).status.success());

    let copies: Vec<_> = (1..=3)
        .map(|number| {
            let name = format!("{image}{number}");
            let mut boot = criu(osier(["boot", "--ephemeral", "--console=read-only"]));
            boot.arg("--from").arg(&saved).arg(format!("--machine={name}"));
            Machine::spawn(boot, &name, &saved.join("root"))
        })
        .collect();
    let mut seen: Vec<BTreeSet<String>> = vec![BTreeSet::new(); 6];
    for copy in &copies {
        let record = copy.show();
        await_that("it runs", || identity(&copy.name).last().is_some_and(|state| state == "running"));
        let identity = identity(&copy.name);
        assert_eq!(identity[..2], [copy.name.clone(), copy.name.clone()]);
        assert_eq!(record["id"].as_str().unwrap().replace('-', ""), identity[2]);
        assert_eq!(identity[4].replace('-', ""), identity[2]);
        // And no seed.
        assert_eq!(identity.len(), 7, "{identity:?}");
        for (seen, is) in seen.iter_mut().zip(&identity) {
            assert!(seen.insert(is.clone()), "{is} is another one's: {identity:?}");
        }
    }
    let off = output(osier(["poweroff"]).args(copies.iter().map(|copy| &copy.name)));
    assert!(off.status.success(), "{off:?}");
    // They share a tree, and its lock.
    let names: Vec<_> = copies.iter().map(|copy| copy.name.clone()).collect();
    copies.into_iter().for_each(|copy| drop(copy.end_leaving()));
    for name in names {
        leftovers::assert_none(&name, &saved.join("root"));
    }
    assert_eq!(listed(scratch.path()), BTreeSet::from([image.clone(), "saved".to_owned()]));

    // With a tree of its own, and from an ordinary checkpoint of that one.
    let first = Own::boot(&format!("{image}4"), &saved);
    let ordinary = scratch.path().join("ordinary.osier");
    let mut checkpoint = criu(osier(["checkpoint", "--with-tree", &first.machine.name]));
    let made = output(checkpoint.arg("--to").arg(&ordinary));
    assert!(made.status.success(), "{made:?}");
    first.end();
    let second = Own::boot(&format!("{image}5"), &ordinary);
    let off = output(&mut osier(["poweroff", &second.machine.name]));
    assert!(off.status.success(), "{off:?}");
    second.end();
}

/// A machine that has gone on from a checkpoint with a tree of its own, which is where machines' trees are.
struct Own {
    machine: Machine,
    tree: PathBuf,
}

impl Own {
    fn boot(name: &str, from: &Path) -> Self {
        let tree = Path::new("/var/lib/machines").join(name);
        let mut boot = criu(osier(["boot", "--console=read-only"]));
        boot.arg("--from").arg(from).arg(format!("--machine={name}"));
        let own = Self { machine: Machine::spawn(boot, name, &tree), tree };
        await_that("it runs", || identity(name).last().is_some_and(|state| state == "running"));
        assert_eq!(identity(name)[..2], [name.to_owned(), name.to_owned()]);
        assert_eq!(own.machine.show()["root"], own.tree.to_str().unwrap());
        own
    }

    fn end(self) {
        let name = self.machine.name.clone();
        assert_eq!(self.machine.end_leaving().0, 0);
        leftovers::assert_none(&name, &self.tree);
        assert_eq!(fs::read_to_string(self.tree.join("etc/hostname")).unwrap(), format!("{name}\n"));
        fs::remove_dir_all(&self.tree).unwrap();
    }
}

#[test]
fn what_cannot_be_another_way_after_the_boot_is_refused() {
    let refused = |arguments: &[&str], why: &str| {
        let output = output(osier(["boot"]).args(arguments));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && said.contains(why), "{arguments:?}: {output:?}");
    };
    refused(&["--from=/nowhere"], "--machine");
    refused(&["--from=/nowhere", "-Mx", "tree"], "cannot be used with");
    refused(&["--from=/nowhere", "-Mx", "--network=none"], "booted with the other options");
    refused(&["--criu=/bin/false", "tree"], "--from");
    refused(&[], "NAME|PATH");
}

#[test]
fn what_cannot_be_prewarmed_leaves_nothing() {
    let tree = Tree::minimal();
    let saved = tree.outside().join("saved");
    let refused = |why: &str| {
        let mut prewarm = criu(osier(["image", "prewarm"]));
        let made = output(prewarm.arg(tree.path()).arg("--to").arg(&saved));
        let text = String::from_utf8_lossy(&made.stderr);
        let begin = format!("osier: cannot prewarm '{}': ", tree.path().display());
        assert!(!made.status.success() && text.starts_with(&begin) && text.contains(why), "{made:?}");
    };
    fs::create_dir(&saved).unwrap();
    fs::write(saved.join("file"), "mine").unwrap();
    refused("there is something of that name");
    assert_eq!(listed(&saved), BTreeSet::from(["file".to_owned()]));
    fs::remove_dir_all(&saved).unwrap();
    for init in ["#!/bin/sh\nexit 1\n", "#!/nonexistent\n"] {
        tree.executable("sbin/init", init);
        refused("");
        assert_eq!(listed(tree.outside()), BTreeSet::from([tree.name().to_owned()]), "{init}");
        leftovers::assert_none(tree.name(), &tree.path());
        leftovers::assert_none(tree.name(), &saved.join("root"));
    }
}
