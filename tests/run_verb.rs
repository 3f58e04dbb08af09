//! `osier run` from outside: statuses, what the command gets, what it sees, and that nothing is left of it. Needs root.
#![expect(clippy::unwrap_used, reason = "a test that cannot do its own work has failed")]

#[expect(dead_code, reason = "other tests need more of it")]
mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Command;

use nix::sys::signal::Signal;

use support::machine::{Machine, code, osier, output, run, stdout_of_run};
use support::tree::{Scratch, Tree};
use support::{await_that, leftovers, unique};

/// The command's exit status, and what osier said.
fn status(tree: &Tree, options: &[&str], command: &[&str]) -> (i32, String) {
    let output = run(tree, options, command);
    (code(output.status), String::from_utf8(output.stderr).unwrap())
}

fn sh(tree: &Tree, options: &[&str], script: &str) -> String {
    stdout_of_run(tree, options, &["/bin/sh", "-c", script]).trim_end().to_owned()
}

#[test]
fn the_status_is_the_commands() {
    let tree = Tree::minimal();
    for number in [0, 1, 7, 125, 255] {
        assert_eq!(status(&tree, &[], &["sh", "-c", &format!("exit {number}")]).0, number);
        assert_eq!(status(&tree, &["--as-pid2"], &["sh", "-c", &format!("exit {number}")]).0, number);
    }
    // A signal that PID 1 sends to itself is not delivered (man 7 pid_namespaces); PID 2 dies of it.
    assert_eq!(status(&tree, &["--as-pid2"], &["sh", "-c", "kill -SEGV $$"]).0, 139);
    assert_eq!(status(&tree, &["-a"], &["sh", "-c", "kill -KILL $$"]).0, 137);
}

#[test]
fn what_cannot_be_executed_is_126_and_what_is_not_there_127() {
    let tree = Tree::minimal();
    tree.file("root/plain", "no program").executable("root/wrong", "\x7fELF but not really");
    for options in [&[][..], &["--as-pid2"]] {
        let (code, said) = status(&tree, options, &["/nowhere/at/all"]);
        assert_eq!(code, 127, "{said}");
        assert!(said.ends_with(": cannot execute '/nowhere/at/all': no such file or directory\n"), "{said}");
        assert!(said.starts_with(&format!("osier: cannot run in '{}': ", tree.path().display())), "{said}");
        assert_eq!(status(&tree, options, &["no-such-command"]).0, 127);
        assert_eq!(status(&tree, options, &["/root/plain/below"]).0, 127);
        let (code, said) = status(&tree, options, &["/root/plain"]);
        assert_eq!(code, 126, "{said}");
        assert!(said.ends_with(": cannot execute '/root/plain': permission denied\n"), "{said}");
        assert_eq!(status(&tree, options, &["/root"]).0, 126);
        assert_eq!(status(&tree, options, &["/root/wrong"]).0, 126);
    }
}

#[test]
fn pid_2_has_an_init_that_reaps() {
    let tree = Tree::minimal();
    assert_eq!(sh(&tree, &[], "echo $$"), "1");
    assert_eq!(sh(&tree, &["--as-pid2"], "echo $$"), "2");
    let orphans = "for i in 1 2 3; do sh -c '(sleep 0.1; exit 3) & exit'; done; sleep 0.5; \
        cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z ' || true";
    assert_eq!(sh(&tree, &["--as-pid2"], orphans), "0");
    // What the test looks for is there when nobody reaps: PID 1 is a sleep.
    let nobody = "sh -c '(sleep 0.1; exit 3) & exit'; sh -c '(sleep 0.5; grep -l \") Z \" /proc/[0-9]*/stat | wc -l > /root/zombies) & exit'; exec sleep 1";
    sh(&tree, &[], nobody);
    assert_ne!(fs::read_to_string(tree.path().join("root/zombies")).unwrap().trim(), "0");
    // What is left when the command ends goes with it.
    let started = std::time::Instant::now();
    sh(&tree, &["--as-pid2"], "sleep 100 & exit 0");
    assert!(started.elapsed().as_secs() < 30);
}

