//! What two osiers say to each other while a machine moves from one to the other: the frames ([`stream`]) and the words, in
//! their order ([`protocol`]). What is done at either end is not here.

pub mod ledger;
pub mod protocol;
pub mod stream;
