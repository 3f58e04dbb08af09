use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::termios::OptionalActions;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// A pty and a hold on its slave, as a machine has.
fn open_pty() -> (OwnedFd, OwnedFd) {
    let pty = pty::open().unwrap();
    let slave = pty::open_peer(&pty.master).unwrap();
    (pty.master, slave)
}

fn make_raw(slave: &OwnedFd) {
    let mut attributes = rustix::termios::tcgetattr(slave).unwrap();
    attributes.make_raw();
    rustix::termios::tcsetattr(slave, OptionalActions::Now, &attributes).unwrap();
}

fn pipe() -> (File, File) {
    let (read_end, write_end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    (File::from(read_end), File::from(write_end))
}

/// Runs `script` with the slave as all three streams and its controlling terminal.
fn shell(script: &str, slave: OwnedFd) -> Child {
    let copy = || Stdio::from(slave.try_clone().unwrap());
    let mut command = Command::new("setsid");
    command.args(["--ctty", "--wait", "sh", "-c", script]).stdin(copy()).stdout(copy()).stderr(copy());
    command.spawn().unwrap()
}

/// One poll(2), at most a fifth of a second, and what happened then.
fn turn(forwarder: &mut Forwarder) -> Vec<Event> {
    let mut set: Vec<_> = forwarder.interest().collect();
    poll(&mut set, 200u8).unwrap();
    drop(set);
    std::iter::from_fn(|| forwarder.turn().unwrap()).collect()
}

/// Turns until `done`, collecting events.
fn turn_until(forwarder: &mut Forwarder, mut done: impl FnMut(&[Event]) -> bool) -> Vec<Event> {
    let (start, mut events) = (Instant::now(), Vec::new());
    while !done(&events) {
        assert!(start.elapsed() < PATIENCE, "nothing came of it; events so far: {events:?}");
        events.extend(turn(forwarder));
    }
    events
}

/// Reads `from` to its end in another thread, `pause` between reads.
fn collect(mut from: File, pause: Duration) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let (mut all, mut piece) = (Vec::new(), vec![0; 16 * 1024]);
        while let Ok(count @ 1..) = from.read(&mut piece) {
            all.extend_from_slice(&piece[..count]);
            std::thread::sleep(pause);
        }
        sender.send(all)
    });
    receiver
}

/// A descriptor that never becomes readable, and what keeps it so.
fn never() -> (File, File) {
    pipe()
}

fn connected(input: Option<&File>, output: Option<&File>) -> (Forwarder, OwnedFd) {
    let (master, slave) = open_pty();
    let ends = Ends::new(input.map(AsFd::as_fd), output.map(AsFd::as_fd)).unwrap();
    let mut forwarder = Forwarder::new(ends);
    forwarder.connect(master).unwrap();
    (forwarder, slave)
}

#[test]
fn no_byte_is_lost_or_doubled_when_the_reader_is_slow() {
    let pattern: Vec<u8> = (0..5_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (output, caller) = pipe();
    let (mut forwarder, slave) = connected(None, Some(&caller));
    drop(caller);
    make_raw(&slave);
    let mut source = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::from(slave)).spawn().unwrap();
    let mut feed = source.stdin.take().unwrap();
    let bytes = pattern.clone();
    let feeder = std::thread::spawn(move || feed.write_all(&bytes).unwrap());
    let seen = collect(output, Duration::from_millis(1));
    while source.try_wait().unwrap().is_none() {
        assert_eq!(turn(&mut forwarder), []);
    }
    feeder.join().unwrap();
    let (stop, _keep) = never();
    assert_eq!(forwarder.drain(stop.as_fd()).unwrap(), Drained::All);
    drop(forwarder);
    let seen = seen.recv_timeout(PATIENCE).unwrap();
    assert_eq!(seen.len(), pattern.len());
    assert!(seen == pattern, "same length, other bytes");
}

#[test]
fn a_reader_that_stands_still_stops_the_payload_and_drain_can_be_interrupted() {
    let (output, caller) = pipe();
    let (mut forwarder, slave) = connected(None, Some(&caller));
    make_raw(&slave);
    let mut payload = Command::new("cat").arg("/dev/zero").stdout(Stdio::from(slave)).spawn().unwrap();
    let start = Instant::now();
    while forwarder.outbound.room() > 0 && start.elapsed() < PATIENCE {
        turn(&mut forwarder);
    }
    turn(&mut forwarder);
    let wanted: Vec<_> = forwarder.interest().map(|fd| fd.events()).collect();
    assert_eq!(wanted, [PollFlags::POLLOUT], "a full queue must not be read into");
    assert_eq!(payload.try_wait().unwrap(), None);
    let (stop, mut keep) = never();
    keep.write_all(b"!").unwrap();
    assert_eq!(forwarder.drain(stop.as_fd()).unwrap(), Drained::Interrupted);
    payload.kill().unwrap();
    payload.wait().unwrap();
    drop(output);
}

