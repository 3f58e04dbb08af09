//! `osier clock`: the clocks of machines beside the host's, or of two machines beside one another.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::schema::{self, Clocked, Compared};
use super::{age, json, print, table, unknown};
use crate::bus::{self, BusError, machined};
use crate::cli::Clock;
use crate::clock::{Offsets, Reading, Readings};
use crate::duration;
use crate::error::{Context, Error, Kind, Result};
use crate::machine::process::open_leader;
use crate::machine::record::{Clocks, Store};

/// The host itself, as machined calls it; no machine can have this name.
const DOT_HOST: &str = ".host";

/// Prints them.
///
/// # Errors
/// When a machine is not there, or standard output cannot be written to.
pub fn execute(options: &Clock, store: &Store) -> Result<()> {
    if options.compare {
        let [first, second] = options.names.as_slice() else {
            return Err(Error::usage(format!("cannot compare {} names", options.names.len()))
                .because("--compare takes two")
                .hint("osier clock --compare A B; `host` is the host"));
        };
        return print(&compare(options, [find_or_host(store, first)?, find_or_host(store, second)?])?);
    }
    let sides: Result<Vec<_>> = options.names.iter().map(|name| find(store, name)).collect();
    let texts: Result<Vec<_>> = sides?.into_iter().map(|side| show(options, side)).collect();
    print(&texts?.join(if options.json { "" } else { "\n" }))
}

/// Whose clocks are wanted.
struct Side {
    name: String,
    /// The machine's; none for the host.
    machine: Option<Machine>,
}

/// What it takes to read a machine's clocks.
struct Machine {
    /// Its first process, where the caller may see it.
    leader: Option<OwnedFd>,
    /// As its record says, or its leader's file, which need not be readable.
    offsets: Option<Offsets>,
}

/// A machine of that name, else the host where it is meant.
fn find_or_host(store: &Store, name: &str) -> Result<Side> {
    let host = Side { name: name.to_owned(), machine: None };
    match name {
        DOT_HOST => Ok(host),
        "host" => Ok(find_known(store, name)?.unwrap_or(host)),
        _ => find(store, name),
    }
}

fn find(store: &Store, name: &str) -> Result<Side> {
    // Whoever is to say why it is not known may ask the bus, and start threads: nothing is read after it.
    find_known(store, name)?.ok_or_else(|| unknown(store, name))
}

/// One of osier's or of machined's.
fn find_known(store: &Store, name: &str) -> Result<Option<Side>> {
    let machine = match store.read(name) {
        Some(record) => {
            let leader = match open_leader(store, &record) {
                Ok(Some(leader)) => Some(leader),
                Ok(None) => return Err(ended(name)),
                // For who may not look the record is what there is.
                Err(_) => None,
            };
            let Clocks { monotonic_offset_ns: monotonic, boottime_offset_ns: boottime } = record.clocks;
            Machine { leader, offsets: Some(Offsets { monotonic, boottime }) }
        }
        None => match find_others(name) {
            Some(machine) => machine,
            None => return Ok(None),
        },
    };
    Ok(Some(Side { name: name.to_owned(), machine: Some(machine) }))
}

/// One that only machined knows. It is asked in a fork: the bus starts threads, and who enters a time namespace has one.
fn find_others(name: &str) -> Option<Machine> {
    if !bus::available() || !machined::names().iter().any(|known| known == name) {
        return None;
    }
    let leader = bus::apart(|| {
        let ask = || Ok::<_, BusError>(machined::get(name)?.ok_or(BusError::Lost)?.leader);
        let leader = ask()?;
        let number = i32::try_from(leader).ok().and_then(Pid::from_raw).ok_or(BusError::Lost)?;
        let pidfd = pidfd_open(number, PidfdFlags::empty()).map_err(std::io::Error::from)?;
        // As long as machined names it the number is the leader's.
        if ask()? == leader { Ok(pidfd) } else { Err(BusError::Lost) }
    })
    .ok()?;
    let offsets = number(&leader).and_then(|number| Offsets::read(number).ok());
    Some(Machine { leader: Some(leader), offsets })
}

/// The number of a pidfd's process (man 2 pidfd_open).
fn number(pidfd: &OwnedFd) -> Option<u32> {
    use std::os::fd::AsRawFd;
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok()
}

fn ended(name: &str) -> Error {
    Error::new(Kind::NotFound, format!("machine '{name}' has ended"))
}

