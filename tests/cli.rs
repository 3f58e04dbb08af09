//! The command line from outside: the built program, its texts and exit codes. Needs no root.
#![expect(clippy::unwrap_used, reason = "a test that cannot run the program has failed")]

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use clap::Parser;
use osier::cli::{Cli, Verb};

fn osier(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_osier")).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn wrong_usage_is_2_whatever_the_verb() {
    for line in [
        &["nonsense"][..],
        &[],
        &["boot"],
        &["boot", "--clock=later", "web"],
        &["run", "web"],
        &["run", "web", "true"],
        &["list", "--jsn"],
        &["show"],
        &["show", "web", "--json", "--value"],
        &["completions", "csh"],
    ] {
        let output = osier(line);
        assert_eq!(output.status.code(), Some(2), "{line:?}: {output:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{line:?}");
    }
    let wrong = osier(&["boot", "--clock=later", "web"]);
    assert!(text(&wrong.stderr).starts_with("osier: "), "{}", text(&wrong.stderr));
}

#[test]
fn help_and_version_are_answers() {
    for line in [&["--help"][..], &["-h"], &["boot", "--help"], &["image", "build", "-h"], &["--version"]] {
        let output = osier(line);
        assert!(output.status.success() && output.stderr.is_empty() && !output.stdout.is_empty(), "{line:?}");
    }
}

#[test]
fn a_machine_that_is_not_there_is_said_in_one_sentence() {
    for verb in ["status", "show", "terminate"] {
        let output = osier(&[verb, "no-such-machine-here"]);
        assert_eq!(output.status.code(), Some(1), "{verb}");
        let said = text(&output.stderr);
        assert!(
            said.starts_with("osier: no machine 'no-such-machine-here' is running\nhint: "),
            "{verb}: {said}"
        );
        assert!(output.stdout.is_empty());
    }
    assert_eq!(osier(&["show", "../../etc/passwd"]).status.code(), Some(1));
}

#[test]
fn a_closed_pipe_is_no_failure_and_a_full_disk_is_one() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let closed = Command::new(env!("CARGO_BIN_EXE_osier"))
        .args(["completions", "bash"])
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let closed = closed.wait_with_output().unwrap();
    assert!(closed.status.success() && closed.stderr.is_empty(), "{closed:?}");
    let full = Command::new(env!("CARGO_BIN_EXE_osier"))
        .args(["completions", "bash"])
        .stdout(File::options().write(true).open("/dev/full").unwrap())
        .output()
        .unwrap();
    assert_eq!(full.status.code(), Some(1));
    assert_eq!(text(&full.stderr), "osier: cannot write to standard output: no space left on device\n");
}

/// What the script of bash offers for a line whose last word is being typed.
fn completed(words: &[&str]) -> Vec<String> {
    let script = r#"source <(osier completions bash); COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_TYPE=9
        _clap_complete_osier osier "${COMP_WORDS[COMP_CWORD]}" && printf '%s\n' "${COMPREPLY[@]}""#;
    let directory = Path::new(env!("CARGO_BIN_EXE_osier")).parent().unwrap();
    let output = Command::new("bash")
        .args(["-c", script, "bash"])
        .args(words)
        .env("PATH", format!("{}:/usr/bin:/bin", directory.display()))
        .output()
        .unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{words:?}: {output:?}");
    text(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn completion_knows_verbs_options_values_and_paths() {
    assert_eq!(completed(&["osier", "termi"]), ["terminate"]);
    assert_eq!(completed(&["osier", "boot", "--clock-b"]), ["--clock-boottime"]);
    assert_eq!(completed(&["osier", "top", "--sort", "m"]), ["memory"]);
    assert_eq!(completed(&["osier", "boot", "/us"]), ["/usr/"]);
    assert_eq!(completed(&["osier", "set", "web", "memory.m"]), ["memory.max="]);
    assert!(completed(&["osier", "image", "build", "mini"]).contains(&"minimal".to_owned()));
    assert_eq!(completed(&["osier", "status", "no-such-machine"]), [""; 1], "nothing is offered");
}

#[test]
fn every_shell_has_a_script() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = osier(&["completions", shell]);
        assert!(output.status.success() && output.stderr.is_empty(), "{shell}: {output:?}");
        let script = text(&output.stdout);
        assert!(script.contains("_OSIER_COMPLETE") && script.contains("osier"), "{shell}: {script}");
    }
    let wrong = Command::new(env!("CARGO_BIN_EXE_osier")).env("_OSIER_COMPLETE", "csh").output().unwrap();
    assert!(!wrong.status.success() && wrong.stdout.is_empty(), "{wrong:?}");
}

#[test]
fn check_gives_an_array_and_a_verdict() {
    let output = osier(&["check", "--json"]);
    let found: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let lacks = found.iter().any(|one| one["required"] == true && one["present"] == false);
    assert_eq!(output.status.code(), Some(i32::from(lacks)), "{}", text(&output.stdout));
    let names: Vec<_> = found.iter().filter_map(|one| one["what"].as_str()).collect();
    for wanted in ["root", "time namespace", "cgroup2", "overlayfs", "system bus"] {
        assert!(names.contains(&wanted), "{wanted} is not in {names:?}");
    }
}

#[test]
fn list_is_an_array_in_json() {
    let output = osier(&["list", "--json"]);
    assert!(output.status.success());
    assert!(serde_json::from_slice::<Vec<serde_json::Value>>(&output.stdout).is_ok());
}

#[test]
fn the_units_command_line_parses() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("units/osier@.service");
    let unit = fs::read_to_string(unit).unwrap();
    let value = |key: &str| unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap();
    let line = value("ExecStart").replace("%i", "web");
    let cli = Cli::try_parse_from(line.split(' ')).unwrap();
    let Verb::Boot(boot) = cli.verb else { panic!("not boot: {line}") };
    assert_eq!(boot.source.tree.as_deref(), Some("web".as_ref()));
    assert_eq!(boot.options.identity.machine.as_deref(), Some("web"));
    assert!(boot.options.cgroup.keep_unit, "the unit is the machine's");
    assert_eq!(boot.options.process.notify_ready.as_deref(), Some("auto"));
    let notifies = (value("Type"), value("Delegate"), value("DelegateSubgroup"), value("KillMode"));
    assert_eq!(notifies, ("notify", "yes", "supervisor", "mixed"));
    assert_eq!(value("RestartForceExitStatus"), osier::exit::REBOOT.to_string());
}
