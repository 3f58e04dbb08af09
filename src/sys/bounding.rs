//! The capability bounding set, by number.

use std::io;

/// `prctl(PR_CAPBSET_READ)` (man 2 PR_CAPBSET_READ): whether capability number `capability` is in the calling thread's
/// bounding set.
///
/// # Errors
/// `EINVAL` for a number that the kernel does not know.
pub fn has_bounding(capability: u8) -> io::Result<bool> {
    // SAFETY: this operation reads one integer argument and no memory.
    let result = unsafe { libc::prctl(libc::PR_CAPBSET_READ, libc::c_ulong::from(capability), 0, 0, 0) };
    Ok(nix::errno::Errno::result(result)? == 1)
}

/// `prctl(PR_CAPBSET_DROP)` (man 2 PR_CAPBSET_DROP): takes capability number `capability` out of the calling thread's
/// bounding set. For the numbers that the caps crate and rustix do not know yet.
///
/// # Errors
/// `EPERM` without CAP_SETPCAP, `EINVAL` for a number that the kernel does not know.
pub fn drop_bounding(capability: u8) -> io::Result<()> {
    // SAFETY: this operation reads one integer argument and no memory.
    let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) };
    nix::errno::Errno::result(result)?;
    Ok(())
}
