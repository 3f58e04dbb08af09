//! Saving a machine: it is looked at ([`Candidate::check`]), dumped ([`Candidate::dump`]), stands still until what is written of it
//! is whole ([`Still`]), and then ends or goes on.
//!
//! Whatever fails, and whoever is killed meanwhile, the machine goes on as if nothing had been.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::unistd::Pid;
use rustix::process::pidfd_send_signal;
use rustix::time::{ClockId, clock_getres};

use super::allowance::{self, Maker};
use super::door::Door;
use super::hold::Hold;
use super::process::{is_supervised, open_supervisor};
use super::record::{Checkpointable, Record, Store};
use super::supervise::SAVED;
use super::timers;
use super::watch::{Outcome, Watch};
use crate::bus::units::Retirement;
use crate::cgroup::PAYLOAD;
use crate::cgroup::freezer::{Freezer, Motion};
use crate::cgroup::tree;
use crate::checkpoint::{self, HostMark, Manifest};
use crate::clock::{Now, Offsets};
use crate::criu::images::{Delay, delay_timers, file_time};
use crate::criu::survey::{self, Survey};
use crate::criu::{Criu, Dump, Hook, Leave, Memory};
use crate::error::{Context, Error, Kind, Result};
use crate::ids::MachineId;
use crate::interrupt::Interrupt;
use crate::net::{self, addresses, attire};

/// The largest deleted file that is still open and goes into the images, bytes.
const GHOST: u32 = 128 << 20;
/// How long a supervisor may take to clean up behind a machine that was saved.
const CLEANUP: Duration = Duration::from_secs(10);
/// So often is tried what fails for a reason that passes.
const ATTEMPTS: u32 = 5;
/// How long after each time.
const PACE: Duration = Duration::from_millis(100);
/// Where in a tree what is watched is looked for.
const WATCHED: [&str; 4] = ["/etc", "/usr", "/var", "/opt"];
/// So many culprits are named.
const NAMED: usize = 3;

/// What CRIU's images call the mount of the console.
pub const CONSOLE: &str = "console";

/// CRIU's key of a console.
pub fn console_key(console: crate::console::pty::Identity) -> String {
    format!("tty[{:x}:{:x}]", console.rdev, console.dev)
}

/// A machine that is to be saved. Nobody else can save it meanwhile.
#[derive(Debug)]
pub struct Candidate<'s> {
    store: &'s Store,
    record: Record,
    checkpointable: Checkpointable,
    door: Door,
    cgroup: PathBuf,
    settings: serde_json::Value,
    stays: bool,
    watched: &'static [&'static str],
    /// An flock(2) on the payload's directory: it goes with whoever holds it.
    _lock: File,
}

impl<'s> Candidate<'s> {
    /// The machine that `record` tells of.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] for one that was not booted for it, [`Kind::InUse`] while another saves it.
    pub fn open(store: &'s Store, record: Record) -> Result<Self> {
        let name = record.name.clone();
        let (Some(checkpointable), Some(cgroup)) = (record.checkpointable, record.cgroup.clone()) else {
            return Err(Error::new(Kind::Unsupported, "it was not booted so that it can be saved").hint(format!(
                "`osier boot --checkpointable`, or Checkpointable=yes in the [X-Osier] section of {name}.nspawn"
            )));
        };
        let payload = cgroup.join(PAYLOAD);
        let lock = lock(&cgroup)?;
        if Freezer::of(&payload).asked().context(|| "cannot look at its freezer")? == Motion::Frozen {
            return Err(Error::new(Kind::Failed, "it is frozen").hint(format!("osier thaw {name}")));
        }
        let door = Door::open(store, &record)?;
        let kept = store.kept(&record).context(|| "cannot read its settings")?;
        let settings = kept.and_then(|kept| serde_json::from_slice(&kept).ok()).ok_or_else(|| {
            Error::new(Kind::Failed, "its supervisor has not kept its settings").hint("boot it again")
        })?;
        Ok(Self {
            store,
            record,
            checkpointable,
            door,
            cgroup,
            settings,
            stays: false,
            watched: &[],
            _lock: lock,
        })
    }

    /// It goes on here whatever comes of what was saved: nobody outside is to notice. Otherwise its links are cut from the moment
    /// that is saved.
    #[must_use]
    pub fn staying(self, stays: bool) -> Self {
        Self { stays, ..self }
    }

    /// It is to go on from a copy of its tree: what is watched in it is saved by path.
    #[must_use]
    pub fn from_a_copy(self) -> Self {
        Self { watched: &WATCHED, ..self }
    }

