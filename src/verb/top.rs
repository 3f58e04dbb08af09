//! `osier top`: what the machines use, again and again.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use super::schema::{self, Busy};
use super::subject::{self, Subject};
use super::{Reader, age, status::size, table, try_print};
use crate::cgroup::usage::{self, Usage};
use crate::cli::{Sort, Top};
use crate::console::screen::{self, Event, Screen};
use crate::duration;
use crate::error::{Context, Error, Kind, Result};
use crate::machine::record::Store;

/// What is between two snapshots unless something else was asked.
const DELAY: Duration = Duration::from_secs(1);
/// Figures over less than the kernel's own steps say nothing.
const SHORTEST: Duration = Duration::from_millis(10);
/// ^C and ^Z, as a terminal in raw mode gives them.
const INTERRUPT: u8 = 3;
const SUSPEND: u8 = 26;

/// Shows the table until it is quit, or so often as was asked; gives the exit code.
///
/// # Errors
/// When records cannot be read, or the terminal or standard output cannot be written to.
pub fn execute(options: &Top, store: &Store) -> Result<u8> {
    let delay = delay(options)?;
    let left = options.iterations.unwrap_or(u64::MAX);
    let on_screen = !options.batch && !options.json && !screen::is_dumb();
    let screen = if on_screen { Screen::open().context(|| "cannot use the terminal")? } else { None };
    if let Some(screen) = screen {
        let sort = options.sort;
        return Watch { store, screen, delay, sort, left, table: Table::default() }.run();
    }
    let mut table = Table::default();
    table.look(store)?;
    for number in 0..left {
        thread::sleep(delay);
        let rows = table.look(store)?;
        let rows = sorted(rows, options.sort);
        let text = if options.json { line(&rows)? } else { lines(&rows).join("\n") + "\n" };
        // An empty line parts one snapshot from the next.
        let parting = if number > 0 && !options.json { "\n" } else { "" };
        if try_print(&format!("{parting}{text}"))? == Reader::Gone {
            break;
        }
    }
    Ok(0)
}

fn delay(options: &Top) -> Result<Duration> {
    let Some(text) = &options.delay else { return Ok(DELAY) };
    let wrong = |cause: &dyn std::fmt::Display| Error::usage(format!("--delay={text}")).because(cause);
    let delay = duration::parse(text).map_err(|error| wrong(&error))?;
    let delay = u64::try_from(delay).map(Duration::from_nanos).unwrap_or_default();
    if delay < SHORTEST { Err(wrong(&"it is less than 10ms")) } else { Ok(delay) }
}

/// A snapshot in one line of JSON.
fn line(rows: &[Busy]) -> Result<String> {
    match serde_json::to_string(rows) {
        Ok(text) => Ok(text + "\n"),
        Err(error) => Err(Error::new(Kind::Failed, "cannot write JSON").because(error)),
    }
}

/// What was counted when a machine was looked at last.
struct Counted {
    at: Instant,
    usage: Usage,
}

/// The machines as they were looked at last, by name and leader: a machine that was booted again counts anew.
#[derive(Default)]
struct Table(HashMap<(String, u32), Counted>);

impl Table {
    /// The machines that run now; rates are over the time since the last look, and unknown at the first.
    fn look(&mut self, store: &Store) -> Result<Vec<Busy>> {
        let mut next = HashMap::new();
        let mut rows = Vec::new();
        for subject in subject::all(store)? {
            let machine = Machine::of(&subject);
            let limits = machine.cgroup.as_deref().map(usage::read_limits);
            let at = Instant::now();
            let usage = machine.cgroup.as_deref().map(usage::read);
            let key = (machine.name.clone(), machine.leader);
            let rates = usage.as_ref().zip(self.0.get(&key)).map(|(usage, last)| rates(usage, last, at));
            let (cpu_percent, io_read_rate, io_write_rate) = rates.unwrap_or_default();
            rows.push(Busy {
                version: schema::VERSION,
                name: machine.name,
                service: machine.service,
                state: machine.state,
                cpu_percent,
                memory: usage.as_ref().and_then(|usage| usage.memory),
                memory_max: limits.as_ref().and_then(|limits| limits.memory_max),
                tasks: usage.as_ref().and_then(|usage| usage.tasks),
                tasks_max: limits.as_ref().and_then(|limits| limits.tasks_max),
                io_read_rate,
                io_write_rate,
                uptime_usec: u64::try_from(age::since(machine.started).as_micros()).unwrap_or(u64::MAX),
            });
            next.extend(usage.map(|usage| (key, Counted { at, usage })));
        }
        self.0 = next;
        Ok(rows)
    }
}

