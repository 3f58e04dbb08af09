use super::*;

fn found(text: &str, trust: Trust) -> Found {
    Found { path: "web.nspawn".into(), trust, text: text.to_owned() }
}

fn trusted(text: &str) -> (Settings, Vec<Warning>) {
    read(&found(text, Trust::Full)).unwrap()
}

fn refused(text: &str) -> String {
    read(&found(text, Trust::Full)).unwrap_err().to_string()
}

fn texts(settings: &[Setting]) -> Vec<&str> {
    settings.iter().map(|setting| setting.text.as_str()).collect()
}

const EVERYTHING: &str = "\
[Exec]
Boot=no
Ephemeral=yes
ProcessTwo=on
Parameters=one 'two three'
Environment=A=1 \"B=2 3\"
Environment=C=4
User=www-data
WorkingDirectory=/srv
Capability=CAP_SYS_TIME CAP_SYSLOG
DropCapability=CAP_MKNOD
KillSignal=SIGTERM
MachineID=22222222222242228222222222222222
Hostname=mail
NotifyReady=1
NoNewPrivileges=no
PrivateUsers=off

[Files]
ReadOnly=true
Bind=/a:/b
Bind=/c
BindReadOnly=/d
TemporaryFileSystem=/var/tmp:size=1M
Inaccessible=/boot
Volatile=no

[Network]
Private=yes
VirtualEthernet=no

[X-Osier]
Clock=zero
ClockMonotonic=+1h
ClockBoottime=-1h
Slice=machine-web.slice
Property=Description=web
MemoryMax=1G
TasksMax=100
MemoryMax=2G
TasksMax=
";

#[test]
fn every_key_finds_its_setting() {
    let (settings, warnings) = trusted(EVERYTHING);
    assert_eq!(warnings, []);
    let one = |setting: &Option<Setting>| setting.as_ref().unwrap().text.clone();
    for (setting, text) in [
        (&settings.ephemeral, "yes"),
        (&settings.process_two, "yes"),
        (&settings.uid, "www-data"),
        (&settings.chdir, "/srv"),
        (&settings.kill_signal, "SIGTERM"),
        (&settings.uuid, "22222222222242228222222222222222"),
        (&settings.hostname, "mail"),
        (&settings.notify_ready, "yes"),
        (&settings.read_only, "yes"),
        (&settings.clock, "zero"),
        (&settings.clock_monotonic, "+1h"),
        (&settings.clock_boottime, "-1h"),
        (&settings.slice, "machine-web.slice"),
    ] {
        assert_eq!(one(setting), text);
    }
    assert_eq!(settings.arguments, ["one", "two three"]);
    assert_eq!(texts(&settings.setenv), ["A=1", "B=2 3", "C=4"]);
    assert_eq!(texts(&settings.capability), ["CAP_SYS_TIME", "CAP_SYSLOG"]);
    assert_eq!(texts(&settings.drop_capability), ["CAP_MKNOD"]);
    assert_eq!(texts(&settings.bind), ["/a:/b", "/c"]);
    assert_eq!(texts(&settings.network), ["none"]);
    assert_eq!(texts(&settings.property), ["Description=web"]);
    let limits: Vec<_> = settings.limits.iter().map(|said| said.setting.text.as_str()).collect();
    assert_eq!(limits, ["1G", "2G"], "an empty value drops what stood before");
    let refused = settings.limits[1].setting.refuse("no").to_string();
    assert_eq!(refused, "web.nspawn:40: MemoryMax: no");
}

#[test]
fn a_network_is_what_both_keys_make_of_it() {
    for (text, kind) in [
        ("Private=yes", Some("none")),
        ("Private=no", Some("host")),
        ("VirtualEthernet=yes", Some("veth")),
        ("VirtualEthernet=no", Some("host")),
        ("Private=yes\nVirtualEthernet=yes", Some("veth")),
        ("Private=no\nVirtualEthernet=yes", Some("veth")),
        ("", None),
    ] {
        let (settings, _) = trusted(&format!("[Network]\n{text}\n"));
        assert_eq!(texts(&settings.network).first().copied(), kind, "{text}");
    }
}