    /// Its record.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Looks for what cannot be saved; gives who came in from outside and is left out.
    ///
    /// # Errors
    /// The first culprits by name.
    pub fn check(&self) -> Result<Survey> {
        let survey =
            survey::look(&self.payload(), self.record.leader).context(|| "cannot look at its processes")?;
        if survey.culprits.is_empty() {
            return Ok(survey);
        }
        let more = survey.culprits.len().saturating_sub(NAMED);
        let named: Vec<_> = survey.culprits.iter().take(NAMED).map(ToString::to_string).collect();
        let rest = if more > 0 { format!("; and {more} more") } else { String::new() };
        Err(Error::new(Kind::Failed, format!("{}{rest}", named.join("; ")))
            .hint("end what cannot be saved inside, then try again"))
    }

    /// About how many bytes its images will have.
    ///
    /// # Errors
    /// What reading its cgroup gives.
    pub fn size(&self) -> Result<u64> {
        let pids = survey::pids(&self.payload()).context(|| "cannot look at its processes")?;
        Ok(checkpoint::estimate(&pids.into_iter().collect::<Vec<_>>()))
    }

    fn payload(&self) -> PathBuf {
        self.cgroup.join(PAYLOAD)
    }

    /// Saves its memory into `images` while it goes on, for a dump of what changes from here on.
    ///
    /// # Errors
    /// What CRIU says.
    pub fn pre_dump(&self, criu: &Criu, images: &Path, memory: Memory, interrupt: &Interrupt) -> Result<()> {
        let log = log_path(&self.record.name)?;
        let dumped = criu.pre_dump(&self.wish(images, &log, memory, interrupt));
        dumped.map_err(|failed| failed.into_error("CRIU cannot save its memory"))?;
        let _ = fs::remove_file(&log);
        Ok(())
    }

    fn wish<'a>(
        &self,
        images: &'a Path,
        log: &'a Path,
        memory: Memory,
        interrupt: &'a Interrupt,
    ) -> Dump<'a> {
        Dump {
            pid: Pid::from_raw(self.record.leader.cast_signed()),
            images,
            log,
            leave: Leave::Running,
            external: vec![console_key(self.checkpointable.console), format!("mnt[/dev/console]:{CONSOLE}")],
            cgroup_root: cgroup_root(&self.payload()),
            ghost_limit: GHOST,
            watched: self.watched.iter().map(ToString::to_string).collect(),
            memory,
            interrupt: Some(interrupt),
        }
    }

    /// Saves its processes into `images`. When this comes back they stand still, and have not run since.
    ///
    /// # Errors
    /// What CRIU says; the machine goes on.
    pub fn dump(
        &self,
        criu: &Criu,
        images: &Path,
        memory: Memory,
        interrupt: &Interrupt,
    ) -> Result<Still<'_>> {
        let log = log_path(&self.record.name)?;
        // Of a link that does not carry CRIU saves routes that the kernel does not take back.
        for link in &self.record.links {
            net::raise(link).context(|| format!("cannot set the link '{link}' up"))?;
        }
        let link = self.link()?;
        let links = link.iter().map(|link| (link.host.clone(), link.attire.clone())).collect();
        let hold = Hold::prepare(&self.payload(), links).context(|| "cannot hold it")?;
        let dump = self.wish(images, &log, memory, interrupt);
        let mut stopped = None;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let dumped = criu.dump(&dump, &mut |hook| match hook {
                // CRIU takes some milliseconds to stop one process after the other: of different moments as seen from inside.
                Hook::PreDump => {
                    stopped = hold.pause()?.then(|| self.stop(images)).transpose()?;
                    Ok(())
                }
                Hook::NetworkLock => {
                    if stopped.is_none() {
                        stopped = Some(self.stop(images)?);
                    }
                    hold.resume()
                }
                // What CRIU has stopped is frozen as soon as it lets go; and until then it keeps everything from its sockets.
                Hook::PostDump => {
                    stopped.as_ref().map_or(Ok(()), |stop| stop.correct_timers(images))?;
                    hold.ask()?;
                    if self.stays { Ok(()) } else { hold.cut() }
                }
                _ => Ok(()),
            });
            if dumped.is_err() {
                hold.resume().context(|| "cannot let it go on")?;
            }
            match dumped {
                Ok(()) => break,
                // It has gone on meanwhile, and with that what was in the way.
                Err(failed) if failed.passes() && attempt < ATTEMPTS => {
                    empty(images).context(|| format!("cannot empty '{}'", images.display()))?;
                    thread::sleep(PACE);
                }
                Err(failed) => return Err(failed.into_error("CRIU cannot save it")),
            }
        }
        if !hold.wait().context(|| "cannot wait until it stands still")? {
            return Err(Error::new(Kind::Failed, "its processes do not stand still"));
        }
        self.door.check()?;
        let _ = fs::remove_file(&log);
        let stop = stopped.ok_or_else(|| Error::new(Kind::Failed, "CRIU has not said when it stopped it"))?;
        Ok(Still { candidate: self, hold, stop, link })
    }

    fn link(&self) -> Result<Option<checkpoint::Link>> {
        let record = &self.record;
        let Some(host) = record.links.first() else { return Ok(None) };
        let attire = attire::read(host).context(|| format!("cannot look at the link '{host}'"))?;
        let inside = addresses::read(record.leader).unwrap_or_default();
        Ok(Some(checkpoint::Link {
            host: host.clone(),
            inside: "host0".to_owned(),
            addresses: inside.iter().map(ToString::to_string).collect(),
            attire,
        }))
    }

    /// What is so while it stands still; its images will be in `images`.
    fn stop(&self, images: &Path) -> io::Result<Stop> {
        let written = file_time(images)?;
        let (since, now) = (Instant::now(), Now::read()?);
        let offsets = self.record.clocks;
        let shown = |initial: i64, offset: i64| u64::try_from(initial.saturating_add(offset)).unwrap_or(0);
        let clocks = checkpoint::Clocks {
            monotonic_ns: shown(now.monotonic, offsets.monotonic_offset_ns),
            boottime_ns: shown(now.boottime, offsets.boottime_offset_ns),
            realtime_ns: u64::try_from(since_epoch().as_nanos()).unwrap_or(u64::MAX),
        };
        let offsets =
            Offsets { monotonic: offsets.monotonic_offset_ns, boottime: offsets.boottime_offset_ns };
        Ok(Stop { since, written, clocks, timers: timers::read(&self.payload(), offsets)? })
    }
}