#[test]
fn when_the_reader_goes_the_payload_goes_on() {
    let (output, caller) = pipe();
    drop(output);
    let (mut forwarder, slave) = connected(None, Some(&caller));
    make_raw(&slave);
    let script = "head -c 1000000 /dev/zero";
    let mut payload = Command::new("sh").args(["-c", script]).stdout(Stdio::from(slave)).spawn().unwrap();
    let events = turn_until(&mut forwarder, |_| payload.try_wait().unwrap().is_some());
    assert_eq!(events, [Event::ReaderGone(Errno::EPIPE)]);
    let (stop, _keep) = never();
    assert_eq!(forwarder.drain(stop.as_fd()).unwrap(), Drained::ReaderGone);
}

#[test]
fn what_is_typed_reaches_the_payload_and_its_answer_the_user() {
    let (input, mut user) = pipe();
    let (output, caller) = pipe();
    let (mut forwarder, slave) = connected(Some(&input), Some(&caller));
    drop(caller);
    let mut payload = shell("stty -echo; echo ready; read line; echo \"got $line\"", slave);
    user.write_all(b"osier\n").unwrap();
    turn_until(&mut forwarder, |_| payload.try_wait().unwrap().is_some());
    let (stop, _keep) = never();
    assert_eq!(forwarder.drain(stop.as_fd()).unwrap(), Drained::All);
    drop(forwarder);
    let seen = collect(output, Duration::ZERO).recv_timeout(PATIENCE).unwrap();
    let seen = String::from_utf8(seen).unwrap();
    assert!(seen.ends_with("got osier\r\n"), "{seen:?}");
}

#[test]
fn escapes_are_reported_and_the_rest_is_passed_on() {
    let (input, mut user) = pipe();
    let (mut forwarder, slave) = connected(Some(&input), None);
    make_raw(&slave);
    user.write_all(b"a\x1d\x1dpb\x1d\x1drc").unwrap();
    let events = turn_until(&mut forwarder, |events| events.len() == 2);
    assert_eq!(events, [Event::Request(Request::PowerOff), Event::Request(Request::Reboot)]);
    let mut seen = [0; 64];
    let count = stream::read(&slave, &mut seen).unwrap();
    assert_eq!(&seen[..count], b"a\x1d\x1db\x1d\x1dc");
}

#[test]
fn after_a_detach_nothing_is_read_and_the_ends_are_let_go() {
    let (mut input, mut user) = pipe();
    let (output, caller) = pipe();
    let (mut forwarder, slave) = connected(Some(&input), Some(&caller));
    drop(caller);
    user.write_all(b"\x1d\x1ddrest").unwrap();
    let events = turn_until(&mut forwarder, |events| !events.is_empty());
    assert_eq!(events, [Event::Request(Request::Detach)]);
    user.write_all(b"next").unwrap();
    assert_eq!(turn(&mut forwarder), []);
    forwarder.detach();
    let mut next = [0; 4];
    input.read_exact(&mut next).unwrap();
    assert_eq!(&next, b"next");
    // The caller's reader sees the end, the payload is still emptied.
    collect(output, Duration::ZERO).recv_timeout(PATIENCE).unwrap();
    make_raw(&slave);
    let script = "head -c 1000000 /dev/zero";
    let mut payload = Command::new("sh").args(["-c", script]).stdout(Stdio::from(slave)).spawn().unwrap();
    let events = turn_until(&mut forwarder, |_| payload.try_wait().unwrap().is_some());
    assert_eq!(events, []);
}

#[test]
fn while_paused_what_is_typed_stays_where_it_is() {
    let (mut input, mut user) = pipe();
    let (mut forwarder, _slave) = connected(Some(&input), None);
    forwarder.set_flow(Flow::Paused);
    user.write_all(b"ls").unwrap();
    assert_eq!(turn(&mut forwarder), []);
    let mut there = [0; 2];
    input.read_exact(&mut there).unwrap();
    assert_eq!(&there, b"ls");
}

#[test]
fn the_end_of_a_piped_input_ends_a_payload_that_reads_lines() {
    for text in ["whole\n", "part", ""] {
        let (input, mut user) = pipe();
        let (output, caller) = pipe();
        let (mut forwarder, slave) = connected(Some(&input), Some(&caller));
        drop(caller);
        user.write_all(text.as_bytes()).unwrap();
        drop(user);
        let mut payload = shell("cat >/dev/null; echo over", slave);
        let events = turn_until(&mut forwarder, |_| payload.try_wait().unwrap().is_some());
        assert_eq!(events, [Event::InputEnded], "{text:?}");
        let (stop, _keep) = never();
        assert_eq!(forwarder.drain(stop.as_fd()).unwrap(), Drained::All);
        drop(forwarder);
        let seen = collect(output, Duration::ZERO).recv_timeout(PATIENCE).unwrap();
        assert!(seen.ends_with(b"over\r\n"), "{text:?}: {:?}", String::from_utf8_lossy(&seen));
    }
}