/// What is shown of both kinds of machines.
struct Machine {
    name: String,
    service: String,
    state: String,
    leader: u32,
    started: u64,
    cgroup: Option<PathBuf>,
}

impl Machine {
    fn of(subject: &Subject) -> Self {
        match subject {
            Subject::Own(record) => Self {
                name: record.name.clone(),
                service: super::SERVICE.to_owned(),
                state: record.state.to_string(),
                leader: record.leader,
                started: record.started,
                cgroup: record.cgroup.clone(),
            },
            Subject::Others(machine) => Self {
                name: machine.name.clone(),
                service: machine.service.clone(),
                state: machine.state.clone(),
                leader: machine.leader,
                started: machine.started,
                cgroup: subject::cgroup(machine),
            },
        }
    }
}

/// CPU in percent of one processor, and bytes read and written in a second.
fn rates(usage: &Usage, last: &Counted, at: Instant) -> (Option<f64>, Option<u64>, Option<u64>) {
    let past = at.duration_since(last.at).as_micros();
    let grown =
        |now: Option<u64>, before: Option<u64>| Some(now?.saturating_sub(before?)).filter(|_| past > 0);
    let per_second = |grown: u64| u64::try_from(u128::from(grown) * 1_000_000 / past).unwrap_or(u64::MAX);
    // To a tenth of a percent.
    let percent = |grown: u64| {
        let tenths = u128::from(grown) * 1000 / past;
        f64::from(u32::try_from(tenths).unwrap_or(u32::MAX)) / 10.0
    };
    (
        grown(usage.cpu_usec, last.usage.cpu_usec).map(percent),
        grown(usage.io_read, last.usage.io_read).map(per_second),
        grown(usage.io_written, last.usage.io_written).map(per_second),
    )
}

/// The greatest first, what is not known last; those that are equal by name.
fn sorted(mut rows: Vec<Busy>, by: Sort) -> Vec<Busy> {
    rows.sort_by(|one, other| one.name.cmp(&other.name));
    match by {
        Sort::Name => {}
        Sort::Cpu => rows.sort_by(|one, other| {
            let percent = |row: &Busy| row.cpu_percent.unwrap_or(-1.0);
            percent(other).total_cmp(&percent(one))
        }),
        Sort::Memory => rows.sort_by_key(|row| Reverse(row.memory)),
        Sort::Tasks => rows.sort_by_key(|row| Reverse(row.tasks)),
        Sort::Io => rows.sort_by_key(|row| {
            Reverse(
                row.io_read_rate.zip(row.io_write_rate).map(|(read, written)| read.saturating_add(written)),
            )
        }),
        Sort::Uptime => rows.sort_by_key(|row| Reverse(row.uptime_usec)),
    }
    rows
}

/// The table, line by line.
fn lines(rows: &[Busy]) -> Vec<String> {
    let heading = ["NAME", "STATE", "CPU%", "MEMORY", "LIMIT", "TASKS", "READ/S", "WRITE/S", "UPTIME"];
    let dash = || "-".to_owned();
    let bytes = |bytes: Option<u64>| bytes.map_or_else(dash, size);
    let cells: Vec<_> = rows
        .iter()
        .map(|row| {
            [
                row.name.clone(),
                row.state.clone(),
                row.cpu_percent.map_or_else(dash, |percent| format!("{percent:.1}")),
                bytes(row.memory),
                bytes(row.memory_max),
                row.tasks.map_or_else(dash, |tasks| tasks.to_string()),
                bytes(row.io_read_rate),
                bytes(row.io_write_rate),
                age::span(Duration::from_micros(row.uptime_usec)),
            ]
        })
        .collect();
    table::columns(Some(heading), &cells).lines().map(str::to_owned).collect()
}

