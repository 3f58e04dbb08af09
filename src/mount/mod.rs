//! Mounts: what can be mounted and made inside a root ([`op`]), the root itself ([`root`]), what is mounted later
//! ([`live`]), the host's own mounts ([`table`]), what a machine with users of its own has to see ([`visible`]).
//!
//! Every [`op::Op`] is executed with the machine's root already as `/` (pivot_root(2)): no path, however it is
//! symlinked inside the tree, can name anything outside.

pub mod live;
pub mod op;
pub mod root;
pub mod table;
mod target;
pub mod visible;
