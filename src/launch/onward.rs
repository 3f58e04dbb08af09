//! What the clocks of a machine show that goes on from a checkpoint.

use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::clock::{Clock, MAX, Now, Offsets, Wanted};
use crate::criu::images::{Clocks, Delay, delay_timers};
use crate::duration;
use crate::error::{Context, Error, Kind, Result};

/// A step that is smaller is none: as much passes from when CRIU is told to let the processes run until they do.
const VISIBLE: Duration = Duration::from_millis(1);

/// What they show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Onward {
    /// What they showed when it stood still.
    Continue,
    /// That and the time in between, by the time of day; here, nanoseconds since the epoch, when it was saved.
    Elapsed(u64),
    /// What the host's show.
    Host,
}

impl Onward {
    /// Has the images say so. What they say is what is shown inside, whichever time namespace CRIU runs in, from when CRIU makes the
    /// machine's; what stood still is to go on from where it was, so that they say that it was earlier by `lead`, for [`Onward::wait`].
    /// What CRIU has put there it read when it had dumped everything else; the machine stood still from `saved` on.
    /// Timers that CRIU sets to what remained are delayed to when they were to expire. Says whether there are any, for
    /// [`Onward::wait_for_timers`].
    ///
    /// # Errors
    /// [`Kind::Usage`] for clocks that would run backwards or overflow; what reading and writing the images gives.
    pub(super) fn write(self, saved: Clocks, images: &Path, lead: Duration) -> Result<bool> {
        if Clocks::read(images).context(cannot)?.is_none() {
            return Ok(false);
        }
        let now = Now::read().context(cannot)?;
        let shown = self.shown(saved, &now)?;
        let made = if self == Self::Continue { earlier(shown, lead) } else { shown };
        made.write(images).context(cannot)?;
        let delay = self.delay(saved, shown, lead);
        delay_timers(images, |_| Ok(delay)).context(|| "cannot set the machine's timers")
    }

    /// From when CRIU sets them. What is on the time of day may be for a moment or for a while, which the kernel does not tell
    /// (`/proc/PID/timers`). It is taken for a while, which counts what the machine counts: that is the more usual by far, and what is
    /// for a moment comes late then, but not early. The host's other clocks tell nothing of it.
    fn delay(self, saved: Clocks, shown: Clocks, lead: Duration) -> Delay {
        let (monotonic, boottime) = (saved.monotonic - shown.monotonic, saved.boottime - shown.boottime);
        match self {
            Self::Continue => Delay::of(run_up(lead)),
            Self::Elapsed(_) => Delay { monotonic, boottime, time_of_day: monotonic },
            Self::Host => Delay { monotonic, boottime, time_of_day: 0 },
        }
    }

    /// Waits as [`Onward::wait`] does, until as much before it as timers were delayed by: CRIU sets them next.
    ///
    /// # Errors
    /// What reading the clocks gives.
    pub(super) fn wait_for_timers(self, saved: Clocks, offsets: Offsets, lead: Duration) -> io::Result<()> {
        self.wait(earlier(saved, run_up(lead)), offsets, lead).map(drop)
    }

    /// Waits until clocks with these offsets, those of a machine of which nothing has run, show what they are to go on from, which
    /// was written to be so in `lead` at the latest. Gives
    /// by how much they are past it already, if it can be seen inside.
    ///
    /// # Errors
    /// What reading the clocks gives.
    pub(super) fn wait(
        self,
        saved: Clocks,
        offsets: Offsets,
        lead: Duration,
    ) -> io::Result<Option<Duration>> {
        if self != Self::Continue {
            return Ok(None);
        }
        let past = Now::read()?.monotonic.saturating_add(offsets.monotonic).saturating_sub(saved.monotonic);
        let distance = Duration::from_nanos(past.unsigned_abs());
        if past < 0 {
            thread::sleep(distance.min(lead));
        }
        Ok((past > 0 && distance >= VISIBLE).then_some(distance))
    }

    /// What the machine's clocks are to show.
    fn shown(self, saved: Clocks, now: &Now) -> Result<Clocks> {
        let shown = match self {
            Self::Continue => saved,
            Self::Elapsed(then) => {
                let elapsed = elapsed(then).context(|| "cannot read the time of day")?;
                Clocks {
                    monotonic: saved.monotonic.saturating_add(elapsed),
                    boottime: saved.boottime.saturating_add(elapsed),
                }
            }
            Self::Host => Clocks {
                monotonic: now.monotonic.saturating_add(now.own.monotonic),
                boottime: now.boottime.saturating_add(now.own.boottime),
            },
        };
        check(Clock::Monotonic, saved.monotonic, shown.monotonic, now)?;
        check(Clock::Boottime, saved.boottime, shown.boottime, now)?;
        Ok(shown)
    }
}

fn cannot() -> &'static str {
    "cannot set the machine's clocks"
}

