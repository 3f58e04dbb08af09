//! From a launch plan to a running machine: the whole sequence is [`launch`], or [`revive`] for one that goes on from a checkpoint.

mod handshake;
mod identity;
mod keeper;
mod leader;
mod onward;
mod outer;
mod revive;
mod stub;
mod supervisor;
mod users;
mod watch;

use std::os::fd::AsFd;

use crate::console::{Streams, pty};
use crate::error::{Context, Error, Result};
use crate::machine::record::Checkpointable;
use crate::machine::{Attachment, Leader, Running, Signals, Tenure};
use crate::plan::LaunchPlan;
use crate::spec::Checkpoints;
use crate::sys::{Cloned, clone_child};
pub use onward::Onward;
use outer::Given;
pub use revive::{Identity, Lazily, Moment, Revival, revive};
pub use users::open as open_users;
use watch::{Outer, Watch};

/// Boots what `plan` says. What the machine has is in the result, or given back when anything fails; name and tree stay
/// `tenure`'s. One of `signals` breaks it off.
///
/// # Errors
/// The step that failed, on either side of the handshake.
pub fn launch(
    plan: &LaunchPlan,
    tenure: &mut Tenure,
    attachment: &mut Attachment,
    streams: Option<&Streams>,
    signals: &mut Signals,
) -> Result<Running> {
    let cgroup = supervisor::make_cgroup(plan)?;
    let payload = cgroup.as_ref().map(|(_, payload)| payload.as_fd());
    let (supervisor_end, inside) = handshake::pair().context(|| "cannot make a socket")?;
    let console = match plan.checkpoints {
        Checkpoints::Possible => Some(pty::open().context(|| "cannot make a terminal")?),
        Checkpoints::Impossible => None,
    };
    let checkpointable = console.as_ref().map(|pty| pty::identity(&pty.master));
    let checkpointable = checkpointable.transpose().context(|| "cannot look at a terminal")?;
    let checkpointable = checkpointable.map(|console| Checkpointable { console });
    let slave = console.as_ref().map(|pty| pty.slave_path.as_path());
    let users = plan.id_map.range().map(users::open).transpose()?;
    let users = users.as_ref().map(AsFd::as_fd);
    let given = Given { scratch: tenure.scratch(), users, cgroup: payload, console: slave, streams };
    // Who is root in there alone cannot clone into what is the host's: the outer is there already.
    let outer = match clone_child(0, users.and(payload)).context(|| "cannot fork")? {
        Cloned::New => {
            drop(supervisor_end);
            outer::live(plan, &given, inside)
        }
        Cloned::Caller { pid, .. } => Outer(pid),
    };
    drop(inside);
    let mut watch = Watch::new(&outer, attachment, signals).context(|| "cannot watch a process")?;
    let (cloned, leader) = supervisor_end.cloned(&mut watch)?;
    watch.forget_outer();
    let mut running = Running::new(Leader::new(leader.pid, leader.pidfd));
    running.checkpointable = checkpointable;
    running.cgroup = cgroup.map(|(guard, _)| guard);

    let networked = cloned.ids_mapped(&mut watch)?;
    running.link = supervisor::make_link(plan, leader.pid).map_err(|error| explain(error, &running))?;
    supervisor::place(plan, tenure, &mut running).map_err(|error| explain(error, &running))?;
    let (ready, handover) = networked.placed(&mut watch)?;
    if let Some(master) = handover.console.or(console.map(|pty| pty.master)) {
        watch.attachment.connect(master).context(|| "cannot serve the console")?;
    }
    running.notify = handover.notify;
    let record = supervisor::describe(plan, tenure, &running).map_err(|error| explain(error, &running))?;
    tenure.record(record)?;
    // Not earlier: its exit takes longer than the leader's next steps.
    drop(outer);
    if let Err(error) = ready.go(&mut watch) {
        // It is recorded, so that somebody may have killed it: that is its end, and no fault of the launch.
        if !running.leader.was_killed() {
            return Err(error);
        }
    }
    Ok(running)
}

/// What cannot be done to a leader that has died is the lesser news.
fn explain(error: Error, running: &Running) -> Error {
    if running.leader.has_ended() { handshake::died() } else { error }
}