/// Whether poll(2) has nothing to wake up for.
fn is_quiet(forwarder: &mut Forwarder) -> bool {
    while forwarder.turn().unwrap().is_some() {}
    let mut set: Vec<_> = forwarder.interest().collect();
    poll(&mut set, 50u8).unwrap() == 0
}

#[test]
fn files_and_devices_without_an_end_to_wait_for_do_not_spin() {
    let null = File::options().read(true).write(true).open("/dev/null").unwrap();
    let (mut forwarder, _slave) = connected(Some(&null), Some(&null));
    assert_eq!(turn(&mut forwarder), [Event::InputEnded]);
    turn(&mut forwarder);
    assert!(is_quiet(&mut forwarder));
    let file = File::open("/proc/self/exe").unwrap();
    let (mut forwarder, _slave) = connected(Some(&file), Some(&null));
    // A payload that does not read: what fits is written, the rest waits.
    let start = Instant::now();
    while !is_quiet(&mut forwarder) {
        assert!(start.elapsed() < PATIENCE, "still spinning");
    }
    assert!(forwarder.ends.input.is_some() && !forwarder.inbound.is_empty());
}

#[test]
fn a_hung_up_terminal_is_the_end_of_input_and_does_not_spin() {
    let (terminal, user) = open_pty();
    let user = File::from(user);
    let (mut forwarder, _slave) = connected(Some(&user), Some(&user));
    drop(terminal);
    let events = turn_until(&mut forwarder, |events| !events.is_empty());
    assert_eq!(events, [Event::InputEnded]);
    assert!(is_quiet(&mut forwarder));
}

#[test]
fn a_slave_that_everybody_closes_is_no_end_and_does_not_spin() {
    let (output, caller) = pipe();
    let (mut forwarder, slave) = connected(None, Some(&caller));
    drop(caller);
    let path = rustix::termios::ttyname(&slave, Vec::new()).unwrap().into_string().unwrap();
    assert!(shell("echo first", slave).wait().unwrap().success());
    assert!(is_quiet(&mut forwarder));
    // A getty starts with vhangup(2), which pulls the slave from under everybody who has it open.
    let hang_up = "open(my $tty, '+<', $ARGV[0]) or die; ioctl($tty, 0x5437, 0) or die \"TIOCVHANGUP: $!\"";
    assert!(Command::new("perl").args(["-e", hang_up, &path]).status().unwrap().success());
    assert!(is_quiet(&mut forwarder));
    let again = File::options().read(true).write(true).open(&path).unwrap();
    assert!(shell("echo second", OwnedFd::from(again)).wait().unwrap().success());
    let (stop, _keep) = never();
    assert_eq!(forwarder.drain(stop.as_fd()).unwrap(), Drained::All);
    drop(forwarder);
    let seen = collect(output, Duration::ZERO).recv_timeout(PATIENCE).unwrap();
    assert_eq!(String::from_utf8(seen).unwrap(), "first\r\nsecond\r\n");
}

#[test]
fn the_window_size_follows_the_caller_s_terminal() {
    let (terminal, user) = open_pty();
    let user = File::from(user);
    let size = |rows, columns| Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    pty::set_window_size(&terminal, size(50, 132)).unwrap();
    let (forwarder, slave) = connected(Some(&user), Some(&user));
    let seen = || pty::window_size(&slave).map(|size| (size.ws_row, size.ws_col)).unwrap();
    assert_eq!(seen(), (50, 132));
    pty::set_window_size(&terminal, size(20, 70)).unwrap();
    forwarder.follow_window().unwrap();
    assert_eq!(seen(), (20, 70));
}

#[test]
fn without_a_terminal_the_window_is_80_by_24() {
    let (_forwarder, slave) = connected(None, None);
    let size = pty::window_size(&slave).unwrap();
    assert_eq!((size.ws_col, size.ws_row), (80, 24));
}

#[test]
fn the_next_machine_s_pty_takes_the_place_of_the_last() {
    let (input, mut user) = pipe();
    let (mut forwarder, slave) = connected(Some(&input), None);
    make_raw(&slave);
    let (master, next) = open_pty();
    make_raw(&next);
    forwarder.connect(master).unwrap();
    user.write_all(b"hello").unwrap();
    turn(&mut forwarder);
    let mut seen = [0; 16];
    assert_eq!(stream::read(&next, &mut seen).unwrap(), 5);
}
