//! Images that are carried: cloned, exported, imported, with their clocks and without. Needs root.
#![expect(clippy::unwrap_used, reason = "a test that cannot do its own work has failed")]

#[expect(dead_code, reason = "other tests need more of it")]
mod support;

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use support::machine::{Machine, code, osier, output, stdout_of_run};
use support::tree::{Scratch, Tree, debian};
use support::{await_that, unique};

/// `osier image ARGUMENTS`, which has to succeed in silence.
fn image<S: AsRef<OsStr>>(arguments: &[S]) {
    let output = output(osier(["image"]).args(arguments));
    assert!(output.status.success() && output.stderr.is_empty() && output.stdout.is_empty(), "{output:?}");
}

/// The same, which has to fail, with what it says.
fn refused<S: AsRef<OsStr>>(arguments: &[S]) -> String {
    let output = output(osier(["image"]).args(arguments));
    assert!(matches!(code(output.status), 1 | 2), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// Everything in a tree, as text that differs when anything does.
fn fingerprint(tree: &Path) -> String {
    let listing = "find . -type d -printf '%p %y %m %U %G %T@\\n' -o -printf '%p %y %m %U %G %s %l %T@ %n\\n' | sort; \
                   find . -type f -size -1G -exec sha256sum {} + | sort";
    let output = Command::new("sh").args(["-c", listing]).current_dir(tree).output().unwrap();
    assert!(output.stdout.len() > 1000);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn uptime(tree: &Path) -> f64 {
    let mut run = osier(["run", "--clock=continue"]);
    let output = output(run.arg(tree).args(["--", "cat", "/proc/uptime"]));
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().parse().unwrap()
}

/// A tree with more in it than the minimal one has.
fn tree() -> Tree {
    let tree = Tree::minimal();
    tree.file("srv/file", "content");
    fs::hard_link(tree.path().join("srv/file"), tree.path().join("srv/other name")).unwrap();
    let sh = format!(
        "cd {}; truncate -s 10G srv/holes; mknod srv/null c 1 3; chmod 2755 srv; mkfifo srv/fifo; \
 chown 1234:4321 srv/null",
        tree.path().display()
    );
    assert!(Command::new("sh").args(["-ec", &sh]).status().unwrap().success());
    set_note(&tree.path().join("srv/file"));
    tree
}

fn set_note(file: &Path) {
    rustix::fs::setxattr(file, "user.note", b"x", rustix::fs::XattrFlags::empty()).unwrap();
}

fn has_note(tree: &Path) -> bool {
    let mut value = [0; 8];
    rustix::fs::getxattr(tree.join("srv/file"), "user.note", &mut value[..]) == Ok(1)
}

#[test]
fn a_clone_is_the_same_and_has_clocks_if_it_is_to_have_them() {
    let tree = tree();
    let at = |name: &str| tree.outside().join(name);
    let source = tree.path();
    stdout_of_run(&tree, &["--clock=continue", "--uptime=5d"], &["true"]);
    fs::write(at(&format!("{}.nspawn", tree.name())), "[Exec]\nHostname=cloned\n").unwrap();
    image(&["clone".as_ref(), source.as_os_str(), at("plain").as_os_str()]);
    image(&["clone".as_ref(), "--with-clocks".as_ref(), source.as_os_str(), at("clocked").as_os_str()]);
    assert_eq!(fingerprint(&source), fingerprint(&at("plain")));
    assert_eq!(fingerprint(&source), fingerprint(&at("clocked")));
    assert!(has_note(&at("plain")));
    assert!(fs::metadata(at("plain/srv/holes")).unwrap().len() == 10 << 30);
    let settings = fs::read_to_string(at("plain.nspawn")).unwrap();
    assert!(settings.contains("Hostname=cloned") && at("clocked.nspawn").exists());
    assert_eq!(names(tree.outside()).len(), 8, "{:?}", names(tree.outside()));
    let day = 86_400.0;
    let of_clone = uptime(&at("clocked"));
    assert!((5.0 * day..5.0 * day + 60.0).contains(&of_clone), "{of_clone}");
    assert!(uptime(&at("plain")) < 60.0);
    assert!(uptime(&source) >= 5.0 * day);
    // What stood beside an image that is gone is not the next one's.
    fs::remove_dir_all(at("clocked")).unwrap();
    image(&["clone".as_ref(), source.as_os_str(), at("clocked").as_os_str()]);
    assert!(uptime(&at("clocked")) < 60.0);
}

#[test]
fn an_archive_holds_it_all_and_is_one_for_others_too() {
    let tree = tree();
    let at = |name: &str| tree.outside().join(name);
    stdout_of_run(&tree, &["--clock=continue", "--uptime=5d"], &["true"]);
    for name in ["a.tar", "a.tar.zst", "a.tgz"] {
        image(&["export".as_ref(), "--with-clocks".as_ref(), tree.path().as_os_str(), at(name).as_os_str()]);
        let into = at(&format!("from-{name}"));
        image(&["import".as_ref(), "--with-clocks".as_ref(), at(name).as_os_str(), into.as_os_str()]);
        assert_eq!(fingerprint(&tree.path()), fingerprint(&into));
        assert!(has_note(&into));
        assert!(uptime(&into) >= 5.0 * 86_400.0);
        let without = at(&format!("without-{name}"));
        image(&["import".as_ref(), at(name).as_os_str(), without.as_os_str()]);
        assert!(uptime(&without) < 60.0);
    }
    assert!(fs::metadata(at("a.tar.zst")).unwrap().len() < fs::metadata(at("a.tar")).unwrap().len());
    assert!(fs::read(at("a.tar")).unwrap().windows(16).take(4000).any(|text| text == b"\"monotonic_ns\": "));
    fs::create_dir(at("theirs")).unwrap();
    let tar = Command::new("tar").arg("-xpf").arg(at("a.tar")).arg("-C").arg(at("theirs")).output().unwrap();
    assert!(tar.status.success(), "{tar:?}");
    assert!(at("theirs/srv/file").exists() && !at("theirs/.osier").exists());

    // Through pipes, compressed by another.
    let pipe = "\"$0\" image export \"$1\" - | gzip | \"$0\" image import - \"$2\"";
    let mut sh = Command::new("sh");
    sh.args(["-ec", pipe]).arg(support::program()).arg(tree.path()).arg(at("piped"));
    let piped = output(&mut sh);
    assert!(piped.status.success() && piped.stderr.is_empty(), "{piped:?}");
    assert_eq!(fingerprint(&tree.path()), fingerprint(&at("piped")));
}

#[test]
fn a_machine_that_runs_keeps_its_tree_to_itself() {
    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &[]);
    let (to, file) = (tree.outside().join("new"), tree.outside().join("new.tar"));
    for arguments in [
        ["clone".as_ref(), tree.path().as_os_str(), to.as_os_str()],
        ["export".as_ref(), tree.path().as_os_str(), file.as_os_str()],
    ] {
        let said = refused(&arguments);
        assert!(
            said.contains("a machine runs from it") && said.contains("hint: end the machine first"),
            "{said}"
        );
    }
    machine.signal(Signal::SIGTERM);
    assert_eq!(machine.end().0, 0);
    assert_eq!(names(tree.outside()), [tree.name()]);
    // One that only reads does not mind.
    let machine = Machine::minimal(&tree, &["--read-only"]);
    image(&["clone".as_ref(), tree.path().as_os_str(), to.as_os_str()]);
    machine.signal(Signal::SIGTERM);
    assert_eq!(machine.end().0, 0);
}

#[test]
fn what_cannot_be_is_refused_and_nothing_is_left() {
    let tree = Tree::minimal();
    let outside = tree.outside();
    let path = |name: &str| outside.join(name).to_str().unwrap().to_owned();
    let here = tree.path().to_str().unwrap().to_owned();
    let whole = path("whole.tar");
    image(&["export", &here, &whole]);
    let text = fs::read(&whole).unwrap();
    fs::write(path("half.tar"), &text[..text.len() / 2]).unwrap();
    fs::write(path("none.tar"), "this is no archive").unwrap();
    fs::write(path("a.tar.xz"), [0xfd, b'7', b'z', b'X', b'Z', 0, 0, 0]).unwrap();
    let mut header = text[..512].to_vec();
    header[..8].copy_from_slice(b"../evil\0");
    header[100..136].copy_from_slice(b"0000644\x000000000\x000000000\x0000000000000\0");
    header[156] = b'0';
    header[148..156].copy_from_slice(b"        ");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    fs::write(path("evil.tar"), [header, vec![0; 1024]].concat()).unwrap();
    fs::create_dir(path("there")).unwrap();
    let before = names(outside);
    let (new, there) = (path("new"), path("there"));
    let bad_clocks = path(&format!(".#{}.osier-clocks.json", tree.name()));
    for (arguments, words) in [
        (vec!["clone", &here, &there], vec!["exists already", "hint: remove it first, or give another name"]),
        (vec!["clone", &here, "/nowhere/new"], vec!["there is no directory '/nowhere'", "mkdir -p"]),
        (vec!["clone", "no-such-image-1", &new], vec!["no image 'no-such-image-1'"]),
        (vec!["clone", &here, ".hidden"], vec!["cannot name an image '.hidden'"]),
        (vec!["clone", &here, "./.hidden"], vec!["would be hidden"]),
        (
            vec!["clone", "--with-clocks", &here, &new],
            vec!["there are no clocks", "hint: leave out --with-clocks"],
        ),
        (vec!["export", &here, &whole], vec!["exists already"]),
        (vec!["export", &here, &there], vec!["none of .tar"]),
        (vec!["export", &here, "a.img"], vec!["none of .tar, .tar.zst, .tar.gz", "hint: "]),
        (vec!["export", &here, "/nowhere/a.tar"], vec!["cannot make '/nowhere/a.tar'"]),
        (vec!["import", &whole, &there], vec!["exists already"]),
        (vec!["import", "/nowhere/a.tar"], vec!["cannot open it: no such file"]),
        (vec!["import", &there], vec!["the image needs a name"]),
        (vec!["import", &there, &new], vec!["is a directory"]),
        (vec!["import", &path("half.tar"), &new], vec!["the archive ends too early"]),
        (vec!["import", &path("none.tar"), &new], vec!["the archive ends too early"]),
        (
            vec!["import", &path("a.tar.xz"), &new],
            vec!["compressed with xz", "hint: xz -dc FILE | osier image import - NAME"],
        ),
        (vec!["import", &path("evil.tar"), &new], vec!["'../evil' leads out of the tree"]),
        (vec!["import", "--with-clocks", &whole, &new], vec!["there are no clocks in it", "hint: leave out"]),
    ] {
        let said = refused(&arguments);
        assert!(words.iter().all(|word| said.contains(word)), "{arguments:?}: {said}");
        assert_eq!(names(outside), before, "{arguments:?}");
    }
    fs::write(&bad_clocks, "{").unwrap();
    let said = refused(&["export", "--with-clocks", &here, &path("new.tar")]);
    assert!(said.contains("it is not what osier writes"), "{said}");
    fs::remove_file(&bad_clocks).unwrap();
    assert_eq!(names(outside), before);
}

#[test]
fn what_is_mounted_in_a_tree_is_none_of_it() {
    let tree = Tree::minimal();
    let script = "mount -t tmpfs tmpfs \"$1/tmp\" && exec \"$0\" image clone \"$1\" \"$2\"";
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-ec", script]).arg(support::program());
    let refused = output(unshare.arg(tree.path()).arg(tree.outside().join("new")));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(code(refused.status), 1);
    assert!(said.contains("something is mounted at") && said.contains("hint: unmount it first"), "{said}");
    assert_eq!(names(tree.outside()), [tree.name()]);
}

#[test]
fn a_full_disk_is_said_and_cleaned_up() {
    let tree = Tree::minimal();
    tree.file("large", vec![7; 8 << 20]);
    let (directory, archive) = (tree.outside().join("small"), tree.outside().join("whole.tar.zst"));
    image(&["export".as_ref(), tree.path().as_os_str(), archive.as_os_str()]);
    fs::create_dir(&directory).unwrap();
    for (verb, from, to) in
        [("clone", tree.path(), "new"), ("import", archive, "new"), ("export", tree.path(), "new.tar")]
    {
        let script =
            "mount -t tmpfs -o size=4m tmpfs \"$1\"; \"$0\" image \"$2\" \"$3\" \"$1/$4\" || ls -A \"$1\"";
        let mut unshare = Command::new("unshare");
        unshare
            .args(["--mount", "sh", "-c", script])
            .arg(support::program())
            .arg(&directory)
            .arg(verb)
            .arg(from)
            .arg(to);
        let output = output(&mut unshare);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("no space left on device"), "{verb}: {said}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "", "{verb}");
    }
}

#[test]
fn who_waits_for_another_can_be_interrupted() {
    let tree = Tree::minimal();
    tree.file("large", vec![7; 8 << 20]);
    let archive = tree.outside().join("whole.tar");
    image(&["export".as_ref(), tree.path().as_os_str(), archive.as_os_str()]);
    let text = fs::read(&archive).unwrap();
    fs::remove_file(&archive).unwrap();
    // Half of it came, and then nothing any more.
    let mut import = osier(["image", "import", "-"]);
    import.arg(tree.outside().join("new")).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = import.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&text[..text.len() / 2]).unwrap();
    await_that("the scratch directory", || names(tree.outside()).len() == 2);
    std::thread::sleep(Duration::from_millis(300));
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    let ended = child.wait_with_output().unwrap();
    drop(stdin);
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(code(ended.status) == 1 && said.contains("interrupted"), "{said}");
    assert_eq!(names(tree.outside()), [tree.name()]);

    // And one that nobody reads from.
    let mut export = osier(["image", "export"]);
    export.arg(tree.path()).arg("-").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = export.spawn().unwrap();
    let stdout = child.stdout.take().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    let ended = child.wait_with_output().unwrap();
    drop(stdout);
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(code(ended.status) == 1 && said.contains("interrupted"), "{said}");
    assert_eq!(names(tree.outside()), [tree.name()]);
}

#[test]
fn a_debian_machine_boots_from_what_was_exported() {
    let scratch = Scratch::below(Path::new("/var/tmp"));
    let name = unique("imported");
    let (file, tree): (PathBuf, PathBuf) =
        (scratch.path().join("debian.tar.zst"), scratch.path().join(&name));
    image(&["export".as_ref(), debian().as_os_str(), file.as_os_str()]);
    image(&["import".as_ref(), file.as_os_str(), tree.as_os_str()]);
    assert_eq!(fingerprint(&debian()), fingerprint(&tree));
    let mut command = osier(["boot"]);
    command.arg(&tree);
    let machine = Machine::spawn(command, &name, &tree);
    machine.await_output(" login: ");
    machine.signal(Signal::SIGTERM);
    assert_eq!(machine.end().0, 0);
}