#[test]
fn a_file_that_came_with_the_image_gets_nothing_of_the_host() {
    let (settings, warnings) = read(&found(EVERYTHING, Trust::Limited)).unwrap();
    let empty: [&[Setting]; 4] =
        [&settings.bind, &settings.capability, &settings.network, &settings.property];
    assert!(empty.iter().all(|list| list.is_empty()), "{settings:?}");
    assert!(
        settings.limits.is_empty() && settings.slice.is_none() && settings.uuid.is_none(),
        "{settings:?}"
    );
    assert!(settings.read_only.is_some() && settings.drop_capability.len() == 1, "{settings:?}");
    assert_eq!(
        warnings[0].to_string(),
        "web.nspawn:10: Capability is left out: the file came with the image and is not trusted"
    );
    assert_eq!(warnings.len(), 16, "{warnings:?}");
    // What would be refused is left out here.
    let (_, warnings) = read(&found("[Exec]\nPrivateUsers=pick\n", Trust::Limited)).unwrap();
    assert_eq!(warnings.len(), 1);
}

#[test]
fn what_osier_cannot_do_is_refused_or_said() {
    for text in [
        "[Exec]\nNoNewPrivileges=yes",
        "[Exec]\nSystemCallFilter=~mount",
        "[Exec]\nLimitNOFILE=10",
        "[Files]\nVolatile=overlay",
        "[Network]\nBridge=br0",
    ] {
        let refused = refused(text);
        assert!(refused.starts_with("web.nspawn:2: ") && refused.contains("less isolated"), "{refused}");
    }
    let (_, warnings) =
        trusted("[Exec]\nTimezone=copy\nBoat=yes\n[Exce]\nUser=a\n[X-Other]\nA=1\n[X-Osier]\nMemory=1\n");
    let warnings: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "web.nspawn:2: Timezone is something that osier cannot do yet; it is left out",
            "web.nspawn:3: Boat is no key of [Exec] and is left out",
            "web.nspawn:5: User is no key of [Exce] and is left out",
            "web.nspawn:9: Memory is no key of [X-Osier] and is left out",
        ]
    );
}

#[test]
fn what_is_malformed_is_said_with_its_line() {
    for (text, reason) in [
        ("[Exec]\n\nUser", "web.nspawn:3: 'User' is neither [SECTION] nor KEY=VALUE"),
        ("[Files]\nReadOnly=maybe", "web.nspawn:2: ReadOnly: 'maybe' is neither yes nor no"),
        ("[X-Osier]\nClock=slow", "web.nspawn:2: Clock: 'slow' is not one of host, zero, continue"),
        ("[Exec]\nEnvironment='A=1", "web.nspawn:2: Environment: a ' has no end"),
    ] {
        assert_eq!(refused(text), reason);
    }
}

#[test]
fn the_command_line_holds() {
    let (file, _) = trusted(EVERYTHING);
    let flag = |text: &str| Setting::flag("--flag", text);
    let limit = LimitSetting { key: Key::MemoryMax, setting: flag("3G") };
    let said = Settings {
        hostname: Some(flag("web")),
        tmpfs: vec![flag("/tmp")],
        limits: vec![limit.clone()],
        uptime: Some(flag("1h")),
        ..Settings::default()
    };
    let settings = said.clone().over(file.clone());
    assert_eq!(settings.hostname, said.hostname);
    assert_eq!(settings.uid, file.uid);
    assert_eq!((settings.bind.len(), texts(&settings.tmpfs)), (0, vec!["/tmp"]), "all mounts or none");
    assert_eq!((&settings.clock, &settings.uptime), (&None, &said.uptime), "both say where the clocks start");
    assert_eq!(settings.limits.last(), Some(&limit));
    assert_eq!(settings.limits.len(), 3);
    let settings = file.clone().over(said);
    assert_eq!(settings.hostname, file.hostname, "--settings=override");
    assert_eq!(settings.limits.first(), Some(&limit));
    let kept = Settings { keep_unit: Some(flag("yes")), ..Settings::default() };
    let settings = kept.over(file);
    assert!(settings.slice.is_none() && settings.property.is_empty(), "the unit has its own");
}
