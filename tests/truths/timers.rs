//! Moments that a program hands to the kernel: those that are read off a clock mean that clock as the program sees it, and
//! lengths of time need no clock.

use std::num::NonZeroU32;
use std::sync::atomic::AtomicU32;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use nix::sys::signal::{SigEvent, SigevNotify, Signal, kill};
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use osier::sys::{Forked, fork};
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, epoll, poll};
use rustix::io::Errno;
use rustix::thread::{
    NanosleepRelativeResult, clock_nanosleep_absolute, clock_nanosleep_relative, futex, nanosleep,
};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_gettime, timerfd_settime,
};

use crate::here::{Here, MS, SECOND, WAIT, assert_lasts, deadline, nanoseconds, timespec};

/// Waits until a moment.
type Wait<'a> = &'a dyn Fn(&Timespec) -> Result<(), Errno>;

const HOUR: Duration = Duration::from_secs(3600);
/// A moment that every clock has left behind.
const PAST: Timespec = Timespec { tv_sec: 0, tv_nsec: 1 };

fn length(duration: Duration) -> Timespec {
    timespec(i128::try_from(duration.as_nanos()).unwrap())
}

#[track_caller]
fn assert_an_hour(left: i128) {
    // A sleep ends within the slack of its timer, 50 us (man 2 PR_SET_TIMERSLACK).
    assert!((3590 * SECOND..3600 * SECOND + MS).contains(&left), "{left} ns are left of an hour");
}

/// Waits until a timer of this kind has expired, and says what was left of it at first.
fn timerfd(clock: TimerfdClockId, flags: TimerfdTimerFlags, value: Timespec) -> i128 {
    let timer = timerfd_create(clock, TimerfdFlags::CLOEXEC).unwrap();
    let once = Itimerspec { it_interval: timespec(0), it_value: value };
    timerfd_settime(&timer, flags, &once).unwrap();
    let left = nanoseconds(timerfd_gettime(&timer).unwrap().it_value);
    if left < 10 * SECOND {
        assert_eq!(poll(&mut [PollFd::new(&timer, PollFlags::IN)], Some(&timespec(10 * SECOND))), Ok(1));
    }
    left
}

fn timerfd_absolute_on(clock: TimerfdClockId, shown_by: ClockId) {
    let absolute = TimerfdTimerFlags::ABSTIME;
    assert_an_hour(timerfd(clock, absolute, deadline(shown_by, HOUR)));
    assert_lasts(|| _ = timerfd(clock, absolute, deadline(shown_by, WAIT)));
    timerfd(clock, absolute, PAST);
}

pub(crate) fn timerfd_absolute(_: &Here) {
    timerfd_absolute_on(TimerfdClockId::Monotonic, ClockId::Monotonic);
    timerfd_absolute_on(TimerfdClockId::Boottime, ClockId::Boottime);
}

/// With CAP_WAKE_ALARM, which these machines have and others do not.
pub(crate) fn timerfd_alarm(_: &Here) {
    timerfd_absolute_on(TimerfdClockId::BoottimeAlarm, ClockId::Boottime);
}

pub(crate) fn timer_absolute(_: &Here) {
    use nix::time::ClockId as Id;
    for (clock, shown_by) in
        [(Id::CLOCK_MONOTONIC, ClockId::Monotonic), (Id::CLOCK_BOOTTIME, ClockId::Boottime)]
    {
        let mut timer = Timer::new(clock, SigEvent::new(SigevNotify::SigevNone)).unwrap();
        let moment = deadline(shown_by, HOUR);
        let once = Expiration::OneShot(TimeSpec::new(moment.tv_sec, moment.tv_nsec));
        timer.set(once, TimerSetTimeFlags::TFD_TIMER_ABSTIME).unwrap();
        let Some(Expiration::OneShot(left)) = timer.get().unwrap() else { panic!("no timer") };
        assert_an_hour(i128::from(left.tv_sec()) * SECOND + i128::from(left.tv_nsec()));
    }
}

pub(crate) fn sleep_absolute(_: &Here) {
    for clock in [ClockId::Monotonic, ClockId::Boottime] {
        assert_lasts(|| clock_nanosleep_absolute(clock, &deadline(clock, WAIT)).unwrap());
        clock_nanosleep_absolute(clock, &PAST).unwrap();
    }
}

