use std::fs;
use std::io::{self, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::files::send;
use super::*;
use crate::checkpoint::listing::{Depth, Listing};
use crate::checkpoint::{Draft, Form, Manifest, Unwatched, example};
use crate::criu::images::{MOST, page};
use crate::error::Kind;
use crate::migration::stream::Link;
use crate::testdir::TestDir;

const PATIENCE: Duration = Duration::from_secs(5);

fn link(from: impl Into<OwnedFd>, to: impl Into<OwnedFd>) -> Link<'static> {
    Link::over(from.into(), to.into(), PATIENCE, None)
}

/// What happens to the bytes on their way.
#[derive(Clone, Copy)]
enum Mishap {
    None,
    /// The link ends after so many.
    Cut(u64),
    /// A bit of this byte is another one.
    Flip(u64),
}

/// Carries bytes from one end to the other until the link ends; gives how many they were.
fn carry(mishap: Mishap) -> (OwnedFd, PipeWriter, JoinHandle<u64>) {
    let (mut from, to_carry) = io::pipe().unwrap();
    let (carried, mut to) = io::pipe().unwrap();
    let carrying = thread::spawn(move || {
        let (mut count, mut piece) = (0_u64, [0; 4096]);
        loop {
            let most = match mishap {
                Mishap::Cut(at) => usize::try_from(at - count).unwrap().min(piece.len()),
                _ => piece.len(),
            };
            let Ok(read @ 1..) = from.read(&mut piece[..most]) else { return count };
            if let Mishap::Flip(at) = mishap
                && (count..count + read as u64).contains(&at)
            {
                piece[usize::try_from(at - count).unwrap()] ^= 16;
            }
            if to.write_all(&piece[..read]).is_err() {
                return count;
            }
            count += read as u64;
        }
    });
    (carried.into(), to_carry, carrying)
}

/// Both ends of a link with a mishap in one of its directions, and who carries it.
struct Ends {
    source: Link<'static>,
    target: Link<'static>,
    carrying: [JoinHandle<u64>; 2],
}

fn ends(there: Mishap, back: Mishap) -> Ends {
    let (to_target, from_source, one) = carry(there);
    let (to_source, from_target, other) = carry(back);
    Ends {
        source: link(to_source, from_source),
        target: link(to_target, from_target),
        carrying: [one, other],
    }
}

/// Where the machine is at the end, as one side knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Machine {
    Runs,
    /// Not here.
    Elsewhere,
    Undecided,
}

struct Given {
    dir: TestDir,
    manifest: Manifest,
    listing: Listing,
}

impl Given {
    fn new(name: &str) -> Self {
        let dir = TestDir::new(name);
        let draft = Draft::begin(&dir.join("checkpoint"), Form::Directory).unwrap();
        fs::write(draft.images().join("pages-1.img"), vec![7; 600_000]).unwrap();
        fs::write(draft.images().join("core-1.img"), "").unwrap();
        fs::write(draft.round(1).unwrap().join("pages-1.img"), "before").unwrap();
        let mut manifest = example();
        draft.complete(&mut manifest, &mut Unwatched).unwrap();
        let listing = Listing::read(&dir.join("checkpoint"), Depth::Quick, &mut Unwatched).unwrap();
        fs::create_dir(dir.join("target")).unwrap();
        Self { dir, manifest, listing }
    }

    fn hello(&self) -> Hello {
        Hello::new("web", self.manifest.id, HostMark::default())
    }

    /// As a source does it.
    fn send(&self, link: Link<'_>) -> Result<Machine, Broken> {
        let directory = self.dir.join("checkpoint");
        let (offering, welcome) = Calling::new(link).hello(&self.hello())?;
        assert_eq!(welcome.osier, env!("CARGO_PKG_VERSION"));
        let (offering, wanted) = offering.listing(&self.listing)?;
        assert!(wanted.contains(Path::new("images")) && wanted.contains(Path::new("")));
        let fill =
            |out: &mut dyn Write| out.write_all(&[9; 5000]).map_err(|error| Error::io("cannot pack", &error));
        let (offering, ()) = offering.tree(fill)?;
        let files: Vec<_> = self
            .manifest
            .files
            .iter()
            .filter(|file| file.name.as_str() == "round-1/pages-1.img")
            .cloned()
            .collect();
        let sent = offering.round(1, &files, &directory)?.frozen()?.images(&self.manifest, &directory)?;
        match sent.restored(&|_| panic!("all of it was sent"))?.go() {
            Ok(()) => Ok(Machine::Elsewhere),
            Err(NotTaken::Back(_)) => Ok(Machine::Runs),
            Err(NotTaken::Undecided(_) | NotTaken::Lost(_)) => Ok(Machine::Undecided),
        }
    }