/// Keeps everybody else from saving the machine in `cgroup` for as long as this is open.
///
/// # Errors
/// [`Kind::InUse`] while somebody has it.
pub fn lock(cgroup: &Path) -> Result<File> {
    let payload = cgroup.join(PAYLOAD);
    let lock = File::open(&payload).context(|| format!("cannot open {}", payload.display()))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(Error::new(
            Kind::InUse,
            "somebody else is saving or migrating it just now, or it is still arriving",
        )),
        Err(TryLockError::Error(error)) => {
            Err(Error::io(format!("cannot lock {}", payload.display()), &error))
        }
    }
}

/// The payload's directory as CRIU names it: below the root of cgroup2.
fn cgroup_root(payload: &Path) -> Option<String> {
    let table = crate::mount::table::read().ok()?;
    let mount = crate::mount::table::find_whole(&table, "cgroup2").ok()??;
    Some(Path::new("/").join(payload.strip_prefix(mount).ok()?).to_str()?.to_owned())
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn empty(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        fs::remove_file(entry?.path())?;
    }
    Ok(())
}

/// Where CRIU's log of the machine `name` is; it stays when CRIU fails.
///
/// # Errors
/// What mkdir(2) gives.
pub fn log_path(name: &str) -> Result<PathBuf> {
    let directory = Path::new(crate::console::log::DIRECTORY);
    fs::create_dir_all(directory).context(|| format!("cannot make {}", directory.display()))?;
    Ok(directory.join(format!("{name}.criu.log")))
}

/// A machine that has just stopped.
#[derive(Debug)]
struct Stop {
    since: Instant,
    /// The time that a file had which was written then where the images are.
    written: SystemTime,
    clocks: checkpoint::Clocks,
    timers: Vec<checkpoint::Timer>,
}

impl Stop {
    /// Of timers that CRIU saves, the images in `images` say what remained when CRIU came to their process: it has been standing still,
    /// and its clocks have not. When that was says the file that CRIU wrote then: rather late than early, by a tick of the clock of
    /// files.
    fn correct_timers(&self, images: &Path) -> io::Result<()> {
        let tick = clock_getres(ClockId::RealtimeCoarse);
        let tick = Duration::new(tick.tv_sec.unsigned_abs(), u32::try_from(tick.tv_nsec).unwrap_or_default());
        let stood = |core: &Path| {
            let written = fs::metadata(core)?.modified()?;
            Ok(Delay::of(
                (written.duration_since(self.written).unwrap_or_default() + tick).min(self.since.elapsed()),
            ))
        };
        delay_timers(images, stood).map(drop)
    }
}

/// A machine that is dumped and stands still. Dropped, it goes on, but after [`Still::give_away`].
#[derive(Debug)]
pub struct Still<'c> {
    candidate: &'c Candidate<'c>,
    hold: Hold,
    stop: Stop,
    link: Option<checkpoint::Link>,
}

