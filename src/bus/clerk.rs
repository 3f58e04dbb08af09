//! The registrar's process: does with zbus what the supervisor asks, and tells it what PID 1 asks of a machine.
//!
//! It lives until the supervisor says so or dies, and then takes back what it registered and made. It never returns to
//! its caller's code: there is one way out, at the end of [`live`].

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use zbus::blocking::{Connection, MessageIterator};
use zbus::message::Type;

use super::systemd::JobRemoved;
use super::wire::{Answer, Reply, Request};
use super::{BusError, Event, Registration, Unit, UnitWanted, call, machined, systemd};
use crate::sys;
use crate::wire::Wire;

/// The life of the registrar, from fork to end.
pub(super) fn live(wire: Wire) -> ! {
    // A panic must not unwind into the supervisor's code, of which this process is a copy.
    let lived = catch_unwind(AssertUnwindSafe(|| {
        let terminated = detach(&wire)?;
        let mut clerk = Clerk::new(wire);
        clerk.serve(&terminated)?;
        if let Err(error) = clerk.release() {
            // Nobody is left to be told but the operator.
            crate::error::say(format_args!("osier: cannot unregister: {error}\n"));
        }
        io::Result::Ok(())
    }));
    sys::exit_now(if matches!(lived, Ok(Ok(()))) { 0 } else { 1 })
}

