//! Where a function of a shared library is in a process.

use std::fs;
use std::io;
use std::ops::Range;

use nix::unistd::Pid;
use object::read::elf::ElfFile64;
use object::{Object, ObjectSegment, ObjectSymbol};

/// A part of a file that is mapped executable.
struct Mapping {
    memory: Range<u64>,
    offset: u64,
    path: String,
}

/// The addresses of the functions `names` in the process `pid`, of the library that has all of them.
///
/// # Errors
/// `NotFound` when none has: a program that is linked statically.
pub(super) fn find<const N: usize>(pid: Pid, names: [&str; N]) -> io::Result<[u64; N]> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    for mapping in maps.lines().filter_map(parse) {
        let Ok(file) = fs::read(format!("/proc/{pid}/root{}", mapping.path)) else { continue };
        let Ok(library) = ElfFile64::<object::Endianness>::parse(&*file) else { continue };
        let found = names.map(|name| place(&library, &mapping, name));
        if found.iter().all(Option::is_some) {
            return Ok(found.map(Option::unwrap_or_default));
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("no library of it has {}", names.join(" and "))))
}

/// A line of /proc/PID/maps (man 5 proc_pid_maps), if it is of an executable part of a file.
fn parse(line: &str) -> Option<Mapping> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let executable = fields.next()?.contains('x');
    let offset = u64::from_str_radix(fields.next()?, 16).ok()?;
    let path = fields.nth(2).filter(|path| path.starts_with('/'))?.to_owned();
    let memory = u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?;
    executable.then_some(Mapping { memory, offset, path })
}

fn place(library: &ElfFile64<'_>, mapping: &Mapping, name: &str) -> Option<u64> {
    let symbol = library
        .dynamic_symbols()
        .find(|symbol| symbol.is_definition() && symbol.name() == Ok(name) && symbol.address() != 0)?;
    let segment = library.segments().find(|segment| {
        (segment.address()..segment.address() + segment.size()).contains(&symbol.address())
    })?;
    let in_file = symbol.address() - segment.address() + segment.file_range().0;
    let address = mapping.memory.start.checked_add(in_file.checked_sub(mapping.offset)?)?;
    mapping.memory.contains(&address).then_some(address)
}
