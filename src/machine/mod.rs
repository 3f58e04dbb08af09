//! A machine being alive: its name and tree held ([`tenure`]), one boot of it ([`running`]), the loop that serves it
//! ([`supervise`]) in its states ([`state`]), what its console is attached to ([`attachment`]), how requests reach its init
//! ([`errand`], by a [`command`]), what other commands read about it ([`record`]), what they wait for ([`watch`]), which of
//! its processes they open ([`process`]) and how they get in ([`door`]), how one is held still
//! ([`hold`]) and saved ([`snapshot`], [`timers`]), what it may use by now ([`allowance`]), how its clocks go on in the next
//! ([`continuity`]), what it hangs on while its memory is still coming ([`tether`]). [`leftovers`] is what is left when its supervisor
//! was killed.

mod allowance;
pub mod attachment;
mod command;
mod continuity;
pub mod door;
mod errand;
pub mod hold;
pub mod leftovers;
pub mod process;
pub mod record;
pub mod running;
pub mod snapshot;
pub mod state;
pub mod supervise;
pub mod tenure;
pub mod tether;
pub mod timers;
pub mod watch;

pub use attachment::Attachment;
pub use continuity::cannot_keep;
pub use door::Door;
pub use running::{Leader, Running};
pub use supervise::{Manner, Signals, supervise};
pub use tenure::{Machined, Tenure};
