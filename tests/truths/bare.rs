//! Programs of a few instructions, for what no safe function and no libc does: the time stamp counter, and system calls
//! that nothing answers before the kernel does.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::Command;

use rustix::fs::{MemfdFlags, memfd_create};

use crate::here::SECOND;

/// Where the program is loaded, and the buffer that it writes out.
const ADDRESS: u32 = 0x40_0000;
const BUFFER: u32 = ADDRESS + 0x800;
const HEADERS: u32 = 64 + 56;

/// Two words that the instructions may write, and the result of their system call.
type Words = [i64; 3];

/// An executable of one segment (man 5 elf): the instructions, then write(1, BUFFER, 24) and _exit(0).
fn program(instructions: &[u8]) -> Vec<u8> {
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    for half in [2u16, 62] {
        elf.extend(half.to_le_bytes());
    }
    elf.extend(1u32.to_le_bytes());
    for word in [u64::from(ADDRESS + HEADERS), 64, 0] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 1, 0, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    for word in [1u32, 7] {
        elf.extend(word.to_le_bytes());
    }
    for word in [0u64, ADDRESS.into(), ADDRESS.into(), 0x800, 0x1000, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(instructions);
    elf.extend([0x48, 0x89, 0x04, 0x25]); // mov [BUFFER + 16], rax
    elf.extend((BUFFER + 16).to_le_bytes());
    elf.extend(system_call(libc::SYS_write, [1, BUFFER, 24]));
    elf.extend(system_call(libc::SYS_exit_group, [0, 0, 0]));
    elf.resize(0x800, 0);
    elf
}

fn system_call(number: libc::c_long, arguments: [u32; 3]) -> Vec<u8> {
    let mut code = vec![0xb8]; // mov eax, number
    code.extend(u32::try_from(number).unwrap().to_le_bytes());
    for (register, argument) in [0xbf, 0xbe, 0xba].into_iter().zip(arguments) {
        code.push(register); // mov edi, esi, edx
        code.extend(argument.to_le_bytes());
    }
    code.extend([0x0f, 0x05]);
    code
}

fn run(instructions: &[u8]) -> Words {
    if !cfg!(target_arch = "x86_64") {
        panic!("these are not this processor's instructions");
    }
    let mut file = File::from(memfd_create("bare", MemfdFlags::empty()).unwrap());
    file.write_all(&program(instructions)).unwrap();
    let output = Command::new(format!("/proc/self/fd/{}", file.as_raw_fd())).output().unwrap();
    assert!(output.status.success() && output.stdout.len() == size_of::<Words>(), "{output:?}");
    let mut words = output.stdout.chunks_exact(8).map(|word| i64::from_le_bytes(word.try_into().unwrap()));
    [(); 3].map(|()| words.next().unwrap())
}

/// A clock's reading in nanoseconds, by the system call.
pub(crate) fn clock_gettime(clock: libc::clockid_t) -> i128 {
    let [seconds, nanoseconds, result] =
        run(&system_call(libc::SYS_clock_gettime, [clock.cast_unsigned(), BUFFER, 0]));
    assert_eq!(result, 0);
    i128::from(seconds) * SECOND + i128::from(nanoseconds)
}

/// What times(2) returns: ticks.
pub(crate) fn times() -> i64 {
    run(&system_call(libc::SYS_times, [0, 0, 0]))[2]
}

/// The processor's time stamp counter.
pub(crate) fn rdtsc() -> i64 {
    let mut code = vec![0x0f, 0x31]; // rdtsc
    for (register, place) in [(0x04, BUFFER), (0x14, BUFFER + 4)] {
        code.extend([0x89, register, 0x25]); // mov [place], eax or edx
        code.extend(place.to_le_bytes());
    }
    run(&code)[0]
}