/// Of `lead`, what is left for what comes after the timers are set: the tasks are stopped once more, the machine is announced and
/// asked for. What is left of that is waited for.
fn run_up(lead: Duration) -> Duration {
    lead / 2
}

/// No clock can show less than none.
fn earlier(clocks: Clocks, lead: Duration) -> Clocks {
    let lead = i64::try_from(lead.as_nanos()).unwrap_or(i64::MAX);
    let by = lead.min(clocks.monotonic).min(clocks.boottime).max(0);
    Clocks { monotonic: clocks.monotonic - by, boottime: clocks.boottime - by }
}

/// Nanoseconds since `then`, less than none when the host's time of day is before it.
fn elapsed(then: u64) -> io::Result<i64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
    let difference = i128::try_from(now.as_nanos()).unwrap_or(i128::MAX) - i128::from(then);
    Ok(i64::try_from(difference).unwrap_or(i64::MAX))
}

fn check(clock: Clock, saved: i64, shown: i64, now: &Now) -> Result<()> {
    if shown < saved {
        let back = duration::format(saved.saturating_sub(shown) / 1_000_000_000 * 1_000_000_000);
        return Err(Error::new(Kind::Usage, "cannot set the machine's clocks")
            .because(format!("its {clock} clock would run backwards by {back}"))
            .hint("--clock=continue goes on from where it was"));
    }
    if shown > MAX {
        return Err(Error::new(Kind::Usage, "cannot set the machine's clocks")
            .because(format!("its {clock} clock would be past {}", duration::format(MAX))));
    }
    now.resolve(clock, Wanted::At(shown))
        .map(drop)
        .map_err(|range| Error::new(Kind::Usage, "cannot set the machine's clocks").because(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NS: i64 = 1_000_000_000;
    const SAVED: Clocks = Clocks { monotonic: 100 * NS, boottime: 200 * NS };
    const NOW: Now =
        Now { monotonic: 50 * NS, boottime: 60 * NS, own: Offsets { monotonic: 1000 * NS, boottime: 0 } };

    fn now() -> u64 {
        u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
    }

    #[test]
    fn they_go_on_count_or_are_the_hosts_and_never_run_backwards() {
        assert_eq!(Onward::Continue.shown(SAVED, &NOW).unwrap(), SAVED);
        let hour = 3600 * NS;
        let shown = Onward::Elapsed(now() - hour.unsigned_abs()).shown(SAVED, &NOW).unwrap();
        for (shown, saved) in [(shown.monotonic, SAVED.monotonic), (shown.boottime, SAVED.boottime)] {
            assert!((hour..hour + 60 * NS).contains(&(shown - saved)), "{shown}");
        }
        let back = Onward::Elapsed(now() + hour.unsigned_abs()).shown(SAVED, &NOW).unwrap_err();
        assert!(back.to_string().contains("monotonic clock would run backwards by 59min 5"), "{back}");
        // The host's boottime is behind the machine's.
        let back = Onward::Host.shown(SAVED, &NOW).unwrap_err();
        assert!(back.to_string().contains("boottime clock would run backwards by 2min 20s"), "{back}");
        let young = Clocks { monotonic: NS, boottime: NS };
        let host = Clocks { monotonic: 1050 * NS, boottime: 60 * NS };
        assert_eq!(Onward::Host.shown(young, &NOW).unwrap(), host);
        let far = Onward::Elapsed(0).shown(Clocks { monotonic: MAX - NS, boottime: 0 }, &NOW).unwrap_err();
        assert!(far.to_string().contains("would be past 146y"), "{far}");
    }

    #[test]
    fn what_stood_still_begins_earlier_and_waits() {
        let lead = Duration::from_millis(300);
        let by = 300_000_000;
        let earlier_by =
            |clocks: Clocks, by| Clocks { monotonic: clocks.monotonic - by, boottime: clocks.boottime - by };
        assert_eq!(earlier(SAVED, lead), earlier_by(SAVED, by));
        let young = Clocks { monotonic: 200_000_000, boottime: 500_000_000 };
        assert_eq!(earlier(young, lead), earlier_by(young, young.monotonic));

        let now = Now::read().unwrap();
        let behind = Offsets { monotonic: SAVED.monotonic - now.monotonic - 50_000_000, boottime: 0 };
        assert_eq!(Onward::Continue.wait(SAVED, behind, lead).unwrap(), None);
        assert!(Now::read().unwrap().monotonic + behind.monotonic >= SAVED.monotonic, "it has not waited");
        let ahead = Offsets { monotonic: SAVED.monotonic - now.monotonic + NS, boottime: 0 };
        assert!(
            Onward::Continue
                .wait(SAVED, ahead, lead)
                .unwrap()
                .is_some_and(|past| past >= Duration::from_secs(1))
        );
        assert_eq!(Onward::Host.wait(SAVED, ahead, lead).unwrap(), None);
    }
}
