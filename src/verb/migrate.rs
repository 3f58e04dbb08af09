//! `osier migrate`: a machine goes on at another host. One osier sends it ([`source`]), another one receives it ([`target`], and
//! [`fetch`] what comes late), and between them is whatever carries bytes both ways ([`carrier`]). What they say is in
//! [`crate::migration::protocol`].

mod carrier;
mod fetch;
mod source;
mod stock;
mod target;

use crate::cli::Migrate;
use crate::error::Result;
use crate::machine::record::Store;

/// `osier migrate`: the exit code to leave with. In the supervisor of a machine that was received, a child, that of its machine.
///
/// # Errors
/// What keeps the machine from going on there; it goes on here.
pub fn execute(options: &Migrate, store: &Store) -> Result<u8> {
    match &options.name {
        Some(name) => source::send(name, options, store)
            .map(|()| 0)
            .map_err(|error| error.within(format!("cannot migrate '{name}'"))),
        None => target::receive(options, store).map_err(|error| error.within("cannot receive a machine")),
    }
}
