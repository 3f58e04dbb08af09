//! From a launch plan to a running machine: the whole sequence is [`launch`].

mod handshake;
mod leader;
mod outer;
mod stub;
mod supervisor;

use std::os::fd::AsFd;

use nix::unistd::Pid;

use crate::console::Streams;
use crate::error::{Context, Error, Kind, Result};
use crate::machine::{Attachment, Leader, Running, Tenure};
use crate::plan::LaunchPlan;
use crate::sys::{Forked, fork};
use outer::Given;

/// Boots what `plan` says. What the machine has is in the result, or given back when anything fails; name and tree stay
/// `tenure`'s.
///
/// # Errors
/// The step that failed, on either side of the handshake.
pub fn launch(
    plan: &LaunchPlan,
    tenure: &mut Tenure,
    attachment: &mut Attachment,
    streams: Option<&Streams>,
) -> Result<Running> {
    let cgroup = supervisor::make_cgroup(plan)?;
    let payload = cgroup.as_ref().map(|(_, payload)| payload.as_fd());
    let (supervisor_end, inside) = handshake::pair().context(|| "cannot make a socket")?;
    let given = Given { scratch: tenure.scratch(), cgroup: payload, streams };
    let outer = match fork().context(|| "cannot fork")? {
        Forked::Child => {
            drop(supervisor_end);
            outer::live(plan, &given, inside)
        }
        Forked::Parent(outer) => Outer(outer),
    };
    drop(inside);
    let (cloned, leader) = supervisor_end.cloned()?;
    let mut running = Running::new(Leader::new(leader.pid, leader.pidfd));
    running.cgroup = cgroup.map(|(guard, _)| guard);

    let networked = cloned.ids_mapped()?;
    running.link = supervisor::make_link(plan, leader.pid)?;
    supervisor::place(plan, tenure, &mut running)?;
    let (ready, handover) = networked.placed()?;
    if let Some(master) = handover.console {
        attachment.connect(master).context(|| "cannot serve the console")?;
    }
    running.notify = handover.notify;
    let record = supervisor::describe(plan, tenure, &running)?;
    tenure.record(&record)?;
    // Not earlier: its exit takes longer than the leader's next steps.
    drop(outer);
    match ready.go() {
        Ok(()) => Ok(running),
        Err(error) => Err(explain(error, &mut running)),
    }
}

/// The outer, which ends by itself, to be waited for.
struct Outer(Pid);

impl Drop for Outer {
    fn drop(&mut self) {
        let _ = nix::sys::wait::waitpid(self.0, None);
    }
}

/// A leader that was killed before it could say anything is no failure of a step of ours.
fn explain(error: Error, running: &mut Running) -> Error {
    match running.leader.wait() {
        Ok(_) => error,
        Err(wait) => Error::new(Kind::Failed, error.to_string()).because(wait),
    }
}
