//! A way to another osier that breaks where a test wants it to: the test program itself, started again in ssh's place.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Says the cut to the carrier: "DIRECTION WORD WHEN".
const CUT: &str = "OSIER_TEST_CUT";
/// Is there once it has been cut: later links are whole.
const DONE: &str = "OSIER_TEST_CUT_DONE";

/// Where the link breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    /// "up": what the source says. "down": what the target says.
    pub(crate) direction: &'static str,
    /// The word, as its JSON begins.
    pub(crate) word: &'static str,
    /// "before" and "after" that word, "within" the frame after it; "pause" does not break it: the word is not carried
    /// until the test has removed the file `cut`.
    pub(crate) when: &'static str,
}

/// Writes into `directory` what `--ssh=` is to be: it runs the command on this host; `relay` is the name of the test that calls
/// [`relay`].
pub(crate) fn script(directory: &Path, relay: &str, cut: Option<Cut>) -> PathBuf {
    let path = directory.join("ssh");
    let text = match cut {
        None => "#!/bin/sh\nshift 2\nexec sh -c \"$1\"\n".to_owned(),
        Some(Cut { direction, word, when }) => format!(
            "#!/bin/sh\n# The test harness writes to standard output.\nexec 3<&0 4>&1 >/dev/null </dev/null\n\
             export {CUT}='{direction} {word} {when}' {DONE}='{}' OSIER_TEST_COMMAND=\"$3\"\n\
             exec '{}' --exact {relay} --nocapture\n",
            directory.join("cut").display(),
            std::env::current_exe().unwrap().display()
        ),
    };
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// The carrier, if this process was started as one; it does not come back then.
#[expect(clippy::exit, reason = "the test harness is not to say how it went")]
pub(crate) fn relay() {
    let (Ok(cut), Ok(done)) = (std::env::var(CUT), std::env::var(DONE)) else { return };
    let words: Vec<_> = cut.split(' ').map(str::to_owned).collect();
    let whole = Path::new(&done).exists();
    let command = std::env::var("OSIER_TEST_COMMAND").unwrap();
    let mut target = Command::new("sh")
        .args(["-c", &format!("exec 3<&- 4>&-; exec {command}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let from = fs::File::open("/proc/self/fd/3").unwrap();
    let to = fs::File::options().write(true).open("/proc/self/fd/4").unwrap();
    fs::write(Path::new(&done).with_file_name("target"), target.id().to_string()).unwrap();
    let (target_in, target_out) = (target.stdin.take().unwrap(), target.stdout.take().unwrap());
    let cut = |direction: &str| {
        (!whole && words[0] == direction).then(|| (words[1].clone(), words[2].clone(), PathBuf::from(&done)))
    };
    let (up, down) = (cut("up"), cut("down"));
    std::thread::spawn(move || carry(from, target_in, up));
    carry(target_out, to, down);
    let _ = target.wait();
    std::process::exit(0);
}

/// Carries frame by frame: kind, length (4 bytes at 4), number; content; sum.
#[expect(clippy::exit, reason = "nothing of the link is to be left")]
fn carry(mut from: impl Read, mut to: impl Write, cut: Option<(String, String, PathBuf)>) {
    const HEADER: usize = 16;
    const SUM: usize = 16;
    let break_off = || {
        let (_, _, done) = cut.as_ref().unwrap();
        fs::write(done, "").unwrap();
        std::process::exit(0);
    };
    let mut greeting = [0; 16];
    if from.read_exact(&mut greeting).is_err() || to.write_all(&greeting).is_err() {
        return;
    }
    let mut within = false;
    loop {
        let mut frame = vec![0; HEADER];
        if from.read_exact(&mut frame).is_err() {
            return;
        }
        let length = u32::from_le_bytes(frame[4..8].try_into().unwrap()) as usize;
        frame.resize(HEADER + length + SUM, 0);
        if from.read_exact(&mut frame[HEADER..]).is_err() {
            return;
        }
        if within {
            let _ = to.write_all(&frame[..frame.len() / 2]).and_then(|()| to.flush());
            break_off();
        }
        let is_word = |word: &str| frame[0] == 1 && frame[HEADER..].starts_with(word.as_bytes());
        if is_word("{\"Pages\":{") {
            // Memory that is fetched takes a while, so that some of it is still to come when the machine runs.
            std::thread::sleep(std::time::Duration::from_millis(60));
        }
        let when = cut.as_ref().filter(|(word, ..)| is_word(word)).map(|(_, when, _)| when.as_str());
        if when == Some("before") {
            break_off();
        }
        if when == Some("pause") {
            let (_, _, done) = cut.as_ref().unwrap();
            fs::write(done, "").unwrap();
            while done.exists() {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
        if to.write_all(&frame).and_then(|()| to.flush()).is_err() {
            return;
        }
        if when == Some("after") {
            break_off();
        }
        within = when == Some("within");
    }
}
