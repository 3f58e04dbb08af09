//! From a checkpoint to a running machine. In place of the outer and the leader there is CRIU, which makes the namespaces and the
//! processes in them; what the supervisor does for a leader that boots it does for one that comes back.
//!
//! ```text
//! supervisor                                                CRIU
//! cgroups and console made                      ──begin──▶
//! link dressed, limits set        ◀──PostSetupNamespaces──  namespaces, links, the first process in its cgroup
//! clocks awaited for timers      ◀──NetworkUnlock────────  processes; their timers are next
//! notify socket, registration, `go`        ◀──PreResume───  processes, stopped
//!                                              ──resume──▶  processes run
//! ```
//!
//! Until `go` has said so nothing of the machine has run: who gives up before has lost nothing. After that it may have, whatever
//! fails then.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};

use super::identity;
use super::keeper::Keeper;
use super::onward::Onward;
use super::supervisor;
use crate::cgroup::Cgroup;
use crate::cgroup::tree::{self, Directory, Lost, TreeError};
use crate::checkpoint::{Timer, Unpacked, Working};
use crate::clock::Offsets;
use crate::console::pty::{self, Pty};
use crate::criu::images::Clocks;
use crate::criu::{Criu, Hook, Lazy, Restore};
use crate::duration;
use crate::error::{Context, Error, Kind, Result};
use crate::machine::attachment::FromUser;
use crate::machine::record::Checkpointable;
use crate::machine::snapshot::{CONSOLE, console_key};
use crate::machine::state::Ask;
use crate::machine::tether::Tether;
use crate::machine::{Attachment, Leader, Running, Signals, Tenure, timers};
use crate::mount::op::{Node, Op};
use crate::mount::{live, root};
use crate::net::{self, attire::Attire};
use crate::notify;
use crate::plan::{CgroupPlan, LaunchPlan, NOTIFY_SOCKET, NetworkPlan};
use crate::spec::{Checkpoints, Ready};

/// How long the link of a machine of the same name may take to go: the kernel takes its network namespace apart a while after
/// its last process.
const OBLIVION: Duration = Duration::from_secs(5);

/// A machine that is to go on from a checkpoint.
pub struct Revival<'a> {
    /// What does it.
    pub criu: &'a Criu,
    /// The checkpoint.
    pub checkpoint: Unpacked,
    /// Where CRIU's log goes; its directory is there. It stays when CRIU fails.
    pub log: PathBuf,
    /// What its clocks showed when it stood still.
    pub clocks: Clocks,
    /// Its timers that were set then.
    pub timers: Vec<Timer>,
    /// What its clocks are to show.
    pub onward: Onward,
    /// The console that it was saved with.
    pub console: pty::Identity,
    /// Its cgroups, from the payload's down.
    pub cgroup: Vec<Directory>,
    /// What the host had made of its end of the link.
    pub attire: Attire,
    /// Who it is is who it was, or who the plan says.
    pub identity: Identity,
    /// How memory comes that is not in the checkpoint.
    pub lazily: Option<Lazily>,
    /// Asked at each [`Moment`].
    pub go: Box<dyn FnMut(Moment<'_>) -> Result<()> + 'a>,
}

/// How far a machine is on its way.
#[derive(Debug)]
pub enum Moment<'a> {
    /// It is being brought back, which can take long: a refusal breaks it off.
    Coming,
    /// Everything is there and nothing has run yet: a refusal ends it without a trace.
    Restored,
    /// It runs, and on what it hangs where a part of its memory is still to come. A refusal is said, and changes nothing.
    Runs(Option<&'a Tether>),
}

/// Memory that comes while the machine runs already.
#[derive(Debug)]
pub struct Lazily {
    /// Where [`Criu::lazy_pages`] works.
    pub work: PathBuf,
    /// What the machine hangs on until all has come.
    pub tether: Tether,
}

impl Lazily {
    /// For CRIU, as the tether becomes the machine's on the way.
    fn copy(&self) -> io::Result<(PathBuf, OwnedFd)> {
        Ok((self.work.clone(), self.tether.fd().try_clone_to_owned()?))
    }
}

