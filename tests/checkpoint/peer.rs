//! The server on the host that a program in the machine talks to, over the machine's link and over one connection.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::support::await_that;

/// One thing that was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Word {
    number: u64,
    monotonic: Duration,
    pid: u32,
    memory: bool,
    lock: bool,
}

impl Word {
    fn parse(line: &str) -> Self {
        let parts: Vec<u64> = line.split_whitespace().map(|part| part.parse().unwrap()).collect();
        let &[number, monotonic, pid, memory, lock] = &parts[..] else { panic!("{line}") };
        Self {
            number,
            monotonic: Duration::from_nanos(monotonic),
            pid: u32::try_from(pid).unwrap(),
            memory: memory == 1,
            lock: lock == 1,
        }
    }
}

/// The server; it takes one connection and no other.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    words: Arc<Mutex<Vec<Word>>>,
}

impl Peer {
    pub(crate) fn listen(address: Ipv4Addr) -> Self {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let words = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&words);
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for line in BufReader::new(stream.try_clone().unwrap()).lines() {
                let Ok(line) = line else { break };
                let word = Word::parse(&line);
                let answered = writeln!(stream, "{}", word.number);
                sink.lock().unwrap().push(word);
                if answered.is_err() {
                    break;
                }
            }
        });
        Self { address, words }
    }

    pub(crate) fn count(&self) -> usize {
        self.words.lock().unwrap().len()
    }

    /// Waits for `more` than there are now.
    pub(crate) fn await_more(&self, more: usize) {
        let wanted = self.count() + more;
        await_that("the program in the machine to go on", || self.count() >= wanted);
    }

    /// One process, which lost nothing of what it had, numbers without a gap, and a clock that never went back nor further
    /// ahead than `step` at once.
    pub(crate) fn assert_whole(&self, step: Duration) {
        let words = self.words.lock().unwrap();
        for (at, word) in words.iter().enumerate() {
            assert_eq!(word.number, at as u64 + 1, "{word:?}");
            assert!(word.memory && word.lock && word.pid == words[0].pid, "{word:?}");
        }
        for pair in words.windows(2) {
            let ahead = pair[1].monotonic.checked_sub(pair[0].monotonic);
            assert!(ahead.is_some_and(|ahead| ahead < step), "{pair:?}");
        }
    }
}