/// What is left of a sleep that a signal ends: of a length as much as there is, of a moment nothing is said.
pub(crate) fn sleep_interrupted(_: &Here) {
    let flag = std::sync::Arc::default();
    signal_hook::flag::register(libc::SIGUSR1, flag).unwrap();
    let me = Pid::this();
    // Again and again: the first ones may come before the sleep does. Not for ever: a case that fails does not wait.
    let interrupted = |sleep: &dyn Fn()| match fork().unwrap() {
        Forked::Parent(child) => {
            sleep();
            kill(child, Signal::SIGKILL).unwrap();
            waitpid(child, None).unwrap();
        }
        Forked::Child => {
            for _ in 0..1000 {
                std::thread::sleep(Duration::from_millis(10));
                let _ = kill(me, Signal::SIGUSR1);
            }
            osier::sys::exit_now(0);
        }
    };
    for clock in [ClockId::Monotonic, ClockId::Boottime] {
        interrupted(&|| match clock_nanosleep_relative(clock, &length(HOUR)) {
            NanosleepRelativeResult::Interrupted(left) => assert_an_hour(nanoseconds(left)),
            other => panic!("{other:?}"),
        });
        interrupted(&|| {
            assert_eq!(clock_nanosleep_absolute(clock, &deadline(clock, HOUR)), Err(Errno::INTR));
        });
    }
}

/// PID 1 holds these locks for ever.
fn locked() -> AtomicU32 {
    AtomicU32::new(1)
}

pub(crate) fn futex_absolute(_: &Here) {
    let any = NonZeroU32::MAX;
    let clock = ClockId::Monotonic;
    let (free, held) = (AtomicU32::new(0), locked());
    let waits: [Wait<'_>; 3] = [
        &|until| futex::wait_bitset(&free, futex::Flags::PRIVATE, 0, Some(until), any),
        &|until| futex::lock_pi2(&held, futex::Flags::empty(), Some(until)),
        &|until| {
            let mut wait = futex::Wait::new();
            wait.uaddr = futex::WaitPtr::new(std::ptr::from_ref(&free).cast_mut().cast());
            wait.flags = futex::WaitFlags::SIZE_U32 | futex::WaitFlags::PRIVATE;
            futex::waitv(&[wait], futex::WaitvFlags::empty(), Some(until), futex::ClockId::Monotonic)
                .map(drop)
        },
    ];
    for wait in waits {
        assert_lasts(|| assert_eq!(wait(&deadline(clock, WAIT)), Err(Errno::TIMEDOUT)));
        assert_eq!(wait(&PAST), Err(Errno::TIMEDOUT));
    }
    // What programs have of it: the standard library waits until a moment of CLOCK_MONOTONIC.
    let (_sender, receiver) = channel::<()>();
    assert_lasts(|| assert_eq!(receiver.recv_timeout(WAIT), Err(RecvTimeoutError::Timeout)));
}

/// Moments of the time of day, which is the host's.
pub(crate) fn realtime_absolute(_: &Here) {
    let clock = ClockId::Realtime;
    timerfd_absolute_on(TimerfdClockId::Realtime, clock);
    assert_lasts(|| clock_nanosleep_absolute(clock, &deadline(clock, WAIT)).unwrap());
    let (free, held) = (AtomicU32::new(0), locked());
    assert_lasts(|| {
        let flags = futex::Flags::PRIVATE | futex::Flags::CLOCK_REALTIME;
        let ended = futex::wait_bitset(&free, flags, 0, Some(&deadline(clock, WAIT)), NonZeroU32::MAX);
        assert_eq!(ended, Err(Errno::TIMEDOUT));
    });
    assert_lasts(|| {
        let ended = futex::lock_pi(&held, futex::Flags::empty(), Some(&deadline(clock, WAIT)));
        assert_eq!(ended, Err(Errno::TIMEDOUT));
    });
}

/// Lengths of time.
pub(crate) fn relative(_: &Here) {
    let wait = length(WAIT);
    for clock in [TimerfdClockId::Monotonic, TimerfdClockId::Boottime, TimerfdClockId::Realtime] {
        assert_lasts(|| _ = timerfd(clock, TimerfdTimerFlags::empty(), wait));
    }
    assert_lasts(|| assert!(matches!(nanosleep(&wait), NanosleepRelativeResult::Ok)));
    assert_lasts(|| assert_eq!(poll(&mut [], Some(&wait)), Ok(0)));
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    assert_lasts(|| {
        let mut events = Vec::with_capacity(1);
        assert_eq!(epoll::wait(&epoll, spare_capacity(&mut events), Some(&wait)), Ok(0));
    });
    let free = AtomicU32::new(0);
    assert_lasts(|| {
        assert_eq!(futex::wait(&free, futex::Flags::PRIVATE, 0, Some(&wait)), Err(Errno::TIMEDOUT));
    });
}
