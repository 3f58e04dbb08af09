//! Asking the kernel which system calls it has, by calling them with what none of them takes.

use std::io;

/// The system calls that a program may find missing on one kernel and not on another, in the order in which they came (Linux 5.1
/// to 6.17), by their numbers, which are the same on every architecture (include/uapi/asm-generic/unistd.h).
///
/// Each fails for the arguments that [`has_system_call`] gives, and changes nothing.
pub const SYSTEM_CALLS: &[(&str, i64)] = &[
    ("pidfd_send_signal", 424),
    ("io_uring_register", 427),
    ("open_tree", 428),
    ("move_mount", 429),
    ("fsopen", 430),
    ("fsconfig", 431),
    ("fsmount", 432),
    ("fspick", 433),
    ("pidfd_open", 434),
    ("clone3", 435),
    ("close_range", 436),
    ("openat2", 437),
    ("pidfd_getfd", 438),
    ("faccessat2", 439),
    ("process_madvise", 440),
    ("epoll_pwait2", 441),
    ("mount_setattr", 442),
    ("quotactl_fd", 443),
    ("landlock_create_ruleset", 444),
    ("landlock_add_rule", 445),
    ("landlock_restrict_self", 446),
    ("memfd_secret", 447),
    ("process_mrelease", 448),
    ("futex_waitv", 449),
    ("set_mempolicy_home_node", 450),
    ("cachestat", 451),
    ("fchmodat2", 452),
    ("map_shadow_stack", 453),
    ("futex_wake", 454),
    ("futex_wait", 455),
    ("futex_requeue", 456),
    ("statmount", 457),
    ("listmount", 458),
    ("lsm_get_self_attr", 459),
    ("lsm_set_self_attr", 460),
    ("lsm_list_modules", 461),
    ("mseal", 462),
    ("setxattrat", 463),
    ("getxattrat", 464),
    ("listxattrat", 465),
    ("removexattrat", 466),
    ("open_tree_attr", 467),
    ("file_getattr", 468),
    ("file_setattr", 469),
];

/// Whether the kernel has the system call of this number out of [`SYSTEM_CALLS`]. One that is forbidden here, as by a seccomp
/// filter, is there.
pub fn has_system_call(number: i64) -> bool {
    let Some((_, number)) = SYSTEM_CALLS.iter().find(|(_, known)| *known == number) else { return false };
    // SAFETY: no descriptor, flag, length or pointer is valid as -1, and each of the calls in the table has one of these that
    // the kernel looks at before it does anything; a bad pointer is EFAULT there, and no memory of ours.
    let result = unsafe { libc::syscall(*number, -1_i64, -1_i64, -1_i64, -1_i64, -1_i64, -1_i64) };
    result != -1 || io::Error::last_os_error().raw_os_error() != Some(libc::ENOSYS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_osier_needs_are_there_and_unknown_ones_are_not() {
        let has =
            |name: &str| has_system_call(SYSTEM_CALLS.iter().find(|(known, _)| *known == name).unwrap().1);
        assert!(["pidfd_open", "clone3", "mount_setattr", "openat2"].into_iter().all(has));
        assert!(!has_system_call(-5) && !has_system_call(423));
        assert!(SYSTEM_CALLS.iter().all(|(_, number)| (424..=469).contains(number)));
    }
}
