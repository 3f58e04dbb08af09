//! A task's resource limits as everybody may read them: /proc/PID/limits (man 5 proc_pid_limits).

use std::fs;
use std::io;

/// The soft and the hard limit of `resource` (`RLIMIT_*`) of the task `pid`, in the form of `struct rlimit64`.
///
/// # Errors
/// `ESRCH` without such a task; `EINVAL` for a resource that there is not, as prlimit(2).
pub(super) fn read(pid: i32, resource: u64) -> io::Result<[u64; 2]> {
    let text = fs::read_to_string(format!("/proc/{pid}/limits"))
        .map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    parse(&text, resource).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
}

/// The kernel prints them in the order of their numbers (`lnames` in fs/proc/base.c), a name of 25 columns in front.
fn parse(text: &str, resource: u64) -> Option<[u64; 2]> {
    let line = text.lines().skip(1).nth(usize::try_from(resource).ok()?)?;
    let mut values = line.get(25..)?.split_whitespace().map(|value| match value {
        "unlimited" => Some(libc::RLIM64_INFINITY),
        number => number.parse().ok(),
    });
    Some([values.next()??, values.next()??])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_says_what_prlimit_says() {
        let own = i32::try_from(std::process::id()).unwrap();
        for (resource, real) in [
            (libc::RLIMIT_CPU, rustix::process::Resource::Cpu),
            (libc::RLIMIT_NOFILE, rustix::process::Resource::Nofile),
            (libc::RLIMIT_STACK, rustix::process::Resource::Stack),
            (libc::RLIMIT_MEMLOCK, rustix::process::Resource::Memlock),
            (libc::RLIMIT_RTTIME, rustix::process::Resource::Rttime),
        ] {
            let real = rustix::process::getrlimit(real);
            let expected = [real.current, real.maximum].map(|limit| limit.unwrap_or(libc::RLIM64_INFINITY));
            assert_eq!(read(own, u64::from(resource)).unwrap(), expected, "{resource}");
        }
        assert_eq!(read(own, 16).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        assert_eq!(read(-1, 0).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }
}