#[test]
fn pid_2_gets_the_signals_that_the_stub_gets() {
    for (kill_signal, sent, answer) in [
        ("SIGTERM", Signal::SIGTERM, "TERM"),
        ("USR1", Signal::SIGINT, "USR1"),
        ("SIGRTMIN+3", Signal::SIGTERM, "TERM"),
    ] {
        let tree = Tree::minimal();
        let script = "for s in TERM INT USR1 HUP; do trap \"echo got $s; exit 9\" $s; done; echo here; while :; do sleep 0.05; done";
        let mut command = osier(["run", "--as-pid2"]);
        command.arg(format!("--kill-signal={kill_signal}")).arg(tree.path()).args(["--", "sh", "-c", script]);
        let machine = Machine::spawn(command, tree.name(), &tree.path());
        machine.await_output("here");
        machine.signal(sent);
        let (code, stdout, stderr) = machine.end();
        assert_eq!((code, stdout.as_str()), (9, format!("here\ngot {answer}\n").as_str()), "{stderr}");
    }
}

#[test]
fn sigterm_ends_a_command_at_once() {
    for options in [&["run"][..], &["run", "--as-pid2"]] {
        let tree = Tree::minimal();
        let mut command = osier(options);
        command.arg(tree.path()).args([
            "--",
            "sh",
            "-c",
            "trap '' TERM INT; echo here; while :; do sleep 1; done",
        ]);
        let machine = Machine::spawn(command, tree.name(), &tree.path());
        machine.await_output("here");
        machine.signal(Signal::SIGTERM);
        assert_eq!(machine.end().0, 137);
    }
}

#[test]
fn the_environment_is_what_was_said() {
    let tree = Tree::minimal();
    let mut command =
        osier(["run", "-E", "A=1", "-E", "A=2=3", "--setenv=PASSED", "-E", "ABSENT", "-E", "HOME=/mine"]);
    command.arg(tree.path()).args(["--", "env"]).env("PASSED", "over").env("LEAK", "no").env_remove("ABSENT");
    let printed = String::from_utf8(output(&mut command).stdout).unwrap();
    let mut lines: Vec<_> = printed.lines().collect();
    lines.sort_unstable();
    let uuid = lines.iter().position(|line| line.starts_with("container_uuid=")).expect("a container_uuid");
    lines.remove(uuid);
    lines.retain(|line| !line.starts_with("container_host_"));
    let expected = [
        "A=2=3",
        "HOME=/mine",
        "LOGNAME=root",
        "PASSED=over",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "SHELL=/bin/sh",
        "USER=root",
        "container=osier",
    ];
    assert_eq!(lines, expected);
    for wrong in ["1A=x", "=x", "A-B=1", ""] {
        assert_eq!(status(&tree, &["-E", wrong], &["true"]).0, 2, "{wrong}");
    }
}

#[test]
fn the_working_directory_is_the_home_or_what_was_said() {
    let tree = Tree::minimal();
    assert_eq!(sh(&tree, &[], "pwd"), "/root");
    assert_eq!(sh(&tree, &["--chdir=/usr/lib"], "pwd"), "/usr/lib");
    let (code, said) = status(&tree, &["--chdir=/no/such"], &["true"]);
    assert_eq!(code, 125);
    assert!(said.ends_with(": cannot enter '/no/such': no such file or directory\n"), "{said}");
    assert_eq!(status(&tree, &["--chdir=usr"], &["true"]).0, 2);
    // A home that is not there is no reason to refuse.
    tree.file("etc/passwd", "lost:x:7:7::/gone:/bin/sh\n");
    assert_eq!(sh(&tree, &["-u", "lost"], "pwd"), "/");
}

