//! The supervisor's loop: one poll(2) over the leader, signals, the console, the front, the bus and the payload's init.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::Signal as KernelSignal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;

use super::attachment::{Attachment, FromUser};
use super::continuity::Continuity;
use super::errand::Errand;
use super::record::Stage;
use super::running::Running;
use super::state::{Act, Ask, State};
use super::tenure::Tenure;
use super::tether::{Grip, Tether};
use crate::bus;
use crate::console::Request;
use crate::error::{Context, Error, Kind, Result};
use crate::image::Way;
use crate::notify::{self, Message};
use crate::signal::Signal;
use crate::spec::{Ready, Ways};

/// So long without an event, and the next one is not expected soon.
const QUIET: Duration = Duration::from_secs(1);

/// Which of [`systemds`] asks to power off.
const POWER_OFF: i32 = 4;
/// Which of them asks to reboot.
const REBOOT: i32 = 5;

/// The word that a checkpoint of the machine was made: what runs of it is to end.
pub const SAVED: KernelSignal = KernelSignal::USR1;

/// The signals that systemd takes for requests, and osier's supervisor too: `SIGRTMIN` and so much.
fn systemds(offset: i32) -> i32 {
    Signal::realtime(offset).number()
}

/// The signals that ask the supervisor for the end of its machine, or for a reboot.
pub struct Signals(SignalDelivery<UnixStream, SignalOnly>);

impl Signals {
    /// Catches them from now on.
    ///
    /// # Errors
    /// What socketpair(2) and sigaction(2) give.
    pub fn catch() -> io::Result<Self> {
        let (read_end, write_end) = UnixStream::pair()?;
        let asked = [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SAVED.as_raw()]
            .into_iter()
            .chain([POWER_OFF, REBOOT].map(systemds));
        Ok(Self(SignalDelivery::with_pipe(read_end, write_end, SignalOnly, asked)?))
    }

    /// What they have asked for since the last time; the socket is emptied.
    pub fn take(&mut self) -> impl Iterator<Item = Ask> {
        self.0.pending().map(|signal| match signal {
            signal if signal == systemds(POWER_OFF) => Ask::PowerOff,
            signal if signal == systemds(REBOOT) => Ask::Reboot,
            signal if signal == SAVED.as_raw() => Ask::Leave,
            _ => Ask::Stop,
        })
    }

    /// Readable when one has come.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.get_read().as_fd()
    }
}

/// How the machine is to be asked, and when it counts as ready.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// How its first process is asked to go down.
    pub ways: Ways,
    /// When the service manager is told READY=1.
    pub ready: Ready,
    /// When it is said to run, no longer to start.
    pub up: Ready,
}

/// Serves the machine until its leader has ended, and what it wrote has reached its reader.
///
/// # Errors
/// What poll(2) gives, which leaves no way to serve it.
pub fn supervise(
    running: &Running,
    tenure: &mut Tenure,
    attachment: &mut Attachment,
    signals: &mut Signals,
    manner: Manner,
) -> Result<State> {
    let mut state = if manner.up == Ready::AtStart { State::Up } else { State::Starting };
    let mut going_down = false;
    if manner.ready == Ready::AtStart {
        tell("READY=1\nSTATUS=The machine runs.");
    }
    if let Some(clocks) = tenure.clocks() {
        clocks.run();
    }
    let mut weight = Weight::Grown(Instant::now());
    let mut errand = Errand::default();
    let mut tether = running.tether.as_ref();
    loop {
        let patience =
            [errand.patience().or(weight.patience()), tenure.clocks_due()].into_iter().flatten().min();
        let ready =
            wait(running, tenure, attachment, signals, (patience, [errand.fd(), tether.map(Tether::fd)]))
                .context(|| "cannot wait for the machine")?;
        if let Some(error) = errand.proceed(running)? {
            complain(&error);
        }
        if let Some(Err(error)) = tenure.clocks().map(Continuity::keep_up) {
            complain(&error);
        }
        weight = if ready.quiet && errand.patience().is_none() {
            weight.quiet()
        } else {
            Weight::Grown(Instant::now())
        };
        for ask in asks(tenure, attachment, signals)?.into_iter().chain(hear_bringer(&mut tether)) {
            let (next, act) = state.asked(ask);
            perform(act, running, &mut errand, manner)?;
            state = next;
        }
        match ready.notified.then(|| hear_init(running)).flatten() {
            Some(Said::Ready) => {
                if state == State::Starting && manner.ready == Ready::WhenPayloadSays {
                    tell("READY=1\nSTATUS=The machine is ready.");
                }
                state = state.ready();
            }
            Some(Said::Stopping) => going_down = true,
            None => {}
        }
        // A full /run is no reason to end a machine; the next event is the next attempt.
        let _ = tenure.say(if going_down { Stage::Stopping } else { state.stage() });
        if ready.ended {
            if let Some(Err(error)) = tenure.clocks().map(Continuity::stop) {
                complain(&error);
            }
            // For as long as the reader needs; the next signal ends the patience.
            attachment.drain(signals.fd()).context(|| "cannot read the rest of the console")?;
            return Ok(state);
        }
    }
}

/// What was found ready that is not asked by itself.
#[expect(
    clippy::struct_excessive_bools,
    reason = "three descriptors or none of them: the answer of one poll(2)"
)]
struct Found {
    ended: bool,
    notified: bool,
    quiet: bool,
}

/// How much this process carries in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weight {
    /// What the launch or the last events needed, which were then: a machine that ends at once need not pay for getting rid
    /// of it.
    Grown(Instant),
    /// Only what the waiting needs.
    Slim,
}