/// Who a machine is that goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// The one that was saved.
    Kept,
    /// Another one, of which there may be several.
    Anew,
}

/// Brings back what `revival` says as the machine of `plan`. What it has is in the result, or given back when anything fails; name
/// and tree stay `tenure`'s. One of `signals` breaks it off.
///
/// # Errors
/// What CRIU cannot bring back, and the step that failed otherwise.
pub fn revive(
    plan: &LaunchPlan,
    mut revival: Revival<'_>,
    tenure: &mut Tenure,
    attachment: &mut Attachment,
    signals: &mut Signals,
) -> Result<Running> {
    let working = Working::of(&revival.checkpoint.images())
        .map_err(|cause| Error::new(Kind::Failed, "cannot look at the images").because(cause))?;
    let lead = revival.criu.lead(working.path()).context(|| "cannot look at the images")?;
    let is_timed = revival.onward.write(revival.clocks, working.path(), lead)?;
    let (pty, slave) = open_console().context(|| "cannot make a terminal")?;
    let place = Place::make(plan, tenure)?;
    let payload = place.cgroup.payload();
    tell(tree::make(&revival.cgroup, &payload))?;
    let mut external = vec![format!("mnt[{CONSOLE}]:{}", pty.slave_path.display())];
    if let NetworkPlan::Veth(veth) = &plan.network {
        await_oblivion(&veth.host.name)?;
        external.push(format!("veth[{}]:{}", veth.peer.name, veth.host.name));
    }
    let (criu, log) = (revival.criu, revival.log.clone());
    let cgroup_root = below_root(plan, &payload);
    let lazily =
        revival.lazily.as_ref().map(Lazily::copy).transpose().context(|| "cannot hold its memory")?;
    let restore = Restore {
        images: working.path(),
        log: &log,
        root: &plan.root.tree,
        external,
        inherit: vec![(console_key(revival.console), slave.as_fd())],
        cgroup_root: cgroup_root.as_deref(),
        lazy: lazily.as_ref().map(|(work, alive)| Lazy { work, alive: alive.as_fd() }),
        interrupt: None,
    };
    let scratch = tenure.scratch().map(|scratch| scratch.try_clone_to_owned()).transpose();
    let scratch = scratch.context(|| "cannot hold the throw-away layer")?;
    let mut arrival = Arrival {
        plan,
        lead,
        is_timed,
        revival: &mut revival,
        tenure,
        attachment,
        signals,
        pty: Some(pty),
        place: Some(place),
        running: None,
        refusal: None,
    };
    let restored = root::apart(&plan.root.tree, scratch.as_ref().map(AsFd::as_fd), || {
        Ok(criu.restore(&restore, &mut |hook, pid| arrival.hook(hook, pid)))
    });
    let Arrival { running, refusal, .. } = arrival;
    let restored = restored.context(|| format!("cannot mount '{}'", plan.root.tree.display()))?;
    match (restored, refusal, running) {
        (Ok(_), None, Some(running)) => {
            // Of use only to who asks why it failed.
            let _ = fs::remove_file(&log);
            if let Err(error) = (revival.go)(Moment::Runs(running.tether.as_ref())) {
                crate::error::say(format_args!("osier: {error}\r\n"));
            }
            Ok(running)
        }
        (_, Some(refusal), _) => Err(refusal),
        (Err(failed), ..) => Err(failed.into_error("CRIU cannot bring it back")),
        (Ok(_), None, None) => Err(Error::new(Kind::Failed, "CRIU has not said what it brought back")),
    }
}

fn open_console() -> io::Result<(Pty, OwnedFd)> {
    let pty = pty::open()?;
    let slave = pty::open_peer(&pty.master)?;
    Ok((pty, slave))
}