/// Leaves all behind that is the supervisor's; gives the signals that are for this process.
///
/// No PDEATHSIG (fork(2) has cleared it): the work begins when the supervisor is dead.
fn detach(wire: &Wire) -> io::Result<SignalFd> {
    // Every signal is blocked since before the fork, and will be in zbus's threads: handlers that were inherited would write
    // to descriptors that mean something else here, and ^C on the supervisor's terminal is the supervisor's to decide.
    // Out of its session too, or the terminal could stop it.
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGTERM);
    nix::unistd::setsid()?;
    rustix::thread::set_name(c"osier-bus")?;
    rustix::process::chdir("/")?;
    let null = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    drop(null);
    // Before anything here opens descriptors of its own.
    close_all_but(wire.as_fd())?;
    Ok(SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// Closes all descriptors above 2 but one. Those that the supervisor's memory owned are never dropped here.
fn close_all_but(kept: BorrowedFd<'_>) -> io::Result<()> {
    let kept = kept.as_raw_fd();
    if kept > 3 {
        sys::close_range(3, kept - 1)?;
    }
    sys::close_range(kept + 1, RawFd::MAX)
}

/// A connection and what comes in on it.
struct Bus {
    connection: Connection,
    jobs: Receiver<JobRemoved>,
}

/// A registration that was made.
struct Registered {
    name: String,
    leader: u32,
}

struct Clerk {
    wire: Arc<Wire>,
    bus: Option<Bus>,
    /// The scope that was made.
    scope: Option<systemd::Scope>,
    /// The name that is registered.
    machine: Option<Registered>,
}

impl Clerk {
    fn new(wire: Wire) -> Self {
        Self { wire: Arc::new(wire), bus: None, scope: None, machine: None }
    }

    /// Answers requests until the last one or the end of file.
    fn serve(&mut self, terminated: &SignalFd) -> io::Result<()> {
        loop {
            let mut ready = [
                PollFd::from_borrowed_fd(self.wire.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(terminated.as_fd(), PollFlags::IN),
            ];
            rustix::io::retry_on_intr(|| poll(&mut ready, None))?;
            let [asked, signalled] = ready.map(|fd| !fd.revents().is_empty());
            if signalled && terminated.read_signal()?.is_some() {
                // To machined, which knows the sender of the registration, this process is the machine's supervisor.
                tell(&self.wire, &Reply::Event(Event::StopRequested))?;
            }
            if asked {
                let Some((request, fds)) = self.wire.receive::<Request>()? else { return Ok(()) };
                let last = request == Request::Finish;
                let answer = self.execute(request, fds.into_iter().next());
                tell(&self.wire, &Reply::Answer(answer))?;
                if last {
                    return Ok(());
                }
            }
        }
    }

    fn execute(&mut self, request: Request, leader: Option<OwnedFd>) -> Result<Answer, BusError> {
        match (request, leader) {
            (Request::ClaimUnit(name), _) => systemd::claim_scope(&self.bus()?.connection, &name)?,
            (Request::ClaimMachine(name), _) => machined::claim(&self.bus()?.connection, &name)?,
            (Request::OpenUnit(machine), Some(leader)) => {
                return self.open_unit(&machine, leader.as_fd()).map(Answer::Unit);
            }
            (Request::Register(machine), Some(leader)) => {
                machined::register(&self.bus()?.connection, &machine, leader.as_fd())?;
                self.machine = Some(Registered { name: machine.name, leader: machine.leader });
            }
            (Request::Release | Request::Finish, _) => self.release()?,
            (Request::OpenUnit(_) | Request::Register(_), None) => {
                return Err(BusError::Io("no leader in the request".to_owned()));
            }
        }
        Ok(Answer::Done)
    }

    fn open_unit(&mut self, machine: &Registration, leader: BorrowedFd<'_>) -> Result<Unit, BusError> {
        let bus = self.bus()?;
        let (slice, properties) = match &machine.unit {
            UnitWanted::Scope { slice, properties } => (slice, properties),
            UnitWanted::Keep { properties } => {
                let unit = systemd::unit_of(&bus.connection, machine.supervisor)?;
                systemd::set_unit_properties(&bus.connection, &unit.name, properties)?;
                return Ok(unit);
            }
        };
        let started = systemd::open_scope(&bus.connection, machine, (slice, properties), leader)?;
        let unit = systemd::await_scope(&bus.connection, &bus.jobs, &started);
        // Ours from here on, whatever became of the job.
        let invocation = systemd::read_invocation(&bus.connection, &started.name);
        self.scope = Some(systemd::Scope { name: started.name, invocation });
        unit
    }

    /// Takes back the registration, then the scope; tries both, gives the first error.
    fn release(&mut self) -> Result<(), BusError> {
        if self.machine.is_none() && self.scope.is_none() {
            return Ok(());
        }
        let (machine, scope) = (self.machine.take(), self.scope.take());
        let connection = &self.bus()?.connection;
        let unregistered = machine
            .map_or(Ok(()), |Registered { name, leader }| machined::unregister(connection, &name, leader));
        let removed = scope.map_or(Ok(()), |scope| systemd::remove_scope(connection, &scope));
        unregistered.and(removed)
    }

    /// The bus; opened at the first use, and again where it went away.
    fn bus(&mut self) -> Result<&Bus, BusError> {
        if self.bus.as_ref().is_some_and(|bus| bus.connection.is_closed()) {
            self.bus = None;
        }
        let bus = match self.bus.take() {
            Some(bus) => bus,
            None => open(&self.wire)?,
        };
        Ok(self.bus.insert(bus))
    }
}

/// Opens the bus and starts the thread that reads what comes in unasked.
fn open(wire: &Arc<Wire>) -> Result<Bus, BusError> {
    let connection = call::open()?;
    let (sender, jobs) = channel();
    let messages = MessageIterator::from(&connection);
    let (bus, wire) = (connection.clone(), Arc::clone(wire));
    std::thread::Builder::new().name("osier-signals".to_owned()).spawn(move || {
        listen(messages, &bus, &sender, &wire);
        // EPIPE: the supervisor is gone, which the main thread sees for itself.
        let _ = tell(&wire, &Reply::Event(Event::BusLost));
    })?;
    Ok(Bus { connection, jobs })
}

/// Passes on the signals of PID 1's until the bus is gone.
fn listen(messages: MessageIterator, bus: &Connection, jobs: &Sender<JobRemoved>, wire: &Wire) {
    for message in messages {
        let Ok(message) = message else { return };
        if message.message_type() != Type::Signal {
            continue;
        }
        let header = message.header();
        let member = header.member().map(|member| member.as_str()).unwrap_or_default();
        let is_known = matches!(member, "RequestStop" | "JobRemoved");
        if !is_known || !header.sender().is_some_and(|sender| systemd::is_sender(bus, sender)) {
            continue;
        }
        if member == "RequestStop" {
            let _ = tell(wire, &Reply::Event(Event::StopRequested));
        } else if let Ok((_, job, _, result)) = message.body().deserialize::<(u32, _, String, String)>() {
            let _ = jobs.send(JobRemoved { job, result });
        }
    }
}

/// Sends to the supervisor; that it is gone is no error here: the next read shows it.
fn tell(wire: &Wire, reply: &Reply) -> io::Result<()> {
    match wire.send(reply, &[]) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
