//! What carries the bytes to the other host: ssh(1) and the like as a child, or this process's own streams.

use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::cli::Migrate;
use crate::error::{Context, Error, Result};
use crate::interrupt::Interrupt;
use crate::migration::stream::Link;

/// So long may the other end say nothing: it unpacks, and restores.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// A way to the other host, which can be gone several times.
#[derive(Debug)]
pub(super) enum Carrier {
    /// A command that leads there.
    Command(Vec<String>, Stopping),
    /// What this process was started with; once.
    Streams,
}

/// When a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopping {
    /// With ^C at the terminal, too.
    Asked,
    /// When its streams do: a machine hangs on it.
    Never,
}

/// A carrier at work. Dropped, it ends.
pub(super) struct Carried<'a> {
    /// Both directions.
    pub(super) link: Link<'a>,
    /// To be waited for after the link.
    pub(super) child: Option<Running>,
}

/// The command at work.
pub(super) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Its streams are closed: one that does not end by itself has lost its way.
        let deadline = std::time::Instant::now() + Duration::from_secs(2);
        while std::time::Instant::now() < deadline {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Carrier {
    /// The way that the options say.
    ///
    /// # Errors
    /// An empty `--ssh`.
    pub(super) fn of(options: &Migrate) -> Result<Self> {
        let Some(host) = &options.host else { return Ok(Self::Streams) };
        let mut command: Vec<_> = options.ssh.split_whitespace().map(str::to_owned).collect();
        if command.is_empty() {
            return Err(Error::usage("--ssh").because("it names no program"));
        }
        // ssh hands one text to a shell there.
        let mut there = vec![options.remote_osier.clone(), "migrate".to_owned(), "--from-pipe".to_owned()];
        let said = [
            ("--to-name", options.new_name.clone()),
            ("--tree", options.tree.as_ref().map(|path| path.display().to_string())),
            ("--clock", Some(options.clock.clone())),
            ("--criu", options.remote_criu.clone()),
        ];
        there.extend(said.into_iter().filter_map(|(flag, text)| Some(format!("{flag}={}", text?))));
        let quoted: Vec<_> = there.iter().map(|word| quote(word)).collect();
        command.extend(["--".to_owned(), host.clone(), quoted.join(" ")]);
        Ok(Self::Command(command, if options.postcopy { Stopping::Never } else { Stopping::Asked }))
    }

    /// What it is called in an error.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Command(command, _) => format!("'{}'", command[..command.len() - 1].join(" ")),
            Self::Streams => "standard input and output".to_owned(),
        }
    }

    /// Whether it can be gone once more.
    pub(super) fn can_repeat(&self) -> bool {
        matches!(self, Self::Command(..))
    }

    /// Goes it.
    ///
    /// # Errors
    /// When the command cannot be started.
    pub(super) fn go<'a>(&self, interrupt: Option<&'a Interrupt>) -> Result<Carried<'a>> {
        let Self::Command(command, stopping) = self else {
            let own = |fd: std::io::Result<OwnedFd>| fd.context(|| "cannot use standard input and output");
            let from = own(std::io::stdin().as_fd().try_clone_to_owned())?;
            let to = own(std::io::stdout().as_fd().try_clone_to_owned())?;
            return Ok(Carried { link: Link::over(from, to, PATIENCE, interrupt), child: None });
        };
        let mut started = match stopping {
            Stopping::Asked => Command::new(&command[0]),
            Stopping::Never => {
                // ssh leaves ignored what was ignored when it started.
                let mut shell = Command::new("/bin/sh");
                shell.args(["-c", "trap '' INT HUP; exec \"$@\"", "sh", &command[0]]);
                shell
            }
        };
        let mut child = started
            .args(&command[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context(|| format!("cannot start '{}'", command[0]))?;
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::new(crate::error::Kind::Failed, "cannot talk to a child"));
        };
        let link = Link::over(from.into(), to.into(), PATIENCE, interrupt);
        Ok(Carried { link, child: Some(Running(child)) })
    }
}

/// As a word of a POSIX shell.
fn quote(word: &str) -> String {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "-_=./:,@%+".contains(char);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_the_other_shell_as_they_are() {
        for word in ["osier", "--tree=/a b", "it's", "$HOME", "", "a\nb"] {
            let out =
                Command::new("sh").args(["-c", &format!("printf %s {}", quote(word))]).output().unwrap();
            assert_eq!(String::from_utf8(out.stdout).unwrap(), word);
        }
    }
}