/// A machine may have had what this host cannot give: that is said, and no reason to leave it dead.
fn tell(made: std::result::Result<Vec<Lost>, TreeError>) -> Result<()> {
    let lost =
        made.map_err(|failed| Error::io(format!("cannot make {}", failed.path.display()), &failed.error))?;
    for lost in lost {
        crate::error::say(format_args!("osier: {lost}\r\n"));
    }
    Ok(())
}

/// The payload's directory below the root of cgroup2.
fn below_root(plan: &LaunchPlan, payload: &Path) -> Option<String> {
    let (CgroupPlan::Directory { mount, .. }
    | CgroupPlan::Scope { mount, .. }
    | CgroupPlan::Keep { mount, .. }) = &plan.cgroup;
    Some(Path::new("/").join(payload.strip_prefix(mount).ok()?).to_str()?.to_owned())
}

fn await_oblivion(link: &str) -> Result<()> {
    let deadline = Instant::now() + OBLIVION;
    while net::exists(link).context(|| format!("cannot look for the link '{link}'"))? {
        if Instant::now() >= deadline {
            return Err(Error::new(Kind::InUse, format!("cannot make the link '{link}'"))
                .because("there is one of that name")
                .hint(format!("ip link show {link}")));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Where a machine's cgroups are to be.
struct Place {
    cgroup: Cgroup,
    /// The scope, and who is in it before the machine is.
    scope: Option<(String, Keeper)>,
}

impl Place {
    fn make(plan: &LaunchPlan, tenure: &mut Tenure) -> Result<Self> {
        if let Some((cgroup, _)) = supervisor::make_cgroup(plan)? {
            return Ok(Self { cgroup, scope: None });
        }
        let keeper = Keeper::start().context(|| "cannot fork")?;
        let (unit, cgroup) = supervisor::prepare_scope(plan, tenure, (keeper.pid(), keeper.pidfd()))?;
        Ok(Self { cgroup, scope: Some((unit, keeper)) })
    }
}

/// A machine on its way.
struct Arrival<'a, 'r> {
    plan: &'a LaunchPlan,
    /// The longest that it waits for its clocks.
    lead: Duration,
    /// CRIU sets timers.
    is_timed: bool,
    revival: &'a mut Revival<'r>,
    tenure: &'a mut Tenure,
    attachment: &'a mut Attachment,
    signals: &'a mut Signals,
    pty: Option<Pty>,
    place: Option<Place>,
    running: Option<Running>,
    /// Why this side does not go on.
    refusal: Option<Error>,
}

impl Arrival<'_, '_> {
    fn hook(&mut self, hook: Hook, pid: Option<Pid>) -> io::Result<()> {
        // What comes when it runs is for it.
        let heard = match hook {
            Hook::PostResume => Ok(()),
            _ => self.hear_requests().and_then(|()| (self.revival.go)(Moment::Coming)),
        };
        let done = heard.and_then(|()| match (hook, pid) {
            (Hook::PostSetupNamespaces, Some(pid)) => self.arrive(pid),
            (Hook::NetworkUnlock, _) if self.is_timed => self.await_timers(),
            (Hook::PreResume, _) => self.settle(),
            _ => Ok(()),
        });
        done.map_err(|error| {
            self.refusal = Some(error);
            io::ErrorKind::Other.into()
        })
    }

    fn hear_requests(&mut self) -> Result<()> {
        let asked = self.signals.take().any(|ask| ask != Ask::Reboot);
        let front = self.attachment.hear_front().context(|| "cannot hear the terminal")?;
        if asked || front == Some(FromUser::Stop) {
            return Err(Error::new(Kind::Failed, "it was asked to end"));
        }
        Ok(())
    }

    /// The first process is there, in the cgroup that is its own, and the links are.
    fn arrive(&mut self, pid: Pid) -> Result<()> {
        if let Some(place) = &self.place {
            tell(tree::set(&self.revival.cgroup, &place.cgroup.payload()))?;
        }
        let gone = || "cannot find the machine's first process";
        let raw = rustix::process::Pid::from_raw(pid.as_raw()).ok_or(io::ErrorKind::NotFound);
        let raw = raw.map_err(io::Error::from).context(gone)?;
        let pidfd = pidfd_open(raw, PidfdFlags::empty()).map_err(io::Error::from).context(gone)?;
        let running = self.running.insert(Running::new(Leader::new(pid.as_raw().unsigned_abs(), pidfd)));
        if let NetworkPlan::Veth(veth) = &self.plan.network {
            let what = || format!("cannot set the link '{}' up", veth.host.name);
            let link = net::adopt_veth(veth, &self.revival.attire).context(what)?;
            link.set_up().context(what)?;
            running.link = Some(link);
        }
        Ok(())
    }

    /// The next that CRIU does is to set timers, to what remains of each.
    fn await_timers(&self) -> Result<()> {
        let Some(running) = &self.running else { return Ok(()) };
        let clocks = Offsets::read(running.leader.pid());
        clocks
            .and_then(|clocks| self.revival.onward.wait_for_timers(self.revival.clocks, clocks, self.lead))
            .context(|| "cannot read the machine's clocks")
    }

    /// All processes are there, and none has run.
    fn settle(&mut self) -> Result<()> {
        let Some(running) = &mut self.running else {
            return Err(Error::new(Kind::Failed, "CRIU has not said which process is the first"));
        };
        if self.revival.identity == Identity::Anew {
            identity::give(self.plan, running.leader.pidfd())?;
        }
        if let Some(Place { cgroup, scope }) = self.place.take() {
            if let Some((unit, keeper)) = scope {
                running.unit = Some(unit);
                // The machine is in the scope by now, which would end without anybody.
                drop(keeper);
                let _ = cgroup.remove_supervisors();
            }
            running.cgroup = Some(cgroup);
        }
        if let Some(Pty { master, .. }) = self.pty.take() {
            let console = pty::identity(&master).context(|| "cannot look at a terminal")?;
            let possible = self.plan.checkpoints == Checkpoints::Possible;
            running.checkpointable = possible.then_some(Checkpointable { console });
            self.attachment.connect(master).context(|| "cannot serve the console")?;
        }
        let socket = listen(running).context(|| format!("cannot listen on {NOTIFY_SOCKET}"))?;
        running.notify = Some(socket);
        supervisor::announce(self.plan, self.tenure, running)?;
        let clocks = Offsets::read(running.leader.pid()).context(|| "cannot read the machine's clocks")?;
        let payload = running.cgroup.as_ref().map(Cgroup::payload);
        if let Some(payload) = payload {
            timers::set(&self.revival.timers, &payload, clocks).context(|| "cannot set its timers")?;
        }
        // What was ready when it was saved says so once.
        let plan = LaunchPlan { clocks, up: Ready::AtStart, ..self.plan.clone() };
        self.tenure.begin_clocks(&plan)?;
        let record = supervisor::describe(&plan, self.tenure, running)?;
        self.tenure.record(record)?;
        running.tether = self.revival.lazily.take().map(|lazily| lazily.tether);
        (self.revival.go)(Moment::Restored)?;
        let Revival { onward, clocks: saved, .. } = *self.revival;
        if let Some(past) = onward.wait(saved, clocks, self.lead).context(|| "cannot read the clocks")? {
            let past = duration::taken(past);
            crate::error::say(format_args!(
                "osier: its clocks are {past} ahead: bringing it back took longer than was expected\r\n"
            ));
        }
        Ok(())
    }
}

/// The socket on which the machine's init reports, and the node that is laid over others: CRIU does not save sockets that are
/// nobody's inside.
fn listen(running: &Running) -> io::Result<OwnedFd> {
    let path = Path::new(NOTIFY_SOCKET);
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidFilename.into());
    };
    live::within(running.leader.pidfd(), directory, || {
        match fs::remove_file(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let inaccessible = Op::Node { path: "inaccessible/sock".into(), node: Node::Socket, mode: 0 };
        match inaccessible.execute(None) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        notify::bind(name.as_ref())
    })
}