#[test]
fn users_and_groups_are_the_trees_own() {
    let tree = Tree::minimal();
    tree.file(
        "etc/passwd",
        "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/ash\ndaemon:x:77:77::/:/bin/sh\n",
    );
    tree.file("etc/group", "root:x:0:\nwww:x:34:\ncert:x:110:mail,web\nlog:x:111:web\nnot:x:112:webx\n");
    fs::create_dir(tree.path().join("srv")).unwrap();
    let all = "id -u; id -g; id -G; echo $USER $LOGNAME $HOME $SHELL; pwd; grep CapEff /proc/self/status";
    let expected = "33\n34\n34 110 111\nweb web /srv /bin/ash\n/srv\nCapEff:\t0000000000000000";
    for user in ["web", "33"] {
        assert_eq!(sh(&tree, &["-u", user], all), expected);
        assert_eq!(sh(&tree, &["--user", user, "--as-pid2"], all), expected);
    }
    assert_eq!(
        sh(&tree, &["--uid=4711"], "id -u; id -g; id -G; echo $USER $HOME"),
        "4711\n4711\n4711\n4711 /"
    );
    // The host's root has more groups than the machine's, and none of them is passed on.
    assert_eq!(sh(&tree, &[], "grep Groups: /proc/self/status").split_whitespace().nth(1), None);
    let (code, said) = status(&tree, &["-u", "nobody-here"], &["true"]);
    assert_eq!(code, 125);
    assert!(
        said.contains("cannot become user 'nobody-here': no such user in the machine's /etc/passwd"),
        "{said}"
    );
    fs::remove_file(tree.path().join("etc/passwd")).unwrap();
    assert_eq!(sh(&tree, &["-u", "root"], "id -u"), "0");
}

#[test]
fn a_user_that_is_not_root_goes_with_its_supervisor_too() {
    let tree = Tree::minimal();
    let mut command = osier(["run", "--uid=4711"]);
    command.arg(tree.path()).args(["--", "sleep", "1000"]);
    let machine = Machine::spawn(command, tree.name(), &tree.path());
    let leader = machine.leader();
    await_that("the command", || {
        fs::read(format!("/proc/{leader}/cmdline")).unwrap_or_default().starts_with(b"sleep")
    });
    machine.signal(Signal::SIGKILL);
    assert_eq!(machine.end_leaving().0, 137);
    support::machine::await_death(leader);
    assert_eq!(status(&tree, &[], &["true"]).0, 0, "what was left is cleared");
}

#[test]
fn name_host_name_and_id_are_what_was_said() {
    let tree = Tree::minimal();
    assert_eq!(sh(&tree, &[], "hostname"), tree.name());
    let name = unique("given");
    let machine = format!("--machine={name}");
    assert_eq!(sh(&tree, &[&machine], "hostname"), name);
    assert_eq!(sh(&tree, &["-M", &unique("m"), "--hostname=other.example"], "hostname"), "other.example");
    let id = "0123456789abcdef0123456789abcdef";
    let uuid = "01234567-89ab-cdef-0123-456789abcdef";
    let both = "echo $container_uuid; cat /run/host/container-uuid";
    for said in [id, uuid] {
        assert_eq!(sh(&tree, &[&format!("--uuid={said}")], both), format!("{uuid}\n{uuid}"));
    }
    let random: Vec<_> = (0..2).map(|_| sh(&tree, &[], both)).collect();
    assert_ne!(random[0], random[1]);
    tree.file("etc/machine-id", format!("{id}\n"));
    assert_eq!(sh(&tree, &[], both), format!("{uuid}\n{uuid}"));
    for empty in ["", "uninitialized\n"] {
        tree.file("etc/machine-id", empty);
        assert!(!sh(&tree, &[], both).contains(uuid));
    }
    for wrong in ["--uuid=xyz", "--uuid=00000000000000000000000000000000", "--hostname=a b", "--hostname=-a"]
    {
        assert_eq!(status(&tree, &[wrong], &["true"]).0, 2, "{wrong}");
    }
}

