//! CRIU's log: which of its lines is the cause of a failure, said as the end of an operator's sentence.
//!
//! A line is `(SECONDS) [PID: ]LEVEL (FILE:LINE): TEXT`. The first error is the cause, and what follows it only says who gave up because
//! of it; what CRIU was about at that time stands in the lines before.

use nix::sys::signal::Signal;

/// Errors that CRIU goes on after.
const HARMLESS: [&str; 2] = [
    // It looks which of its programs are there: iptables-restore, ip6tables-restore, and both for the older tables.
    "-restore -V failed",
    // It has the limit that it was started with, which a host without CAP_SYS_RESOURCE does not let it raise.
    "Can't setup RLIMIT_NOFILE",
];

/// A task of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Its name (`comm`).
    pub name: String,
    /// Its process ID inside.
    pub inside: i32,
}

/// The cause in the log `text`, and the task that CRIU was about, of which `task` knows the name.
pub(super) fn cause(text: &str, task: &dyn Fn(i32) -> Option<Task>) -> Option<String> {
    let mut about = None;
    for line in text.lines().filter(|line| !HARMLESS.iter().any(|text| line.contains(text))) {
        let Some(line) = strip_time(line) else { continue };
        if let Some(rest) = line.strip_prefix("Dumping task (pid: ") {
            about = parse_subject(rest);
        }
        let Some(message) = error(line) else { continue };
        if let Some(stopped) = stopped(message, task) {
            return Some(stopped);
        }
        let subject = match about {
            Some((pid, name)) => {
                let inside = task(pid).map_or(pid, |task| task.inside);
                Some((Task { name: name.to_owned(), inside }, message))
            }
            None => named(message, task),
        };
        return Some(match subject {
            Some((Task { name, inside }, message)) => {
                format!("task {inside} ({name}): {}", sentence(message))
            }
            None => sentence(message),
        });
    }
    None
}

/// The task whose number stands at the end of the message, and the message without it: "… for 1234".
fn named<'a>(message: &'a str, task: &dyn Fn(i32) -> Option<Task>) -> Option<(Task, &'a str)> {
    let (rest, last) = message.rsplit_once(' ')?;
    let task = task(last.parse().ok()?)?;
    Some((task, rest.trim_end_matches(" for").trim_end_matches(" of")))
}

/// A task that its terminal has stopped: once its parent has waited for it, no file of /proc says by what.
fn stopped(message: &str, task: &dyn Fn(i32) -> Option<Task>) -> Option<String> {
    let (pid, signal) = message.strip_prefix("SEIZE ")?.split_once(": unsupported stop signal ")?;
    let signal = Signal::try_from(signal.parse::<i32>().ok()?).ok()?;
    let Task { name, inside } = task(pid.parse().ok()?)?;
    Some(format!("task {inside} ({name}): it was stopped by its terminal ({signal})"))
}

fn strip_time(line: &str) -> Option<&str> {
    let (time, rest) = line.strip_prefix('(')?.split_once(')')?;
    time.starts_with(|char: char| char.is_ascii_digit()).then(|| rest.trim_start())
}

/// `PID comm: NAME)`.
fn parse_subject(text: &str) -> Option<(i32, &str)> {
    let (pid, rest) = text.split_once(" comm: ")?;
    Some((pid.parse().ok()?, rest.trim_end().strip_suffix(')')?))
}

/// The text of an error's line.
fn error(line: &str) -> Option<&str> {
    let (_, text) = line.split_once("Error (")?;
    text.split_once("): ").map(|(_, text)| text.trim())
}

/// CRIU's text as it stands in a sentence: lower case at its beginning.
pub(super) fn sentence(text: &str) -> String {
    let mut chars = text.chars().filter(|char| !char.is_control());
    let mut second = text.chars().skip(1);
    match chars.next() {
        // Not a name in capitals.
        Some(first) if second.next().is_some_and(char::is_lowercase) => {
            first.to_lowercase().chain(chars).collect()
        }
        Some(first) => std::iter::once(first).chain(chars).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(pid: i32) -> Option<Task> {
        (pid == 3001).then(|| Task { name: "sleep".to_owned(), inside: 25 })
    }

    #[test]
    fn the_first_error_that_matters_is_the_cause_and_its_task_is_named() {
        for (text, expected) in [
            (
                "(00.000110) Version: 4.1.1 (gitid 0)\n\
                 (00.005200) Error (criu/util.c:1533): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted\n\
                 (00.006100) Error (criu/util.c:1722): ip6tables-legacy-restore -V failed\n\
                 (00.026904) Dumping task (pid: 3001 comm: my (odd) name)\n\
                 (00.027087) Error (criu/files-reg.c:1790): Can't lookup mount=24 for fd=10 path=/dev/null\n\
                 (00.027097) Error (criu/cr-dump.c:1681): Dump files (pid: 3001) failed with -1\n",
                Some("task 25 (my (odd) name): can't lookup mount=24 for fd=10 path=/dev/null"),
            ),
            (
                "(00.021595) Error (criu/namespaces.c:460): Can't dump nested uts namespace for 3001\n",
                Some("task 25 (sleep): can't dump nested uts namespace"),
            ),
            (
                "(00.15)     10: Error (criu/cgroup.c:1322): cg: No set 1 found\n\
                 (00.15)      1: Error (criu/cr-restore.c:1258): 10 exited, status=1\n",
                Some("cg: No set 1 found"),
            ),
            (
                "(00.012) Error (compel/src/lib/infect.c:418): SEIZE 3001: unsupported stop signal 21\n",
                Some("task 25 (sleep): it was stopped by its terminal (SIGTTIN)"),
            ),
            ("(00.1) Error (criu/a.c:1): TCP is not\u{1b}[2J it", Some("TCP is not[2J it")),
            ("(00.1) Dumping finished successfully\n", None),
            ("", None),
        ] {
            assert_eq!(cause(text, &task).as_deref(), expected, "{text}");
        }
    }
}
