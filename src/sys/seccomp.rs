//! Filters of system calls.

use std::io;

/// `seccomp(SECCOMP_SET_MODE_FILTER, 0, …)`: from now on each system call of the calling thread, and of all that it starts
/// and executes, is judged by `program` beside the filters that are there already (man 2 seccomp).
///
/// # Errors
/// `EACCES` for a caller with neither CAP_SYS_ADMIN nor no_new_privs; `EINVAL` for a program that the kernel does not take,
/// or a kernel without filters.
pub fn add_filter(program: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the pointer is to a sock_fprog that outlives the call, and its own to as many instructions as it says; the
    // kernel reads both and writes neither (kernel/seccomp.c, seccomp_prepare_user_filter).
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0_u32, std::ptr::from_ref(&program))
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