#[test]
fn a_read_only_tree_cannot_be_written_to() {
    let tree = Tree::minimal();
    let before = tree.fingerprint();
    let tried =
        "for d in / /etc /root; do touch $d/x 2>&1; done; touch /tmp/x /run/x /dev/shm/x && echo fine";
    let printed = sh(&tree, &["--read-only"], tried);
    assert_eq!(printed.matches("Read-only file system").count(), 3, "{printed}");
    assert!(printed.ends_with("fine"), "{printed}");
    assert_eq!(tree.fingerprint(), before);
    // A mount point that the tree lacks cannot be made then, which is said.
    fs::remove_dir(tree.path().join("mnt")).unwrap();
    let (code, said) = status(&tree, &["--read-only", "--tmpfs=/mnt"], &["true"]);
    assert!(code == 0 || said.contains("/mnt"), "{said}");
}

#[test]
fn binds_show_what_is_on_the_host() {
    let tree = Tree::minimal();
    let host = Scratch::new();
    host.file("dir/file", "of the host");
    host.file("a:b", "colon");
    let host_path = |name: &str| host.path().join(name).display().to_string();
    let (dir, file, colon) = (host_path("dir"), host_path("dir/file"), host_path("a:b"));

    assert_eq!(sh(&tree, &["--bind", &dir], &format!("cat {dir}/file; touch {dir}/new")), "of the host");
    assert!(host.path().join("dir/new").exists());
    let read_only = format!("--bind-ro={dir}:/a/new/dir");
    let printed = sh(&tree, &[&read_only], "cat /a/new/dir/file; touch /a/new/dir/x 2>&1 || :");
    assert!(printed.starts_with("of the host") && printed.ends_with("Read-only file system"), "{printed}");
    assert!(!host.path().join("dir/x").exists());
    let one = format!("--bind={file}:/etc/one");
    let two = format!("--bind-ro={file}:/made/here/two");
    assert_eq!(
        sh(&tree, &[&one, &two], "cat /etc/one /made/here/two; echo x >> /etc/one"),
        "of the hostof the host"
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), "of the hostx\n");
    assert_eq!(fs::metadata(tree.path().join("made/here/two")).unwrap().permissions().mode() & 0o777, 0o644);
    let escaped = format!("--bind={}:/c\\:d", colon.replace(':', "\\:"));
    assert_eq!(sh(&tree, &[&escaped], "cat /c:d"), "colon");
    // The inner of two is not covered by the outer, whichever comes first.
    let outer = format!("--bind={dir}:/o");
    let inner = format!("--bind={}:/o/file", colon.replace(':', "\\:"));
    assert_eq!(sh(&tree, &[&inner, &outer], "cat /o/file"), "colon");
}

#[test]
fn mounts_below_a_bind_come_along_unless_not_wanted() {
    let tree = Tree::minimal();
    let host = Scratch::new();
    fs::create_dir_all(host.path().join("below")).unwrap();
    let bound = |options: &str| format!("--bind{options}");
    let script =
        "unset all; mount -t tmpfs inner \"$1/below\" && touch \"$1/below/seen\" && shift && exec \"$@\"";
    let mut seen = Vec::new();
    for option in [
        bound(&format!("={}:/x", host.path().display())),
        bound(&format!("={}:/x:rbind", host.path().display())),
        bound(&format!("={}:/x:norbind", host.path().display())),
        bound(&format!("-ro={}:/x:rbind", host.path().display())),
    ] {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation=private", "sh", "-c", script, "sh"]).arg(host.path());
        command.arg(support::program()).args(["run", &option]).arg(tree.path());
        command.args([
            "--",
            "sh",
            "-c",
            "ls /x/below; touch /x/below/w 2>/dev/null && echo rw; rm -f /x/below/w",
        ]);
        seen.push(String::from_utf8(output(&mut command).stdout).unwrap());
    }
    assert_eq!(seen, ["seen\nrw\n", "seen\nrw\n", "rw\n", "seen\n"]);
    assert_eq!(status(&tree, &["--bind=/tmp:/x:sideways"], &["true"]).0, 2);
    assert_eq!(status(&tree, &["--bind=a/relative"], &["true"]).0, 2);
    assert_eq!(status(&tree, &["--bind=/a:/b:rbind:more"], &["true"]).0, 2);
    assert_eq!(status(&tree, &["--bind=/tmp:/x/../../y"], &["true"]).0, 2);
}