/// The table on a terminal.
struct Watch<'a> {
    store: &'a Store,
    screen: Screen,
    delay: Duration,
    sort: Sort,
    /// How many more snapshots.
    left: u64,
    table: Table,
}

impl Watch<'_> {
    fn run(mut self) -> Result<u8> {
        let failed = || "cannot use the terminal";
        while self.left > 0 {
            let mut rows = self.table.look(self.store)?;
            let due = Instant::now() + self.delay;
            self.left -= 1;
            loop {
                rows = sorted(rows, self.sort);
                self.screen.draw(&self.frame(&rows)).context(failed)?;
                match self.screen.wait(due).context(failed)? {
                    Event::Due | Event::Key(b' ') => break,
                    Event::Redraw => {}
                    Event::Key(b'q' | INTERRUPT) | Event::End(None) => return Ok(0),
                    Event::Key(SUSPEND) => self.screen.stop().context(failed)?,
                    Event::Key(key) => self.sort = order(key).unwrap_or(self.sort),
                    Event::End(Some(signal)) => {
                        return Ok(u8::try_from(128 + signal).unwrap_or(crate::exit::OWN_FAILURE));
                    }
                }
            }
        }
        Ok(0)
    }

    fn frame(&self, rows: &[Busy]) -> Vec<String> {
        let plural = if rows.len() == 1 { "" } else { "s" };
        let by = self.sort.to_possible_value();
        let head = format!(
            "{} machine{plural}, by {}; order: c cpu, m memory, t tasks, i io, n name, u uptime; q quits",
            rows.len(),
            by.as_ref().map_or("", |by| by.get_name())
        );
        [head, String::new()].into_iter().chain(lines(rows)).collect()
    }
}

fn order(key: u8) -> Option<Sort> {
    Some(match key {
        b'c' => Sort::Cpu,
        b'm' => Sort::Memory,
        b't' => Sort::Tasks,
        b'i' => Sort::Io,
        b'n' => Sort::Name,
        b'u' => Sort::Uptime,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, cpu_percent: Option<f64>, memory: Option<u64>) -> Busy {
        Busy {
            version: 1,
            name: name.to_owned(),
            service: "osier".to_owned(),
            state: "running".to_owned(),
            cpu_percent,
            memory,
            memory_max: Some(2 << 30),
            tasks: Some(7),
            tasks_max: None,
            io_read_rate: None,
            io_write_rate: None,
            uptime_usec: 61_000_000,
        }
    }

    #[test]
    fn the_busiest_is_first_and_the_unknown_last() {
        let rows =
            || vec![row("new", None, Some(5)), row("b", Some(0.0), None), row("a", Some(99.5), Some(4))];
        let names = |by| sorted(rows(), by).into_iter().map(|row| row.name).collect::<Vec<_>>();
        assert_eq!(names(Sort::Cpu), ["a", "b", "new"]);
        assert_eq!(names(Sort::Memory), ["new", "a", "b"]);
        assert_eq!(names(Sort::Name), ["a", "b", "new"]);
        assert_eq!(names(Sort::Io), ["a", "b", "new"], "those that are equal by name");
    }

    #[test]
    fn the_table_has_a_dash_for_what_is_not_known() {
        let lines = lines(&[row("web", Some(150.0), None)]);
        assert_eq!(lines[0], "NAME STATE   CPU%  MEMORY LIMIT TASKS READ/S WRITE/S UPTIME");
        assert_eq!(lines[1], "web  running 150.0 -      2.0G  7     -      -       1min 1s");
    }

    #[test]
    fn rates_are_over_the_time_between() {
        let usage = |cpu, read| Usage {
            memory: None,
            memory_peak: None,
            tasks: None,
            cpu_usec: Some(cpu),
            io_read: read,
            io_written: None,
            oom_kills: None,
        };
        let at = Instant::now();
        let last = Counted { at, usage: usage(1_000_000, Some(100)) };
        let later = at + Duration::from_millis(500);
        assert_eq!(rates(&usage(1_750_000, Some(600)), &last, later), (Some(150.0), Some(1000), None));
        assert_eq!(rates(&usage(1_750_000, None), &last, at), (None, None, None), "no time has passed");
    }
}