impl Still<'_> {
    /// How long it has been standing still.
    pub fn stood(&self) -> Duration {
        self.stop.since.elapsed()
    }

    /// What the checkpoint says of itself, but for its files and its tree's listing.
    ///
    /// # Errors
    /// What cannot be read of the machine or the host.
    pub fn manifest(&self, criu: &Criu) -> Result<Manifest> {
        let Candidate { record, settings, checkpointable, .. } = self.candidate;
        let maker = if record.unit.is_some() { Maker::Unit } else { Maker::Osier };
        let cgroup = tree::capture(&self.candidate.payload())
            .map_err(|failed| Error::io(format!("cannot read {}", failed.path.display()), &failed.error))?;
        Ok(Manifest {
            osier: env!("CARGO_PKG_VERSION").to_owned(),
            created_usec: u64::try_from(since_epoch().as_micros()).unwrap_or(u64::MAX),
            id: MachineId::random().context(|| "cannot make an ID")?,
            machine: checkpoint::Machine {
                name: record.name.clone(),
                id: record.id.parse().ok(),
                verb: record.verb.clone(),
                init: record.init.map(|init| init.to_string()),
                os: record.os.clone(),
            },
            settings: allowance::noted(settings, &self.candidate.cgroup, maker),
            clocks: self.stop.clocks,
            timers: self.stop.timers.clone(),
            cgroup: cgroup.into_iter().filter(|directory| !is_visitors(&directory.path)).collect(),
            network: self.link.clone(),
            console: Some(checkpoint::Console {
                rdev: checkpointable.console.rdev,
                dev: checkpointable.console.dev,
            }),
            criu: checkpoint::Criu { version: criu.version().to_string() },
            host: HostMark::read().context(|| "cannot look at the host")?,
            memory: 0,
            tree: checkpoint::TreeMark { path: record.root.clone(), os: record.os.clone(), listing: None },
            rounds: 0,
            files: Vec::new(),
        })
    }

    /// Whether it has stood still all the time.
    ///
    /// # Errors
    /// That somebody thawed it: then what was read of its tree may be of different moments.
    pub fn check(&self) -> Result<()> {
        self.candidate.door.check()?;
        if self.hold.is_held().context(|| "cannot look at its freezer")? {
            return Ok(());
        }
        Err(Error::new(Kind::Failed, "somebody let it go on meanwhile")
            .because("a request to shut down thaws it, and so does `osier thaw`"))
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// What the freezer gives.
    pub fn release(self) -> Result<()> {
        self.hold.release().context(|| "cannot let it go on")
    }

    /// Somebody else may let it run from now on: here it stands still, whoever dies and whatever is dropped, until it is released
    /// or ended.
    pub fn give_away(&mut self) {
        self.hold.leave();
    }

    /// It is saved: what runs of it ends, and its supervisor with it.
    ///
    /// # Errors
    /// When the supervisor does not take its leave in ten seconds.
    pub fn end(mut self) -> Result<()> {
        let Candidate { store, record, .. } = self.candidate;
        let what = || format!("cannot end '{}'", record.name);
        let stays = |error: Error| error.hint(format!("osier terminate {}", record.name));
        let mut watch = Watch::open(store, [record]).context(what).map_err(stays)?;
        let unstopped = |unit: &str, error| {
            crate::error::say(format_args!(
                "osier: cannot stop {unit}: {error}; if Restart= says so it boots '{}' again\n",
                record.name
            ));
        };
        let retirement = Retirement::prepare(record.supervisor);
        self.give_away();
        if let Some(supervisor) = open_supervisor(store, record).context(what).map_err(stays)? {
            let told = pidfd_send_signal(supervisor.as_fd(), SAVED).map_err(io::Error::from);
            told.context(what).map_err(stays)?;
        }
        // After that word, or it would be asked to shut down; what is saved must not be booted as well, whatever Restart= says.
        match retirement {
            Ok(Some(service)) => service.ask().unwrap_or_else(|error| unstopped(service.unit(), error)),
            Ok(None) => {}
            Err(error) => unstopped("the unit in which it was booted", error),
        }
        let deadline = Instant::now() + CLEANUP;
        match watch.until(Some(deadline), || Ok(!is_supervised(store, record)))? {
            Outcome::Came => Ok(()),
            Outcome::TimedOut => Err(Error::new(Kind::Failed, what())
                .because("its supervisor has not cleaned up in time")
                .hint(format!("osier terminate {}", record.name))),
        }
    }
}

/// The cgroups of who came in from outside: `osier shell` makes one for each.
fn is_visitors(path: &Path) -> bool {
    path.iter().next().is_some_and(|first| first.as_encoded_bytes().starts_with(b"osier-"))
}