#[test]
fn tmpfs_and_inaccessible_cover_what_the_tree_has() {
    let tree = Tree::minimal();
    tree.file("srv/dir/secret", "s").file("srv/file", "s");
    symlink("/srv/file", tree.path().join("srv/link")).unwrap();
    let printed = sh(
        &tree,
        &["--tmpfs=/srv/dir:mode=0710,size=64k,nr_inodes=16", "--tmpfs=/made/for/it"],
        "ls /srv/dir; stat -c %a /srv/dir /made/for/it; grep ' /srv/dir ' /proc/mounts; \
         dd if=/dev/zero of=/srv/dir/big bs=1k count=100 2>/dev/null || echo full",
    );
    assert!(printed.starts_with("710\n755\ntmpfs /srv/dir tmpfs rw,nosuid,nodev,"), "{printed}");
    assert!(printed.contains("size=64k,nr_inodes=16,mode=710") && printed.ends_with("full"), "{printed}");
    assert_eq!(fs::metadata(tree.path().join("srv/dir")).unwrap().permissions().mode() & 0o777, 0o755);
    // What was made in the tree for it is root's to write to.
    assert_eq!(fs::metadata(tree.path().join("made/for")).unwrap().permissions().mode() & 0o777, 0o755);

    let options = ["--inaccessible=/srv/dir", "--inaccessible=/srv/link", "--inaccessible=/bin/busybox-none"];
    let printed = sh(
        &tree,
        &options[..2],
        "stat -c '%a %F' /srv/dir /srv/file; ls -A /srv/dir; cat /srv/file; cat /srv/link",
    );
    assert_eq!(printed, "0 directory\n0 regular empty file");
    tree.file("etc/passwd", "web:x:33:33::/:/bin/sh\n");
    let mut denied = options[..2].to_vec();
    denied.extend(["-u", "web"]);
    let printed = sh(&tree, &denied, "cat /srv/file 2>&1; ls /srv/dir 2>&1; :");
    assert_eq!(printed.matches("Permission denied").count(), 2, "{printed}");
    let (code, said) = status(&tree, &options, &["true"]);
    assert_eq!(code, 125);
    assert!(said.contains("cannot mask /bin/busybox-none: no such file or directory"), "{said}");
    for wrong in ["--tmpfs=srv", "--tmpfs=/srv:mode=9", "--tmpfs=/srv:huge=1", "--inaccessible=srv"] {
        assert_eq!(status(&tree, &[wrong], &["true"]).0, 2, "{wrong}");
    }
}

#[test]
fn an_ephemeral_tree_stays_as_it_was() {
    let tree = Tree::minimal();
    let before = tree.fingerprint();
    let script = "echo x > /etc/new; rm /etc/os-release; echo y >> /etc/passwd; mkdir -p /a/b; mknod /root/n c 1 3; \
        chmod 700 /etc; cat /etc/new; mv /usr /other 2>/dev/null; ls -d /a/b";
    assert_eq!(sh(&tree, &["-x"], script), "x\n/a/b");
    assert_eq!(
        sh(&tree, &["--ephemeral", "--tmpfs=/not/there", "--bind=/etc/os-release:/nor/there"], "ls /nor"),
        "there"
    );
    assert_eq!(tree.fingerprint(), before);
    assert_eq!(fs::read_dir(tree.outside()).unwrap().count(), 1);
    // With --read-only there is nothing to throw away.
    let printed = sh(&tree, &["-x", "--read-only"], "touch /x 2>&1 || :");
    assert!(printed.ends_with("Read-only file system"), "{printed}");
}

