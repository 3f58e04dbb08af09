//! The system calls that rules name, and their numbers.

use std::fmt;

/// Makes [`Call`] with the number in the ABI that osier is built for, and the one of i386 (arch/x86/entry/syscalls).
macro_rules! calls {
    ($($call:ident $name:ident $number:expr, $i386:literal;)*) => {
        /// A system call.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Call { $($call),* }

        impl Call {
            #[cfg(test)]
            pub(super) const ALL: &'static [Self] = &[$(Self::$call),*];

            /// Its number in the ABI that osier is built for.
            pub(super) const fn number(self) -> i64 {
                match self { $(Self::$call => $number as i64),* }
            }

            /// Its number in the 32-bit ABI of x86.
            #[cfg(target_arch = "x86_64")]
            pub(super) const fn number_i386(self) -> u32 {
                match self { $(Self::$call => $i386),* }
            }
        }

        impl fmt::Display for Call {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$call => stringify!($name)),* })
            }
        }
    };
}

calls! {
    AddKey add_key libc::SYS_add_key, 286;
    Bpf bpf libc::SYS_bpf, 357;
    Clone clone libc::SYS_clone, 120;
    Clone3 clone3 libc::SYS_clone3, 435;
    FanotifyInit fanotify_init libc::SYS_fanotify_init, 338;
    IoUringSetup io_uring_setup libc::SYS_io_uring_setup, 425;
    Keyctl keyctl libc::SYS_keyctl, 288;
    LandlockCreateRuleset landlock_create_ruleset libc::SYS_landlock_create_ruleset, 444;
    MemfdSecret memfd_secret libc::SYS_memfd_secret, 447;
    PerfEventOpen perf_event_open libc::SYS_perf_event_open, 336;
    PidfdOpen pidfd_open libc::SYS_pidfd_open, 434;
    RequestKey request_key libc::SYS_request_key, 287;
    Socket socket libc::SYS_socket, 359;
    Unshare unshare libc::SYS_unshare, 310;
    Userfaultfd userfaultfd libc::SYS_userfaultfd, 374;
}