impl Weight {
    /// In how long there is something to get rid of.
    fn patience(self) -> Option<Duration> {
        match self {
            Self::Grown(since) => Some(QUIET.saturating_sub(since.elapsed())),
            Self::Slim => None,
        }
    }

    /// Nothing has happened since, but that clocks were written down.
    fn quiet(self) -> Self {
        match self {
            Self::Grown(since) if since.elapsed() >= QUIET => {
                // Memory is worth an attempt, not a machine.
                let _ = crate::sys::slim();
                Self::Slim
            }
            weight => weight,
        }
    }
}

fn wait(
    running: &Running,
    tenure: &Tenure,
    attachment: &Attachment,
    signals: &Signals,
    (patience, others): (Option<Duration>, [Option<BorrowedFd<'_>>; 2]),
) -> io::Result<Found> {
    let input = |fd| PollFd::new(fd, PollFlags::POLLIN);
    let notify = running.notify.as_ref().map(AsFd::as_fd);
    let mut fds = vec![input(running.leader.pidfd()), input(signals.fd())];
    fds.extend(notify.map(input));
    fds.extend(tenure.bus_fd().map(input));
    fds.extend(attachment.interest());
    fds.extend(others.into_iter().flatten().map(input));
    let patience = patience.map_or(PollTimeout::NONE, in_milliseconds);
    let quiet = match poll(&mut fds, patience) {
        Ok(found) => found == 0,
        Err(Errno::EINTR) => false,
        Err(error) => return Err(error.into()),
    };
    let is_ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
    Ok(Found { ended: is_ready(&fds[0]), notified: notify.is_some() && is_ready(&fds[2]), quiet })
}

/// Rounded up: a poll that ends before the time would be repeated until it is over.
fn in_milliseconds(patience: Duration) -> PollTimeout {
    PollTimeout::try_from(patience.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX)
}

/// Everything that was asked for, by signal, by the user, by PID 1.
fn asks(tenure: &mut Tenure, attachment: &mut Attachment, signals: &mut Signals) -> Result<Vec<Ask>> {
    let mut asks: Vec<_> = signals.take().collect();
    while let Some(asked) = attachment.turn().context(|| "cannot serve the console")? {
        asks.push(match asked {
            FromUser::Stop => Ask::Stop,
            FromUser::Request(Request::Stop) => Ask::Kill,
            FromUser::Request(Request::PowerOff) => Ask::PowerOff,
            FromUser::Request(Request::Reboot) => Ask::Reboot,
            FromUser::Request(Request::Detach) => continue,
        });
    }
    if let Some((registrar, _)) = tenure.registrar() {
        while let Some(event) = registrar.event().context(|| "cannot hear the bus")? {
            match event {
                bus::Event::StopRequested => asks.push(Ask::Stop),
                bus::Event::BusLost => {}
                bus::Event::Lost => {
                    tenure.lose_registrar();
                    break;
                }
            }
        }
    }
    Ok(asks)
}

/// Without the rest of its memory it cannot go on.
fn hear_bringer(tether: &mut Option<&Tether>) -> Option<Ask> {
    let grip = tether.map_or(Grip::Holds, Tether::look);
    if grip == Grip::Whole
        && let Some(Err(error)) = tether.map(Tether::note)
    {
        complain(&Error::io("cannot write down that all of its memory is here", &error));
    }
    if grip != Grip::Holds {
        *tether = None;
    }
    (grip == Grip::Broken).then(|| {
        complain(&Error::new(Kind::Failed, "the rest of its memory is lost").because("it has to end"));
        Ask::Kill
    })
}

fn perform(act: Act, running: &Running, errand: &mut Errand, manner: Manner) -> Result<()> {
    let way = match act {
        Act::Nothing => return Ok(()),
        Act::Shutdown => manner.ways.stop,
        Act::PowerOff => manner.ways.power_off,
        Act::Reboot => manner.ways.reboot,
        Act::Kill => Way::Signal(Signal::KILL),
    };
    if act != Act::Reboot {
        tell("STOPPING=1\nSTATUS=The machine shuts down.");
    }
    errand.send(running, way)
}

/// So many reports are read in one turn.
const NOTICES: usize = 64;

/// The machine goes on; who asked has to know why.
fn complain(error: &Error) {
    tell(&format!("STATUS={error}"));
    // The terminal may be raw: a line's end alone would not return the carriage.
    crate::error::say(format_args!("osier: {error}\r\n"));
}

/// What the payload's init said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Ready,
    Stopping,
}

/// Reads what the init reports; of others inside, who can write to the socket too, nothing is believed.
fn hear_init(running: &Running) -> Option<Said> {
    let socket = running.notify.as_ref()?;
    let mut said = None;
    // Anybody inside can write to it, faster than it is read: the rest is for the next turn.
    for _ in 0..NOTICES {
        let Ok(Some(notice)) = notify::recv(socket.as_fd()) else { break };
        if notice.sender != Some(running.leader.pid()) {
            continue;
        }
        for message in notice.messages {
            match message {
                Message::Ready => said = Some(Said::Ready),
                Message::Stopping => said = Some(Said::Stopping),
                Message::Status(status) => tell(&format!("STATUS=Machine: {status}")),
                _ => {}
            }
        }
    }
    said
}

/// Tells the service manager, if osier was started by one; a manager that does not listen is no reason to end a machine.
fn tell(state: &str) {
    let _ = notify::send(state);
}
