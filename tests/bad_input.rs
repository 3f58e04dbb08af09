//! What cannot be: each has its sentence and its exit code, and leaves nothing behind. Trees that try to lead out stay
//! inside. Needs root.
#![expect(clippy::unwrap_used, reason = "a test that cannot do its own work has failed")]

#[expect(dead_code, reason = "other tests need more of it")]
mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;

use support::machine::{Machine, code, osier, output, run, stdout_of_run};
use support::tree::{Scratch, Tree};
use support::{leftovers, unique};

/// `osier boot` of this tree is refused with the code; gives what was said.
#[track_caller]
fn refused(expected: i32, path: &Path, options: &[&str]) -> String {
    let mut command = osier(["boot"]);
    command.args(options).arg(path);
    refused_command(expected, &mut command)
}

#[track_caller]
fn refused_command(expected: i32, command: &mut Command) -> String {
    let output = output(command);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(code(output.status), expected, "{said}");
    assert!(output.stdout.is_empty(), "{:?}", output.stdout);
    assert!(said.starts_with("osier: cannot boot '") || said.starts_with("osier: cannot run in '"), "{said}");
    said
}

#[track_caller]
fn assert_says(said: &str, expected: &str) {
    assert!(said.contains(expected), "'{expected}' is not in: {said}");
}

