//! Which processes are in a time namespace, and who says what its offsets are.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use osier::clock::Offsets;
use osier::sys::unshare_namespaces;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use rustix::time::ClockId;

use crate::here::{Here, SECOND, read};
use crate::place::{in_child, nested, offsets_file, unshare_time, unshare_user};

/// This program, to assert that the clocks show these offsets.
fn assertion(offsets: Offsets) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(["expect", &offsets.monotonic.to_string(), &offsets.boottime.to_string()]);
    command
}

/// What that program does.
pub(crate) fn expect(monotonic: &str, boottime: &str) {
    let offsets = Offsets { monotonic: monotonic.parse().unwrap(), boottime: boottime.parse().unwrap() };
    let here = Here::read();
    assert_eq!(here.offsets, offsets);
    here.assert_clocks();
    // The vDSO of another thread.
    std::thread::spawn(move || here.assert_clocks()).join().unwrap();
}

#[track_caller]
fn assert_success(mut command: Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// A namespace that this process's children will be members of; the machine's own root may not give it offsets.
fn make_nested(here: &Here) -> Here {
    unshare_user();
    let offsets = nested(here.offsets);
    unshare_time(offsets);
    here.with(offsets)
}

pub(crate) fn children(here: &Here) {
    let inside = make_nested(here);
    here.assert_clocks();
    let link = |name| fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
    assert_ne!(link("time"), link("time_for_children"));
    in_child(|| {
        inside.assert_clocks();
        assert_eq!(link("time"), link("time_for_children"));
        assert_success(assertion(inside.offsets));
        in_child(|| inside.assert_clocks());
    });
    here.assert_clocks();
}

/// exec(3) of a member stays, and exec of who has made the namespace enters.
pub(crate) fn exec(here: &Here) {
    in_child(|| panic!("{}", assertion(here.offsets).exec()));
    let inside = make_nested(here);
    in_child(|| panic!("{}", assertion(inside.offsets).exec()));
}

/// A child that has its parent's memory until it executes (posix_spawn(3), vfork(2)) enters then, and its parent does not.
pub(crate) fn vfork_and_exec(here: &Here) {
    let inside = make_nested(here);
    here.assert_clocks();
    assert_success(assertion(inside.offsets));
    here.assert_clocks();
    let here = *here;
    std::thread::spawn(move || here.assert_clocks()).join().unwrap();
}

/// Whose offsets are fixed when the first member is there.
pub(crate) fn offsets_are_fixed(here: &Here) {
    let inside = make_nested(here);
    let file = offsets_file();
    // Until then they may change.
    inside.offsets.write(file.as_fd()).unwrap();
    in_child(|| {
        let error = here.offsets.write(offsets_file().as_fd()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EACCES));
    });
    assert_eq!(here.offsets.write(file.as_fd()).unwrap_err().raw_os_error(), Some(libc::EACCES));
}

/// Root of the machine has no CAP_SYS_TIME; root of a user namespace has it for time namespaces made there.
pub(crate) fn offsets_of_root(here: &Here) {
    in_child(|| {
        unshare_namespaces(UnshareFlags::NEWTIME).unwrap();
        assert_eq!(Offsets::read(std::process::id()).unwrap(), here.offsets, "they begin as the machine's");
        let error = nested(here.offsets).write(offsets_file().as_fd()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    });
    in_child(|| _ = make_nested(here));
}

/// No clock can be made to show less than zero, nor more than half of what the kernel can count.
pub(crate) fn offsets_out_of_range(here: &Here) {
    unshare_user();
    unshare_namespaces(UnshareFlags::NEWTIME).unwrap();
    let minute = i64::try_from(60 * SECOND).unwrap();
    for clock in [ClockId::Monotonic, ClockId::Boottime] {
        let shown = i64::try_from(read(clock)).unwrap();
        for by in [-shown - minute, osier::clock::MAX - shown + minute] {
            let mut offsets = here.offsets;
            match clock {
                ClockId::Monotonic => offsets.monotonic += by,
                _ => offsets.boottime += by,
            }
            let error = offsets.write(offsets_file().as_fd()).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ERANGE), "{offsets:?}");
        }
    }
    assert_eq!(Offsets::read(std::process::id()).unwrap(), here.offsets, "as they were");
}

/// Enters a time namespace, as nsenter(1) does.
fn enter(namespace: &File) -> Result<(), rustix::io::Errno> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Time))
}

pub(crate) fn setns(here: &Here) {
    let own = File::open("/proc/self/ns/time").unwrap();
    // A process in a user namespace holds the nested one open.
    let (reader, writer) = std::io::pipe().unwrap();
    let me = std::process::id();
    let osier::sys::Forked::Parent(holder) = osier::sys::fork().unwrap() else {
        drop(reader);
        make_nested(here);
        drop(writer);
        std::thread::sleep(std::time::Duration::from_secs(20));
        panic!("not killed by {me}");
    };
    drop(writer);
    std::io::copy(&mut { reader }, &mut std::io::sink()).unwrap();
    let other = File::open(format!("/proc/{holder}/ns/time_for_children")).unwrap();
    let inside = here.with(nested(here.offsets));
    for _ in 0..2 {
        enter(&other).unwrap();
        inside.assert_clocks();
        assert_eq!(Offsets::read(std::process::id()).unwrap(), inside.offsets);
        in_child(|| inside.assert_clocks());
        enter(&own).unwrap();
        here.assert_clocks();
    }
    in_child(|| here.assert_clocks());
    nix::sys::signal::kill(holder, nix::sys::signal::Signal::SIGKILL).unwrap();
    nix::sys::wait::waitpid(holder, None).unwrap();
    std::thread::scope(|threads| {
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        threads.spawn(move || receiver.recv());
        assert_eq!(enter(&own), Err(rustix::io::Errno::USERS), "of a process with two threads");
        drop(sender);
    });
}