    fn place(&self) -> PathBuf {
        let place = self.dir.join("target");
        fs::remove_dir_all(&place).unwrap();
        for name in ["images", "round-1"] {
            fs::create_dir_all(place.join(name)).unwrap();
        }
        place
    }
}

/// As a target does it.
fn take(link: Link<'_>, place: &Path) -> Result<Machine, Broken> {
    let Call::Hello(greeted, hello) = Listening::new(link).call()? else { panic!("it was asked") };
    assert_eq!(hello.name, "web");
    let mut receiving = greeted.welcome(HostMark::default())?;
    let mut restoring = loop {
        receiving = match receiving.next()? {
            Next::Listing(lacking, listing) => {
                let none = Listing::default();
                let wanted = none.difference(&listing).wanted(&listing);
                lacking.wanted(wanted.iter().map(PathBuf::as_path))?
            }
            Next::Tree(unpacking) => {
                let take = |from: &mut dyn Read| {
                    let mut all = Vec::new();
                    from.read_to_end(&mut all).map_err(|error| Error::io("cannot unpack", &error))?;
                    Ok(all)
                };
                let (receiving, taken) = unpacking.take(take)?;
                assert_eq!(taken, [9; 5000]);
                receiving
            }
            Next::Round(storing, 1) => storing.store(place)?,
            Next::Round(..) => panic!("no such round"),
            Next::Frozen(receiving) => receiving,
            Next::Images(loading, _) => break loading.store(place)?,
        };
    };
    restoring.alive()?;
    // From here on it runs, whether the source hears of it or not.
    let _ = restoring.restored()?.running();
    Ok(Machine::Runs)
}

/// Both sides, and how many bytes went there and back.
fn migrate(
    given: &Given,
    there: Mishap,
    back: Mishap,
) -> (Result<Machine, Broken>, Result<Machine, Broken>, [u64; 2]) {
    let Ends { source, target, carrying } = ends(there, back);
    let place = given.place();
    let (sent, taken) = thread::scope(|scope| {
        let taking = scope.spawn(|| take(target, &place));
        (given.send(source), taking.join().unwrap())
    });
    (sent, taken, carrying.map(|carrying| carrying.join().unwrap()))
}

#[test]
fn a_machine_moves() {
    let given = Given::new("migration-moves");
    let (sent, taken, _) = migrate(&given, Mishap::None, Mishap::None);
    assert_eq!((sent.unwrap(), taken.unwrap()), (Machine::Elsewhere, Machine::Runs));
    for file in ["images/pages-1.img", "images/core-1.img", "round-1/pages-1.img"] {
        let content = |place: &str| fs::read(given.dir.join(place).join(file)).unwrap();
        assert_eq!(content("checkpoint"), content("target"), "{file}");
    }
}

/// In every case it runs on one side, or the source knows that it has to ask.
#[test]
fn a_link_that_breaks_anywhere_never_lets_two_run() {
    let given = Given::new("migration-cut");
    let (_, _, [there, back]) = migrate(&given, Mishap::None, Mishap::None);
    let mut state = 11_u64;
    let mut next = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 20) % below
    };
    let mut undecided = 0;
    for number in 0..120 {
        // The words stand at the ends.
        let at = |length: u64, random: u64| match number % 3 {
            0 => length - 1 - random % 200,
            1 => random % 4000 % length,
            _ => random,
        };
        let (there, back) = match number % 4 {
            0 => (Mishap::Cut(at(there, next(there))), Mishap::None),
            1 => (Mishap::Flip(at(there, next(there))), Mishap::None),
            2 => (Mishap::None, Mishap::Cut(at(back, next(back)))),
            _ => (Mishap::None, Mishap::Flip(at(back, next(back)))),
        };
        let (sent, taken, _) = migrate(&given, there, back);
        let source = sent.as_ref().map_or(Machine::Runs, |machine| *machine);
        let target = taken.as_ref().map_or(Machine::Elsewhere, |machine| *machine);
        let well = match (source, target) {
            (Machine::Runs, Machine::Elsewhere) => true,
            (Machine::Undecided, _) => {
                undecided += 1;
                true
            }
            _ => false,
        };
        assert!(well, "{number}: {sent:?} {taken:?}");
    }
    assert!(undecided > 0, "no cut was late enough");
}

