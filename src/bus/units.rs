//! The services that boot machines in the background: `osier@NAME.service`, started, enabled and disabled by PID 1.
//!
//! For short-lived verbs: each opens the bus in this process, and zbus starts threads.

use std::fs;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use zbus::blocking::{Connection, MessageIterator};
use zbus::zvariant::OwnedObjectPath;

use super::BusError;
use super::call::{arguments, call, open};
use super::systemd::{JobRemoved, MANAGER, main_process, no_systemd, service_result, unit_of};

/// How a service's name ends.
const SERVICE: &str = ".service";

/// The unit that boots the machine `name`: the template's instance, as machinectl names systemd-nspawn's.
pub fn service_name(name: &str) -> String {
    format!("osier@{name}.service")
}

/// A unit's start that PID 1 has taken the job for.
#[derive(Debug)]
pub struct Starting {
    bus: Connection,
    unit: String,
    job: OwnedObjectPath,
    jobs: Receiver<JobRemoved>,
}

impl Starting {
    /// Asks for it.
    ///
    /// # Errors
    /// [`BusError::NoBus`], [`BusError::NoSystemd`], and what PID 1 says, such as `NoSuchUnit`.
    pub fn ask(unit: &str) -> Result<Self, BusError> {
        let bus = open()?;
        let rule = "type='signal',sender='org.freedesktop.systemd1',\
                    interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";
        // Before the job is made, or its end could be missed.
        let signals = MessageIterator::for_match_rule(rule, &bus, None)
            .map_err(|error| BusError::Io(error.to_string()))?;
        let (sender, jobs) = channel();
        std::thread::spawn(move || {
            for message in signals.flatten() {
                let parsed: Result<(u32, OwnedObjectPath, String, String), _> = message.body().deserialize();
                let Ok((_, job, _, result)) = parsed else { continue };
                if sender.send(JobRemoved { job, result }).is_err() {
                    return;
                }
            }
        });
        let answer = call(&bus, MANAGER, "StartUnit", &(unit, "replace")).map_err(|failure| {
            // NoSuchUnit is about this one, not about systemd.
            if failure.is(&["NoSuchUnit", "UnitMasked", "LoadFailed"]) {
                failure.into()
            } else {
                no_systemd(failure)
            }
        })?;
        let job = arguments(&answer, "StartUnit")?;
        Ok(Self { bus, unit: unit.to_owned(), job, jobs })
    }

    /// Waits for the job's end, at most so long; whether it has come.
    ///
    /// # Errors
    /// [`BusError::JobFailed`], with the unit's own result where it has one (man 5 systemd.service, `$SERVICE_RESULT`).
    pub fn wait(&self, limit: Duration) -> Result<bool, BusError> {
        loop {
            let removed = match self.jobs.recv_timeout(limit) {
                Ok(removed) => removed,
                Err(RecvTimeoutError::Timeout) => return Ok(false),
                Err(RecvTimeoutError::Disconnected) => return Err(BusError::Lost),
            };
            if removed.job != self.job {
                continue;
            }
            if removed.result == "done" {
                return Ok(true);
            }
            let result = service_result(&self.bus, &self.unit).filter(|result| result != "success");
            return Err(BusError::JobFailed {
                unit: self.unit.clone(),
                result: result.unwrap_or(removed.result),
            });
        }
    }
}

/// A service that is not to be started again when its main process ends, whatever its `Restart=` says.
#[derive(Debug)]
pub struct Retirement {
    bus: Connection,
    unit: String,
}

impl Retirement {
    /// Of the service whose main process is `main`: the machine's own unit, or anybody's with `ExecStart=osier boot`. There is
    /// none where a shell or another service has it for a child, or where PID 1 is not on the bus.
    ///
    /// # Errors
    /// What PID 1 says.
    pub fn prepare(main: u32) -> Result<Option<Self>, BusError> {
        if !is_in_a_service(main) {
            return Ok(None);
        }
        match Self::find(main) {
            // Where nobody can be asked nobody starts it again.
            Err(BusError::NoBus(_) | BusError::NoSystemd(_)) => Ok(None),
            found => found,
        }
    }

    fn find(main: u32) -> Result<Option<Self>, BusError> {
        let bus = open()?;
        let unit = unit_of(&bus, main)?.name;
        let is_main = unit.ends_with(SERVICE) && main_process(&bus, &unit)? == Some(main);
        Ok(is_main.then_some(Self { bus, unit }))
    }

    /// The service's name.
    pub fn unit(&self) -> &str {
        &self.unit
    }

    /// Has PID 1 stop it: what ends then ends because somebody said so (man 5 systemd.service, `Restart=`). Does not wait for that.
    ///
    /// # Errors
    /// [`BusError::NoSystemd`], and what PID 1 says.
    pub fn ask(&self) -> Result<(), BusError> {
        match call(&self.bus, MANAGER, "StopUnit", &(&self.unit, "replace")) {
            Ok(_) => Ok(()),
            // It has ended and was forgotten.
            Err(failure) if failure.is(&["NoSuchUnit"]) => Ok(()),
            Err(failure) => Err(no_systemd(failure)),
        }
    }
}

/// Whether any of its cgroups is a service's, PID 1's or a user's manager's: nobody else's need be asked for on the bus.
fn is_in_a_service(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.contains(SERVICE))
}

/// Has these units started with what their `[Install]` sections say; PID 1 reads them anew.
///
/// # Errors
/// As [`Starting::ask`].
pub fn enable(units: &[String]) -> Result<(), BusError> {
    let bus = open()?;
    call(&bus, MANAGER, "EnableUnitFiles", &(units, false, false)).map_err(refused)?;
    call(&bus, MANAGER, "Reload", &()).map_err(no_systemd).map(drop)
}

/// The opposite of [`enable`].
///
/// # Errors
/// As [`Starting::ask`].
pub fn disable(units: &[String]) -> Result<(), BusError> {
    let bus = open()?;
    call(&bus, MANAGER, "DisableUnitFiles", &(units, false)).map_err(refused)?;
    call(&bus, MANAGER, "Reload", &()).map_err(no_systemd).map(drop)
}

fn refused(failure: super::call::Failure) -> BusError {
    if failure.is(&["NoSuchUnit"]) { failure.into() } else { no_systemd(failure) }
}