#[test]
fn a_tree_that_is_none() {
    let scratch = Scratch::new();
    let missing = scratch.path().join("missing");
    let said = refused(125, &missing, &[]);
    assert_says(&said, &format!("there is no '{}'", missing.display()));
    assert_says(&refused(125, Path::new("no-such-image-anywhere"), &[]), "no-such-image-anywhere");
    let file = scratch.file("file", "x");
    assert_says(&refused(125, &file, &[]), "file");
    fs::create_dir(scratch.path().join("empty")).unwrap();
    assert_says(
        &refused(125, &scratch.path().join("empty"), &[]),
        "is not an OS tree: it has no os-release file",
    );
    let mut run = osier(["run"]);
    run.arg(scratch.path().join("empty")).args(["--", "true"]);
    assert_says(&refused_command(125, &mut run), "it has neither usr nor bin");
    scratch.file("os/etc/os-release", "ID=x\n");
    let said = refused(125, &scratch.path().join("os"), &[]);
    assert_says(
        &said,
        "has no init: it has no init: neither of /usr/lib/systemd/systemd, /lib/systemd/systemd, /sbin/init",
    );
    assert_says(&said, "\nhint: ");
    scratch.file("os/sbin/init", "not executable");
    assert_says(
        &refused(125, &scratch.path().join("os"), &[]),
        "its init /sbin/init is not an executable file",
    );
    // One that can be executed in name only is 126, and found out at the end.
    fs::set_permissions(scratch.path().join("os/sbin/init"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(scratch.path().join("os/sbin/init"), "\x7fELF").unwrap();
    assert_says(
        &refused(126, &scratch.path().join("os"), &[]),
        "cannot execute '/sbin/init': exec format error",
    );
    fs::write(scratch.path().join("os/sbin/init"), "#!/no/such/interpreter\n").unwrap();
    assert_says(
        &refused(127, &scratch.path().join("os"), &[]),
        "cannot execute '/sbin/init': no such file or directory",
    );
    leftovers::assert_none("os", &scratch.path().join("os"));
    leftovers::assert_none("empty", &scratch.path().join("empty"));
}

#[test]
fn a_name_that_is_none() {
    let tree = Tree::minimal();
    let long = "a".repeat(65);
    for (name, reason) in [
        ("", "a machine name is not empty"),
        ("a/b", "'/' cannot stand in a machine name"),
        ("a b", "' ' cannot stand in a machine name"),
        ("a_b", "'_' cannot stand in a machine name"),
        ("..", "no dot at either end"),
        ("-a", "no '-' at either end"),
        (".host", "'.host' is the host itself"),
        (&long, "at most 64 characters"),
        ("\u{e9}", "cannot stand in a machine name"),
    ] {
        let said = refused(2, &tree.path(), &[&format!("--machine={name}")]);
        assert_says(&said, reason);
        assert_says(&said, &format!("--machine={name}: "));
    }
    // A tree whose own name has nothing that a name can have.
    let odd = tree.outside().join("___");
    symlink(tree.path(), &odd).unwrap();
    fs::rename(tree.path(), tree.outside().join("+++")).unwrap();
    let said = refused(2, &tree.outside().join("+++"), &[]);
    assert_says(&said, "give it a name with --machine=NAME");
}

#[test]
fn a_name_in_use() {
    let (one, other) = (Tree::minimal(), Tree::minimal());
    let machine = Machine::minimal(&one, &[]);
    let said = refused(125, &other.path(), &[&format!("--machine={}", machine.name)]);
    assert_says(&said, &format!("'{}'", machine.name));
    assert_says(&said, "in use");
    leftovers::assert_none(other.name(), &other.path());
    // The machine that has the name has noticed nothing.
    assert_eq!(machine.sh("echo fine"), "fine");
    assert!(leftovers::link(&machine.name).exists());
    machine.signal(Signal::SIGTERM);
    assert_eq!(machine.end().0, 0);
}

#[test]
fn a_tree_in_use() {
    let tree = Tree::minimal();
    let named = |what: &str| format!("--machine={}", unique(what));
    let machine = Machine::minimal(&tree, &[]);
    for options in [&[named("second")][..], &[named("second"), "--read-only".to_owned()]] {
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        let said = refused(125, &tree.path(), &options);
        assert_says(&said, &format!("cannot use '{}': another machine runs from it", tree.path().display()));
        assert_says(&said, "\nhint: --ephemeral");
    }
    // By another path it is the same tree.
    let link = tree.outside().join("link");
    symlink(tree.path(), &link).unwrap();
    assert_says(&refused(125, &link, &[&named("second")]), "another machine runs from it");
    let ephemeral = Machine::minimal(&tree, &["--ephemeral", &named("throwaway")]);
    assert_eq!(ephemeral.sh("touch /root/x; echo fine"), "fine");
    for machine in [ephemeral, machine] {
        machine.signal(Signal::SIGTERM);
        assert_eq!(machine.end_leaving().0, 0);
    }
    // Those that only read can share it, and keep those out that write.
    let readers: Vec<_> =
        (0..2).map(|_| Machine::minimal(&tree, &["--read-only", &named("reader")])).collect();
    assert_says(&refused(125, &tree.path(), &[&named("writer")]), "another machine runs from it");
    for machine in readers {
        machine.signal(Signal::SIGTERM);
        assert_eq!(machine.end_leaving().0, 0);
    }
    assert_eq!(stdout_of_run(&tree, &[], &["echo", "free"]), "free\n");
}

#[test]
fn somebody_who_is_not_root() {
    let tree = Tree::minimal();
    let copy = tree.outside().join("osier-copy");
    fs::copy(support::program(), &copy).unwrap();
    for verb in ["boot", "run"] {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
            .arg(&copy)
            .arg(verb)
            .arg(tree.path());
        if verb == "run" {
            command.args(["--", "true"]);
        }
        let said = refused_command(125, &mut command);
        assert_says(&said, "must be root");
        assert_says(&said, "\nhint: run osier as root");
        leftovers::assert_none(tree.name(), &tree.path());
    }
}

#[test]
fn a_host_without_cgroup2() {
    let tree = Tree::minimal();
    let mut command = Command::new("unshare");
    let script = "umount -R -l /sys/fs/cgroup && exec \"$@\"";
    command.args(["--mount", "--propagation=private", "sh", "-c", script, "sh"]).arg(support::program());
    command.arg("boot").arg(tree.path());
    let said = refused_command(125, &mut command);
    assert_says(&said, "cannot find a cgroup2 file system");
    assert_says(&said, "\nhint: mount one with: mount -t cgroup2");
    leftovers::assert_none(tree.name(), &tree.path());
}

#[test]
fn a_host_without_a_bus_and_a_machine_that_must_be_registered() {
    let tree = Tree::minimal();
    let mut command = Command::new("unshare");
    let script = "mount -t tmpfs tmpfs /run && exec \"$@\"";
    command.args(["--mount", "--propagation=private", "sh", "-c", script, "sh"]).arg(support::program());
    command.args(["boot", "--register=yes"]).arg(tree.path());
    command.env_remove("DBUS_SYSTEM_BUS_ADDRESS");
    let said = refused_command(125, &mut command);
    assert_says(&said, &format!("cannot register '{}' with systemd-machined", tree.name()));
    assert_says(&said, "\nhint: --register=no boots without it");
    leftovers::assert_none(tree.name(), &tree.path());
}

#[test]
fn units_that_cannot_be() {
    let tree = Tree::minimal();
    // Elsewhere systemd sets it.
    if !Path::new("/run/systemd/system").exists() {
        let said = refused(125, &tree.path(), &["--property=MemoryMax=1G"]);
        assert_says(
            &said,
            "cannot set 'MemoryMax' for the machine's scope: systemd is not PID 1 on this host",
        );
    }
    assert_says(&refused(2, &tree.path(), &["--keep-unit", "--slice=a.slice"]), "--slice=a.slice: ");
    assert_says(&refused(2, &tree.path(), &["--slice=../x"]), "--slice=../x: ");
}

#[test]
fn a_source_that_is_not_there() {
    let tree = Tree::minimal();
    for flag in ["--bind", "--bind-ro"] {
        let said = refused(125, &tree.path(), &[&format!("{flag}=/no/such/thing:/mnt")]);
        assert_says(&said, &format!("{flag}=/no/such/thing:/mnt: there is no '/no/such/thing' on the host"));
    }
    // A link on the host that leads nowhere is found out by the mount.
    let scratch = Scratch::new();
    symlink("/no/such/thing", scratch.path().join("dangling")).unwrap();
    let said =
        refused(125, &tree.path(), &[&format!("--bind={}:/mnt", scratch.path().join("dangling").display())]);
    assert_says(&said, "no such file or directory");
    leftovers::assert_none(tree.name(), &tree.path());
}

#[test]
fn signals_capabilities_and_variables_that_are_none() {
    let tree = Tree::minimal();
    for (option, reason) in [
        ("--kill-signal=SIGNOSUCH", "not a signal"),
        ("--kill-signal=0", "not a signal"),
        ("--capability=CAP_SYS_TIEM", "did you mean CAP_SYS_TIME?"),
        ("--drop-capability=nothing", "is no capability"),
        ("--setenv=A B=1", "not the name of an environment variable"),
        ("--uuid=1234", "32 hexadecimal digits"),
    ] {
        let said = refused(2, &tree.path(), &[option]);
        assert_says(&said, &format!("{option}: "));
        assert_says(&said, reason);
    }
}

/// The host's directory that links in a tree try to lead to.
struct Outside {
    scratch: Scratch,
    before: String,
}

impl Outside {
    fn new() -> Self {
        Self::below("/tmp")
    }

    fn below(directory: &str) -> Self {
        let scratch = Scratch::below(Path::new(directory));
        scratch.file("dir/keep", "host");
        scratch.file("file", "host");
        let mut outside = Self { scratch, before: String::new() };
        outside.before = outside.look();
        outside
    }

    fn directory(&self) -> PathBuf {
        self.scratch.path().join("dir")
    }

    fn look(&self) -> String {
        let script =
            "find . -printf '%p %m %U %G %s %l %T@ %C@\\n' | sort; find . -type f -exec sha256sum {} +";
        let output =
            Command::new("sh").args(["-c", script]).current_dir(self.scratch.path()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Nothing was written here, and nothing is mounted here.
    #[track_caller]
    fn assert_untouched(&self, what: &str) {
        assert_eq!(self.look(), self.before, "{what}");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&*self.scratch.path().to_string_lossy()), "{what}: {mounts}");
    }

    /// The ways a link can try to get here from `target` in a tree: absolute, and up and up.
    fn links(&self, name: &str) -> [PathBuf; 2] {
        let absolute = self.scratch.path().join(name);
        [absolute.clone(), Path::new(&"../".repeat(20)).join(absolute.strip_prefix("/").unwrap())]
    }
}

/// Puts a link where `target` is in the tree.
fn replace(tree: &Tree, target: &str, to: &Path) {
    let path = tree.path().join(target.trim_start_matches('/'));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    if path.symlink_metadata().is_ok() {
        let moved = path.with_extension("moved");
        fs::rename(&path, moved).unwrap();
    }
    symlink(to, path).unwrap();
}

/// Every place that osier itself makes or mounts, as far as a tree can have something there: the first directory decides.
const TARGETS: [&str; 5] = ["/dev", "/proc", "/sys", "/run", "/tmp"];

#[test]
fn a_link_where_osier_mounts_stays_inside() {
    for target in TARGETS {
        for number in 0..2 {
            // Once the link leads to nothing inside, once to a directory of the tree's own.
            for inside in [false, true] {
                // A /tmp that leads into /tmp leads nowhere.
                let directory = if inside || target == "/tmp" { "/var/tmp" } else { "/tmp" };
                let (tree, outside) = (Tree::minimal(), Outside::below(directory));
                let link = &outside.links("dir")[number];
                replace(&tree, target, link);
                let within = tree.path().join(outside.directory().strip_prefix("/").unwrap());
                if inside {
                    fs::create_dir_all(&within).unwrap();
                }
                let what = format!("{target} -> {}", link.display());
                for arguments in [&["--network=veth"][..], &["--ephemeral"]] {
                    let output = run(
                        &tree,
                        arguments,
                        &["sh", "-c", "ls -d /dev/null /proc/1 /run/host /sys/fs/cgroup"],
                    );
                    outside.assert_untouched(&what);
                    let said = String::from_utf8_lossy(&output.stderr).into_owned();
                    assert_eq!(code(output.status), 0, "{what}: {said}");
                }
                // And an init boots on it.
                let machine = Machine::minimal(&tree, &[]);
                assert_eq!(machine.sh("cat /proc/1/comm"), "init");
                machine.signal(Signal::SIGTERM);
                assert_eq!(machine.end().0, 0, "{what}");
                outside.assert_untouched(&what);
            }
        }
    }
}

#[test]
fn a_link_at_any_deeper_place_is_covered_by_what_osier_mounts() {
    let (tree, outside) = (Tree::minimal(), Outside::new());
    for target in [
        "/dev/pts",
        "/dev/shm",
        "/dev/mqueue",
        "/dev/console",
        "/dev/null",
        "/dev/net",
        "/dev/net/tun",
        "/dev/ptmx",
        "/proc/sys",
        "/proc/kcore",
        "/proc/kmsg",
        "/proc/irq",
        "/proc/sys/kernel/random/boot_id",
        "/sys/firmware",
        "/sys/fs/cgroup",
        "/run/host",
        "/run/host/incoming",
        "/run/host/inaccessible",
        "/run/host/notify",
        "/run/host/os-release",
        "/run/host/boot-id",
    ] {
        let path = tree.path().join(&target[1..]);
        // Below one that is a link already there is nothing more to put.
        if path.ancestors().skip(1).take_while(|above| *above != tree.path()).all(|above| !above.is_symlink())
        {
            replace(
                &tree,
                target,
                &outside.links(if target.contains("console") { "file" } else { "dir" })[0],
            );
        }
    }
    let printed = stdout_of_run(
        &tree,
        &[],
        &[
            "sh",
            "-c",
            "ls -l /dev/pts /run/host >/dev/null && [ -c /dev/null ] && [ ! -L /run/host/incoming ] && echo fine",
        ],
    );
    assert_eq!(printed, "fine\n");
    outside.assert_untouched("run");
    let machine = Machine::minimal(&tree, &[]);
    machine.signal(Signal::SIGTERM);
    assert_eq!(machine.end().0, 0);
    outside.assert_untouched("boot");
}

#[test]
fn a_link_where_the_user_mounts_stays_inside() {
    for number in 0..2 {
        for deep in ["", "/new/below"] {
            for inside in [false, true] {
                let (tree, outside) = (Tree::minimal(), Outside::new());
                let source = Scratch::new();
                source.file("dir/from-source", "source");
                source.file("one", "source");
                let link = &outside.links("dir")[number];
                replace(&tree, "/srv/link", link);
                let within = tree.path().join(outside.directory().strip_prefix("/").unwrap());
                if inside {
                    fs::create_dir_all(&within).unwrap();
                }
                let (dir, one) = (source.path().join("dir"), source.path().join("one"));
                for option in [
                    format!("--bind={}:/srv/link{deep}", dir.display()),
                    format!("--bind-ro={}:/srv/link{deep}", dir.display()),
                    format!("--tmpfs=/srv/link{deep}"),
                    format!("--bind={}:/srv/link{deep}/file", one.display()),
                ] {
                    let output = run(
                        &tree,
                        &[&option, "--tmpfs=/tmp/x"],
                        &["sh", "-c", "ls /srv/link/; touch /srv/link/written; :"],
                    );
                    outside.assert_untouched(&option);
                    assert_eq!(
                        code(output.status),
                        0,
                        "{option} {}: {}",
                        link.display(),
                        String::from_utf8_lossy(&output.stderr)
                    );
                    assert!(
                        !String::from_utf8_lossy(&output.stdout).contains("keep"),
                        "{option} shows the host"
                    );
                }
                let inaccessible =
                    run(&tree, &["--inaccessible=/srv/link"], &["sh", "-c", "ls -A /srv/link/"]);
                outside.assert_untouched("--inaccessible");
                assert!(!String::from_utf8_lossy(&inaccessible.stdout).contains("keep"));
            }
        }
    }
}

#[test]
fn a_file_that_is_a_link_stays_inside() {
    let (tree, outside) = (Tree::minimal(), Outside::new());
    let source = Scratch::new();
    let one = source.file("one", "source");
    for link in outside.links("file") {
        let _ = fs::remove_file(tree.path().join("srv/file"));
        replace(&tree, "/srv/file", &link);
        let option = format!("--bind={}:/srv/file", one.display());
        assert_eq!(stdout_of_run(&tree, &[&option], &["cat", "/srv/file"]), "source");
        outside.assert_untouched(&option);
    }
    // What osier reads of a tree it reads inside of it too.
    for file in ["etc/os-release", "etc/machine-id", "etc/passwd", "etc/group", "sbin/init"] {
        let (tree, host) = (Tree::minimal(), Scratch::new());
        let of_host = host.file("secret", "ID=secret\nPRETTY_NAME=secret\nroot:x:0:0::/secret:/bin/sh\n");
        replace(&tree, file, &of_host);
        let output = run(&tree, &[], &["sh", "-c", "echo $HOME; cat /run/host/container-uuid"]);
        assert!(!String::from_utf8_lossy(&output.stdout).contains("secret"), "{file}: {output:?}");
    }
}

#[test]
fn a_link_that_leads_to_itself_is_an_error() {
    let tree = Tree::minimal();
    symlink("loop", tree.path().join("loop")).unwrap();
    for option in ["--tmpfs=/loop", "--tmpfs=/loop/below", "--bind=/etc/os-release:/loop"] {
        let said = refused(125, &tree.path(), &[option]);
        assert_says(&said, "too many levels of symbolic links");
        leftovers::assert_none(tree.name(), &tree.path());
    }
    tree.file("srv/file", "x");
    assert_says(&refused(125, &tree.path(), &["--tmpfs=/srv/file"]), "not a directory");
    assert_says(&refused(125, &tree.path(), &["--bind=/etc:/srv/file/below"]), "not a directory");
}
