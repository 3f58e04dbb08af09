use super::*;
use crate::sys::testing::in_child;

fn call(number: i64, arguments: [i64; 3]) -> i32 {
    sys::testing::call(number, arguments)
}

/// What each call gives under the filter; the arguments would be refused by the kernel for another reason, if it got them.
#[test]
fn a_call_is_refused_with_its_own_answer_and_its_neighbours_are_not() {
    in_child(|| {
        Filter::Checkpointable.install().unwrap();
        let bad = [-1, -1, -1];
        assert_eq!(call(libc::SYS_bpf, bad), libc::EPERM);
        assert_eq!(call(libc::SYS_io_uring_setup, [1, 0, 0]), libc::EPERM);
        assert_eq!(call(libc::SYS_clone3, bad), libc::ENOSYS);
        assert_eq!(call(libc::SYS_keyctl, bad), libc::EPERM);
        assert_eq!(call(libc::SYS_unshare, [libc::CLONE_NEWUTS.into(), 0, 0]), libc::EPERM);
        assert_eq!(
            call(libc::SYS_unshare, [(libc::CLONE_NEWUSER | libc::CLONE_NEWNS).into(), 0, 0]),
            libc::EPERM
        );
        assert_eq!(call(libc::SYS_unshare, [libc::CLONE_FS.into(), 0, 0]), 0);
        assert_eq!(call(libc::SYS_clone, [libc::CLONE_NEWPID.into(), 0, 0]), libc::EPERM);
        assert_eq!(call(libc::SYS_socket, [40, libc::SOCK_STREAM.into(), 0]), libc::EAFNOSUPPORT);
        assert_eq!(call(libc::SYS_socket, [38, libc::SOCK_SEQPACKET.into(), 0]), libc::EAFNOSUPPORT);
        let inet = libc::AF_INET.into();
        assert_eq!(call(libc::SYS_socket, [inet, libc::SOCK_STREAM.into(), 262]), libc::EPROTONOSUPPORT);
        for family in [libc::AF_UNIX, libc::AF_INET, libc::AF_NETLINK] {
            assert_eq!(call(libc::SYS_socket, [family.into(), libc::SOCK_DGRAM.into(), 0]), 0, "{family}");
        }
        assert_eq!(call(libc::SYS_pidfd_open, [std::process::id().into(), 0x80, 0]), libc::EINVAL);
        assert_eq!(call(libc::SYS_pidfd_open, [std::process::id().into(), 0, 0]), 0);
        #[cfg(target_arch = "x86_64")]
        assert_eq!(call(0x4000_0000 | libc::SYS_getpid, [0; 3]), libc::ENOSYS);
        // Programs are started, threads too.
        let said = std::process::Command::new("true").status().unwrap();
        assert!(said.success());
        std::thread::spawn(|| ()).join().unwrap();
        String::new()
    });
}

#[test]
fn without_a_filter_nothing_is_installed() {
    in_child(|| {
        Filter::None.install().unwrap();
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        assert!(status.contains("Seccomp:\t0"), "{status}");
        Filter::Checkpointable.install().unwrap();
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        assert!(status.contains("Seccomp:\t2") && status.contains("NoNewPrivs:\t0"), "{status}");
        String::new()
    });
}

#[test]
fn the_plan_can_say_what_is_refused() {
    let said = Filter::Checkpointable.to_string();
    assert!(said.starts_with("bpf fanotify_init"), "{said}");
    assert!(said.contains("socket(0≠1,2,10,16,17)"), "{said}");
    assert_eq!(Filter::None.to_string(), "none");
    // Every call that has a name is in use.
    for call in Call::ALL {
        assert!(CHECKPOINTABLE.iter().any(|rule| rule.call == *call), "{call}");
    }
}