/// The clocks of some sides in one go, and whether the machines' were read inside.
fn read<const N: usize>(sides: &[Side; N]) -> Result<(Reading, [Reading; N], bool)> {
    let names: Vec<_> = sides.iter().map(|side| format!("'{}'", side.name)).collect();
    let what = || format!("cannot read the clocks of {}", names.join(" and "));
    let machines = sides.iter().filter_map(|side| side.machine.as_ref());
    let leaders: Option<Vec<BorrowedFd<'_>>> =
        machines.clone().map(|machine| machine.leader.as_ref().map(AsFd::as_fd)).collect();
    let refusal = match leaders.map(|leaders| Readings::take(&leaders)) {
        Some(Ok(Readings { here, there })) => {
            let mut there = there.into_iter();
            let each = sides.each_ref().map(|side| match side.machine {
                Some(_) => there.next().unwrap_or(here),
                None => here,
            });
            return Ok((here, each, true));
        }
        Some(Err(error)) if error.raw_os_error() == Some(libc::ESRCH) => {
            return Err(Error::new(Kind::NotFound, what()).because("it has ended"));
        }
        Some(Err(error)) if error.kind() != std::io::ErrorKind::PermissionDenied => {
            return Err(Error::io(what(), &error));
        }
        Some(Err(error)) => error,
        None => std::io::ErrorKind::PermissionDenied.into(),
    };
    let offsets: Option<Vec<_>> = machines.map(|machine| machine.offsets).collect();
    let Some(offsets) = offsets else {
        return Err(Error::io(what(), &refusal).hint("run it as root, with sudo for instance"));
    };
    let here = Reading::here().context(what)?;
    let mut offsets = offsets.into_iter();
    let each = sides.each_ref().map(|side| match side.machine {
        Some(_) => offsets.next().map_or(here, |offsets| here.reckon(offsets)),
        None => here,
    });
    Ok((here, each, false))
}

fn show(options: &Clock, side: Side) -> Result<String> {
    let (here, [there], read_inside) = read(std::array::from_ref(&side))?;
    if options.json {
        return json(&Clocked {
            version: schema::VERSION,
            name: side.name,
            read_inside,
            host: keys(&here),
            machine: keys(&there),
            offset: less(&there, &here),
            clocks: Clocks {
                monotonic_offset_ns: there.offsets.monotonic,
                boottime_offset_ns: there.offsets.boottime,
            },
        });
    }
    Ok(text(["", "HOST", &side.name, "OFFSET"], [&here, &there], read_inside))
}

fn compare(options: &Clock, sides: [Side; 2]) -> Result<String> {
    let (_, [first, second], read_inside) = read(&sides)?;
    let names = sides.map(|side| side.name);
    if options.json {
        return json(&Compared {
            version: schema::VERSION,
            read_inside,
            first: keys(&first),
            second: keys(&second),
            difference: less(&second, &first),
            names,
        });
    }
    Ok(text(["", &names[0], &names[1], "DIFFERENCE"], [&first, &second], read_inside))
}

fn keys(reading: &Reading) -> schema::Reading {
    schema::Reading {
        monotonic_ns: reading.monotonic,
        boottime_ns: reading.boottime,
        realtime_ns: reading.realtime,
        uptime_ns: reading.uptime,
        btime_sec: reading.btime,
    }
}

/// Of two readings. One was taken some microseconds after the other, which is no difference between clocks: theirs are
/// the offsets' to the nanosecond, and the time of day is everywhere the same.
fn less(of: &Reading, other: &Reading) -> schema::Reading {
    schema::Reading {
        monotonic_ns: of.offsets.monotonic.saturating_sub(other.offsets.monotonic),
        boottime_ns: of.offsets.boottime.saturating_sub(other.offsets.boottime),
        realtime_ns: 0,
        uptime_ns: of.uptime.saturating_sub(other.uptime),
        btime_sec: of.btime.saturating_sub(other.btime),
    }
}

fn text(heading: [&str; 4], [one, other]: [&Reading; 2], read_inside: bool) -> String {
    let differences = less(other, one);
    let signed = |nanoseconds: i64| {
        let text = duration::format(nanoseconds);
        if nanoseconds > 0 { format!("+{text}") } else { text }
    };
    // Nobody reads the nanoseconds of what has gone on meanwhile.
    let length = |nanoseconds: i64| duration::format(nanoseconds - nanoseconds % 1_000_000);
    let date = |seconds: i64| {
        u64::try_from(seconds).map_or_else(
            |_| before_the_epoch(seconds),
            |seconds| age::moment(seconds.saturating_mul(1_000_000)),
        )
    };
    let row = |name: &str, of: &dyn Fn(&Reading) -> String, difference: i64| {
        [name.to_owned(), of(one), of(other), signed(difference)]
    };
    let rows = [
        row("monotonic", &|reading| length(reading.monotonic), differences.monotonic_ns),
        row("boottime", &|reading| length(reading.boottime), differences.boottime_ns),
        row("realtime", &|reading| date(reading.realtime.div_euclid(1_000_000_000)), differences.realtime_ns),
        row("uptime", &|reading| length(reading.uptime), differences.uptime_ns),
        row("btime", &|reading| date(reading.btime), differences.btime_sec.saturating_mul(1_000_000_000)),
    ];
    let mut text = table::columns(Some(heading), &rows);
    if !read_inside {
        text.push_str("Reckoned from the offsets: only root can read the clocks inside.\n");
    }
    text
}

/// A machine that is older than the epoch was booted before it.
fn before_the_epoch(seconds: i64) -> String {
    format!("{} before 1970", duration::format(seconds.saturating_neg().saturating_mul(1_000_000_000)))
}