#[test]
fn the_network_is_the_hosts_or_ones_own() {
    let tree = Tree::minimal();
    let of_host = fs::metadata("/proc/self/ns/net").unwrap().ino();
    let links = "ls /proc/self/ns/net -l | sed 's/.*\\[\\(.*\\)\\]/\\1/'; tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ' | sort | tr '\\n' ' '; \
        ip link show lo | head -1 | grep -o ',UP'; grep CapBnd /proc/self/status";
    let host = sh(&tree, &[], links);
    assert!(host.starts_with(&of_host.to_string()), "{host}");
    let alone = sh(&tree, &["--network=none"], links);
    assert!(!alone.starts_with(&of_host.to_string()) && alone.contains("\nlo ,UP\n"), "{alone}");
    for veth in ["--network=veth", "-n", "--network-veth"] {
        let printed = sh(&tree, &[veth], links);
        assert!(printed.contains("\nhost0 lo ,UP\n"), "{printed}");
    }
    let same = |one: &str, two: &str| one.split_once('\n').unwrap().1 == two.split_once('\n').unwrap().1;
    assert!(same(&alone, &sh(&tree, &["--private-network"], links)));
    assert_eq!(status(&tree, &["--network=host", "--private-network"], &["true"]).0, 2);
    // CAP_NET_ADMIN, number 12, comes with a network of one's own.
    let bounding = |text: &str| u64::from_str_radix(text.rsplit('\t').next().unwrap(), 16).unwrap();
    assert_eq!(bounding(&host) & 1 << 12, 0);
    assert_eq!(bounding(&alone), bounding(&host) | 1 << 12);
}

#[test]
fn output_and_input_pass_as_they_are() {
    let tree = Tree::minimal();
    let every_byte: Vec<u8> =
        (0..=255).cycle().take(5 << 20).map(|byte: u16| byte.to_le_bytes()[0]).collect();
    let host = Scratch::new();
    let file = host.file("input", &every_byte);
    for options in [&["run"][..], &["run", "--as-pid2"], &["run", "--console=pipe"]] {
        let mut command = osier(options);
        command.arg(tree.path()).args(["--", "sh", "-c", "cat; echo apart >&2"]);
        command.stdin(fs::File::open(&file).unwrap());
        let output = output(&mut command);
        assert_eq!((code(output.status), output.stderr.as_slice()), (0, &b"apart\n"[..]));
        assert!(output.stdout == every_byte, "{} of {} bytes", output.stdout.len(), every_byte.len());
    }
}

#[test]
fn a_dry_run_prints_the_plan_and_changes_nothing() {
    let tree = Tree::minimal();
    let before = tree.fingerprint();
    for verb in ["boot", "run"] {
        let mut command =
            osier([verb, "--dry-run", "--ephemeral", "--network=veth", "--bind=/etc:/not/there"]);
        command.arg(tree.path());
        if verb == "run" {
            command.args(["--", "true"]);
        }
        let output = output(&mut command);
        let plan = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{plan}");
        for line in [
            format!("machine       {}", tree.name()),
            format!("root          {} under a throw-away layer", tree.path().display()),
            "outer         bind /etc on /not/there".to_owned(),
            "leader        mount proc on /proc".to_owned(),
        ] {
            assert!(plan.lines().any(|found| found == line), "{line} is not in {plan}");
        }
        leftovers::assert_none(tree.name(), &tree.path());
    }
    assert_eq!(tree.fingerprint(), before);
    assert_eq!(fs::read_dir(tree.outside()).unwrap().count(), 1);
}