#[test]
fn what_fails_at_the_target_is_read_at_the_source() {
    let given = Given::new("migration-target");
    let error =
        Error::new(Kind::Failed, "cannot store 'pages-1.img'").because("no space left").hint("make room");
    let talk = |target: &(dyn Fn(Link<'static>) + Sync)| {
        let Ends { source, target: link, .. } = ends(Mishap::None, Mishap::None);
        thread::scope(|scope| {
            scope.spawn(move || target(link));
            given.send(source)
        })
    };
    let greeted = |link| match Listening::new(link).call().unwrap() {
        Call::Hello(greeted, _) => greeted,
        Call::Ask(..) => panic!("it was asked"),
    };
    let refused = talk(&|link| greeted(link).fail(&error)).unwrap_err();
    let said = refused.into_error("cannot migrate 'web'");
    assert_eq!(said.to_string(), "cannot migrate 'web': cannot store 'pages-1.img': no space left");
    assert_eq!(said.hint_text(), Some("make room"));
    // In the middle of what the source sends.
    let refused = talk(&|link| {
        let receiving = greeted(link).welcome(HostMark::default()).unwrap();
        let Next::Listing(lacking, listing) = receiving.next().unwrap() else { panic!("no listing") };
        let paths: Vec<_> = Listing::default().difference(&listing).added;
        let receiving = lacking.wanted(paths.iter().map(PathBuf::as_path)).unwrap();
        let Next::Tree(unpacking) = receiving.next().unwrap() else { panic!("no tree") };
        unpacking.take(|_| Err::<(), _>(error.clone())).unwrap_err();
    });
    assert!(matches!(&refused, Err(Broken::Link(LinkError::There(there))) if *there == error), "{refused:?}");
    // A target that cannot let it go says so, and the source has it back.
    let place = given.place();
    let back = talk(&|link| {
        let mut receiving = greeted(link).welcome(HostMark::default()).unwrap();
        let restoring = loop {
            receiving = match receiving.next().unwrap() {
                Next::Listing(lacking, listing) => {
                    let paths: Vec<_> = Listing::default().difference(&listing).added;
                    lacking.wanted(paths.iter().map(PathBuf::as_path)).unwrap()
                }
                Next::Tree(unpacking) => unpacking.take(|_| Ok(())).unwrap().0,
                Next::Round(storing, _) => storing.store(&place).unwrap(),
                Next::Frozen(receiving) => receiving,
                Next::Images(loading, _) => break loading.store(&place).unwrap(),
            };
        };
        restoring.restored().unwrap().fail(&error);
    });
    assert_eq!(back.unwrap(), Machine::Runs);
    // What the source sends is not what it said: the target does not take it.
    let pages = given.dir.join("checkpoint/images/pages-1.img");
    fs::write(&pages, vec![8; 600_000]).unwrap();
    let (sent, taken, _) = migrate(&given, Mishap::None, Mishap::None);
    assert!(matches!(sent, Err(Broken::Here(_))) && matches!(taken, Err(Broken::Link(LinkError::There(_)))));
}

#[test]
fn another_version_and_another_program_are_told() {
    let given = Given::new("migration-foreign");
    let mut hello = given.hello();
    (hello.protocol, hello.osier) = (7, "9.0".to_owned());
    let Ends { source, target, .. } = ends(Mishap::None, Mishap::None);
    let taking = thread::spawn(|| Listening::new(target).call().map(drop));
    let error = Calling::new(source).hello(&hello).unwrap_err().into_error("cannot migrate 'web'");
    let text = error.to_string();
    assert!(
        text.contains("the source has osier 9.0 (protocol 7") && text.contains("the target has osier"),
        "{text}"
    );
    assert_eq!(error.hint_text(), Some("both hosts need the same version of osier"));
    assert!(matches!(taking.join().unwrap(), Err(Broken::Here(_))));
    for (said, wanted) in [
        ("Welcome to web!\nLast login: never\n", "the other end is no osier: it said 'Welcome to web!'"),
        ("osier: command not found", "the other end is no osier: it said 'osier: command not found'"),
        ("osier mig", "the other end is no osier: it said 'osier mig'"),
        ("", "the link ended before anything came"),
    ] {
        let (from, mut to) = io::pipe().unwrap();
        to.write_all(said.as_bytes()).unwrap();
        drop(to);
        let (_kept, away) = io::pipe().unwrap();
        let error = Calling::new(link(from, away)).hello(&given.hello()).unwrap_err();
        assert_eq!(error.to_string(), wanted);
        assert!(error.into_error("cannot migrate 'web'").hint_text().is_some());
    }
}

#[test]
fn a_source_asks_later() {
    for fate in [Fate::Running, Fate::Gone] {
        let Ends { source, target, .. } = ends(Mishap::None, Mishap::None);
        let answering = thread::spawn(move || match Listening::new(target).call().unwrap() {
            Call::Ask(asked, id) => {
                asked.answer(fate).unwrap();
                id
            }
            Call::Hello(..) => panic!("nobody asked"),
        });
        let id = MachineId::from_bytes([3; 16]);
        assert_eq!(Calling::new(source).ask(id).unwrap(), fate);
        assert_eq!(answering.join().unwrap(), id);
    }
}

#[test]
fn words_out_of_turn_and_silence_are_told() {
    let given = Given::new("migration-turn");
    // A target hears Go first.
    let Ends { source: mut link, target, .. } = ends(Mishap::None, Mishap::None);
    link.say(&FromSource::Go).unwrap();
    assert!(matches!(Listening::new(target).call(), Err(Broken::Link(LinkError::OutOfTurn))));
    // A round with another one's files.
    let Ends { source: mut link, target, .. } = ends(Mishap::None, Mishap::None);
    link.say(&FromSource::Hello(Box::new(given.hello()))).unwrap();
    let Call::Hello(greeted, _) = Listening::new(target).call().unwrap() else { panic!("it was asked") };
    let receiving = greeted.welcome(HostMark::default()).unwrap();
    link.say(&FromSource::Round { number: 2, files: given.manifest.files.clone() }).unwrap();
    assert!(matches!(receiving.next(), Err(Broken::Link(LinkError::OutOfTurn))));
    // Nobody answers, and nobody takes what is sent.
    let (from, _kept) = io::pipe().unwrap();
    let (_also, away) = io::pipe().unwrap();
    let quick = Link::over(from.into(), away.into(), Duration::from_millis(50), None);
    let error = Calling::new(quick).hello(&given.hello()).unwrap_err();
    assert!(matches!(error, LinkError::Silent(_)), "{error:?}");
    let (from, _kept) = io::pipe().unwrap();
    let (_also, away) = io::pipe().unwrap();
    let mut full = Link::over(from.into(), away.into(), Duration::from_millis(50), None);
    let sent =
        send(&mut full, |out| out.write_all(&[0; 1 << 20]).map_err(|error| Error::io("cannot send", &error)));
    assert!(matches!(sent, Err(Broken::Link(LinkError::Silent(_)))), "{sent:?}");
}

/// What a peer says that there is more of than can be takes no more room than what can be.
#[test]
fn what_is_more_than_was_asked_for_is_refused() {
    let given = Given::new("migration-more");
    // The target wants what is not there.
    let Ends { source, target: mut link, .. } = ends(Mishap::None, Mishap::None);
    let offering = thread::scope(|scope| {
        scope.spawn(|| {
            let _: FromSource = link.hear().unwrap();
            link.say(&FromTarget::Welcome(Box::new(Welcome {
                osier: String::new(),
                host: HostMark::default(),
            })))
            .unwrap();
            let _: FromSource = link.hear().unwrap();
            io::copy(&mut link.incoming(), &mut io::sink()).unwrap();
            link.say(&FromTarget::Wanted).unwrap();
            // It may end over that.
            let _ = send(&mut link, |out| {
                let line = b"./images\n./nothing\n".repeat(1 << 18);
                out.write_all(&line).map_err(|error| Error::io("cannot send", &error))
            });
        });
        let (offering, _) = Calling::new(source).hello(&given.hello()).unwrap();
        offering.listing(&given.listing)
    });
    assert!(matches!(offering, Err(LinkError::OutOfTurn)), "{offering:?}");
    // The source sends more than a page, and more pages than it could be asked for.
    for (number, length) in [(1, page() + 1), (1, page() - 1), (MOST + 1, (MOST + 1) * page())] {
        let Ends { source: mut link, target, .. } = ends(Mishap::None, Mishap::None);
        let heard = thread::scope(|scope| {
            scope.spawn(|| {
                link.say(&FromSource::Pages(Pages { task: 1, address: 0, number })).unwrap();
                let content = vec![1; usize::try_from(length).unwrap()];
                let _ = send(&mut link, |out| {
                    out.write_all(&content).map_err(|error| Error::io("cannot send", &error))
                });
            });
            Restoring::over(target).fetching().hear()
        });
        assert!(matches!(heard, Err(LinkError::OutOfTurn)), "{number} {length}");
    }
}

/// So much memory comes late.
const LATE: u64 = 40;
/// So many pages of each task.
const PAGES: u64 = 7;

fn content(task: u64) -> Vec<u8> {
    vec![u8::try_from(task).unwrap(); usize::try_from(PAGES * page()).unwrap()]
}

/// As a source does it whose machine's memory comes late.
fn send_late(given: &Given, link: Link<'_>) -> Result<Machine, Broken> {
    let (offering, _) = Calling::new(link).hello(&given.hello())?;
    let sent = offering.frozen()?.images(&given.manifest, &given.dir.join("checkpoint"))?;
    let store = |pages: Pages| Ok((pages, content(pages.task)));
    let held = sent.restored(&store)?;
    match held.go_serving(&store, &mut || ()) {
        Ok(()) => Ok(Machine::Elsewhere),
        Err(NotTaken::Back(_)) => Ok(Machine::Runs),
        Err(NotTaken::Undecided(_) | NotTaken::Lost(_)) => Ok(Machine::Undecided),
    }
}

/// As a target does it; whether it has run comes first.
fn take_late(link: Link<'_>, place: &Path) -> (Machine, Result<Vec<u64>, Broken>) {
    let mut machine = Machine::Elsewhere;
    let take = || -> Result<Vec<u64>, Broken> {
        let Call::Hello(greeted, _) = Listening::new(link).call()? else { panic!("it was asked") };
        let Next::Frozen(receiving) = greeted.welcome(HostMark::default())?.next()? else { panic!() };
        let Next::Images(loading, _) = receiving.next()? else { panic!() };
        let mut fetching = loading.store(place)?.fetching();
        let mut came = Vec::new();
        let ask = |fetching: &mut Fetching<'_>, tasks: std::ops::Range<u64>| {
            fetching.want(tasks.map(|task| Pages { task, address: 0, number: PAGES }).collect())
        };
        // Some before it runs, the others after.
        ask(&mut fetching, 1..LATE / 2)?;
        fetching.restored()?;
        loop {
            match fetching.hear()? {
                Fetched::Go => {
                    machine = Machine::Runs;
                    fetching.running()?;
                    ask(&mut fetching, LATE / 2..LATE + 1)?;
                }
                Fetched::Pages(pages, bytes) => {
                    assert_eq!(bytes, content(pages.task));
                    came.push(pages.task);
                }
            }
            if came.len() as u64 == LATE {
                fetching.whole()?;
                return Ok(came);
            }
        }
    };
    let taken = take();
    (machine, taken)
}

