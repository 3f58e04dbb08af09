use std::fs::File;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use rustix::termios::OptionalActions;

use super::super::pty;
use super::*;

/// A terminal: its far side (where its user sits), and its slave.
fn terminal() -> (File, File) {
    let made = pty::open().unwrap();
    let slave = pty::open_peer(&made.master).unwrap();
    let mut attributes = rustix::termios::tcgetattr(&slave).unwrap();
    attributes.make_raw();
    rustix::termios::tcsetattr(&slave, OptionalActions::Now, &attributes).unwrap();
    (File::from(made.master), File::from(slave))
}

fn pipe() -> (File, File) {
    let (read_end, write_end) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap();
    (File::from(read_end), File::from(write_end))
}

/// Turns and reads `user` (nonblocking) until `count` bytes came.
fn seen(relay: &mut Relay, user: &mut File, count: usize) -> Vec<u8> {
    let (start, mut all) = (Instant::now(), Vec::new());
    while all.len() < count && start.elapsed() < Duration::from_secs(10) {
        let mut set: Vec<_> = relay.interest().collect();
        poll(&mut set, 10u8).unwrap();
        drop(set);
        relay.turn();
        let mut piece = [0; 4096];
        if let Ok(got) = user.read(&mut piece) {
            all.extend_from_slice(&piece[..got]);
        }
    }
    all
}

#[test]
fn no_terminal_is_given_away() {
    let (_user, slave) = terminal();
    let (streams, _relay) = Relay::open([slave.as_fd(), slave.as_fd(), slave.as_fd()]).unwrap();
    for fd in [&streams.stdin, &streams.stdout, &streams.stderr] {
        assert!(!rustix::termios::isatty(fd));
        // Nor is there one to find behind it: TIOCSTI needs an open terminal.
        assert_eq!(pty::window_size(fd).unwrap_err().raw_os_error(), Some(Errno::ENOTTY as i32));
    }
}

#[test]
fn what_is_no_terminal_is_given_as_it_is() {
    let (_user, slave) = terminal();
    let (read_end, write_end) = pipe();
    let null = File::open("/dev/null").unwrap();
    let (streams, relay) = Relay::open([null.as_fd(), write_end.as_fd(), null.as_fd()]).unwrap();
    assert_eq!(relay.interest().count(), 0);
    let inode = |fd: &dyn AsFdDyn| rustix::fs::fstat(fd.fd()).unwrap().st_ino;
    assert_eq!(inode(&streams.stdin), inode(&null));
    assert_eq!(inode(&streams.stdout), inode(&read_end));
    let (streams, _relay) = Relay::open([slave.as_fd(), write_end.as_fd(), slave.as_fd()]).unwrap();
    assert_eq!(inode(&streams.stdout), inode(&read_end));
    assert!(!rustix::termios::isatty(&streams.stderr));
}

trait AsFdDyn {
    fn fd(&self) -> BorrowedFd<'_>;
}

impl<T: AsFd> AsFdDyn for T {
    fn fd(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }
}

#[test]
fn output_and_error_of_one_terminal_keep_their_order() {
    let (mut user, slave) = terminal();
    let (streams, mut relay) = Relay::open([slave.as_fd(), slave.as_fd(), slave.as_fd()]).unwrap();
    let (mut out, mut error) = (File::from(streams.stdout), File::from(streams.stderr));
    for _ in 0..100 {
        out.write_all(b"out ").unwrap();
        error.write_all(b"err ").unwrap();
    }
    assert_eq!(seen(&mut relay, &mut user, 800), b"out err ".repeat(100));
}

#[test]
fn input_is_copied_and_its_end_passed_on() {
    let (mut user, slave) = terminal();
    let null = File::open("/dev/null").unwrap();
    let (streams, mut relay) = Relay::open([slave.as_fd(), null.as_fd(), null.as_fd()]).unwrap();
    user.write_all(b"typed").unwrap();
    relay.turn();
    let mut payload = File::from(streams.stdin);
    let mut piece = [0; 16];
    assert_eq!(payload.read(&mut piece).unwrap(), 5);
    drop(slave);
    drop(user);
    relay.turn();
    assert_eq!(payload.read(&mut piece).unwrap(), 0);
    assert_eq!(relay.interest().count(), 0);
}

#[test]
fn while_paused_the_terminal_is_not_read() {
    let (mut user, mut slave) = terminal();
    let null = File::open("/dev/null").unwrap();
    let (_streams, mut relay) = Relay::open([slave.as_fd(), null.as_fd(), null.as_fd()]).unwrap();
    relay.set_flow(Flow::Paused);
    assert_eq!(relay.interest().count(), 0);
    user.write_all(b"shell's").unwrap();
    relay.turn();
    let mut piece = [0; 16];
    assert_eq!(slave.read(&mut piece).unwrap(), 7);
}

#[test]
fn drain_brings_what_a_dead_payload_left() {
    let (mut user, slave) = terminal();
    let null = File::open("/dev/null").unwrap();
    let (streams, mut relay) = Relay::open([null.as_fd(), slave.as_fd(), null.as_fd()]).unwrap();
    let mut out = File::from(streams.stdout);
    out.write_all(&[b'x'; 60_000]).unwrap();
    drop(out);
    let rustix_flags = rustix::fs::OFlags::empty();
    rustix::fs::fcntl_setfl(&user, rustix_flags).unwrap();
    let reader = std::thread::spawn(move || {
        let (mut total, mut piece) = (0, [0; 1000]);
        while total < 60_000 {
            total += user.read(&mut piece).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
        user
    });
    let (stop, _keep) = pipe();
    assert_eq!(relay.drain(stop.as_fd()).unwrap(), Drained::All);
    reader.join().unwrap();
}

#[test]
fn when_the_terminal_goes_the_payload_is_told_as_by_any_pipe() {
    let (user, slave) = terminal();
    let null = File::open("/dev/null").unwrap();
    let (streams, mut relay) = Relay::open([null.as_fd(), slave.as_fd(), null.as_fd()]).unwrap();
    drop(user);
    let mut out = File::from(streams.stdout);
    out.write_all(b"x").unwrap();
    relay.turn();
    assert_eq!(out.write_all(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(relay.interest().count(), 0);
}
