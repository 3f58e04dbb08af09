//! Being asked to stop while something half done is to be cleaned up first.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::SigId;

/// Whether SIGINT, SIGTERM or SIGHUP came since it was made; they do nothing else meanwhile.
#[derive(Debug)]
pub struct Interrupt {
    came: Arc<AtomicBool>,
    heeded: AtomicBool,
    registered: Vec<SigId>,
}

/// One of the signals came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interrupted;

impl Interrupt {
    /// From now on.
    ///
    /// # Errors
    /// What sigaction(2) gives.
    pub fn watch() -> io::Result<Self> {
        let mut this = Self { came: Arc::default(), heeded: AtomicBool::new(true), registered: Vec::new() };
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            this.registered.push(signal_hook::flag::register(signal, Arc::clone(&this.came))?);
        }
        Ok(this)
    }

    /// Whether to go on.
    ///
    /// # Errors
    /// [`Interrupted`] when one came.
    pub fn check(&self) -> Result<(), Interrupted> {
        let came = self.came.load(Ordering::SeqCst) && self.heeded.load(Ordering::SeqCst);
        if came { Err(Interrupted) } else { Ok(()) }
    }

    /// From now on nobody is to stop: what is under way cannot be taken back.
    pub fn heed_no_more(&self) {
        self.heeded.store(false, Ordering::SeqCst);
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        for id in self.registered.drain(..) {
            signal_hook::low_level::unregister(id);
        }
    }
}