/// The source has it back only when it has never run there, and lets go of it only when all of it is there.
#[test]
fn memory_that_comes_late_comes_or_the_source_keeps_it() {
    let given = Given::new("migration-late");
    let migrate = |there, back| {
        let Ends { source, target, carrying } = ends(there, back);
        let place = given.place();
        let (sent, taken) = thread::scope(|scope| {
            let taking = scope.spawn(|| take_late(target, &place));
            (send_late(&given, source), taking.join().unwrap())
        });
        (sent, taken, carrying.map(|carrying| carrying.join().unwrap()))
    };
    let (sent, (_, taken), [there, back]) = migrate(Mishap::None, Mishap::None);
    assert_eq!(sent.unwrap(), Machine::Elsewhere);
    // In the order in which they were asked for.
    assert_eq!(taken.unwrap(), (1..=LATE).collect::<Vec<_>>());
    let mut undecided = 0;
    for number in 0..60 {
        let at = |length: u64| 16 + (length - 17) * number / 60;
        let (there, back) = match number % 4 {
            0 => (Mishap::Cut(at(there)), Mishap::None),
            1 => (Mishap::Flip(at(there)), Mishap::None),
            2 => (Mishap::None, Mishap::Cut(at(back))),
            _ => (Mishap::None, Mishap::Flip(at(back))),
        };
        let (sent, (machine, taken), _) = migrate(there, back);
        match sent.as_ref().map_or(Machine::Runs, |machine| *machine) {
            Machine::Runs => assert_eq!(machine, Machine::Elsewhere, "{number}: {sent:?} {taken:?}"),
            Machine::Elsewhere => assert!(taken.is_ok(), "{number}: {taken:?}"),
            Machine::Undecided => undecided += 1,
        }
    }
    assert!(undecided > 0, "no cut was late enough");
}
