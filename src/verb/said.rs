//! What was said on the command line, as settings with their flags as origin.

use std::ffi::OsString;

use crate::cgroup::limits::Key;
use crate::cli::{Limits, MachineOptions};
use crate::settings::{LimitSetting, Setting, Settings};

/// The settings that the options of `boot` and `run` make; `arguments` are what follows the dashes.
pub(super) fn settings(options: &MachineOptions, arguments: &[OsString]) -> Settings {
    let MachineOptions {
        invocation: _,
        identity,
        process,
        files,
        clocks,
        checkpoint,
        network,
        console,
        cgroup,
        limits,
        security,
    } = options;
    let one = |flag, text: &Option<String>| text.as_ref().map(|text| Setting::flag(flag, text));
    let many =
        |flag, texts: &[String]| texts.iter().map(|text| Setting::flag(flag, text)).collect::<Vec<_>>();
    let switch = |flag, on: bool| on.then(|| Setting::flag(flag, "yes"));
    Settings {
        machine: one("--machine", &identity.machine),
        uuid: one("--uuid", &identity.uuid),
        hostname: one("--hostname", &identity.hostname),
        setenv: many("--setenv", &process.setenv),
        chdir: one("--chdir", &process.chdir),
        uid: one("--uid", &process.uid),
        kill_signal: one("--kill-signal", &process.kill_signal),
        notify_ready: one("--notify-ready", &process.notify_ready),
        read_only: switch("--read-only", files.read_only),
        ephemeral: switch("--ephemeral", files.ephemeral),
        bind: many("--bind", &files.bind),
        bind_ro: many("--bind-ro", &files.bind_ro),
        tmpfs: many("--tmpfs", &files.tmpfs),
        inaccessible: many("--inaccessible", &files.inaccessible),
        clock: one("--clock", &clocks.clock),
        uptime: one("--uptime", &clocks.uptime),
        clock_monotonic: one("--clock-monotonic", &clocks.clock_monotonic),
        clock_boottime: one("--clock-boottime", &clocks.clock_boottime),
        network: one("--network", &network.network)
            .into_iter()
            .chain(network.private_network.then(|| Setting::flag("--private-network", "none")))
            .chain(network.network_veth.then(|| Setting::flag("--network-veth", "veth")))
            .collect(),
        console: one("--console", &console.console),
        register: one("--register", &cgroup.register),
        slice: one("--slice", &cgroup.slice),
        property: many("--property", &cgroup.property),
        keep_unit: switch("--keep-unit", cgroup.keep_unit),
        limits: said_limits(limits),
        capability: many("--capability", &security.capability),
        drop_capability: many("--drop-capability", &security.drop_capability),
        private_users: one("--private-users", &security.private_users)
            .or_else(|| security.pick_users.then(|| Setting::flag("-U", "pick"))),
        private_users_ownership: one("--private-users-ownership", &security.private_users_ownership),
        api_vfs: one("--api-vfs", &security.api_vfs),
        checkpointable: switch("--checkpointable", checkpoint.checkpointable),
        process_two: None,
        arguments: arguments.to_vec(),
    }
}

/// Whether a word of the command line that may be a boolean is systemd's no.
pub(super) fn is_no(text: &str) -> bool {
    ["no", "false", "off", "0", "n", "f"].contains(&text)
}

fn said_limits(options: &Limits) -> Vec<LimitSetting> {
    let Limits { memory, cpus, tasks, io, cpuset } = options;
    let once = [
        ("--memory", Key::MemoryMax, memory),
        ("--cpus", Key::Cpus, cpus),
        ("--tasks", Key::PidsMax, tasks),
        ("--cpuset", Key::CpusetCpus, cpuset),
    ];
    let once = once.into_iter().filter_map(|(flag, key, text)| Some((flag, key, text.as_ref()?)));
    once.chain(io.iter().map(|text| ("--io", Key::IoMax, text)))
        .map(|(flag, key, text)| LimitSetting { key, setting: Setting::flag(flag, text) })
        .collect()
}

/// A variable with its value; none that has none.
pub(super) fn with_value(setting: Setting) -> Option<Setting> {
    if setting.text.contains('=') {
        return Some(setting);
    }
    let value = std::env::var(&setting.text).ok()?;
    Some(Setting { text: format!("{}={value}", setting.text), ..setting })
}
