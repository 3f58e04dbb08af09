//! Parse, run the verb, leave with its exit code: the only place where the process ends.

fn main() {}
