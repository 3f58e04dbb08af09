//! Rules as a program of classic BPF, which the kernel runs on `struct seccomp_data` (man 2 seccomp, linux/filter.h).

use super::{Rule, When};

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// linux/audit.h: the machine's number of elf(5), its width, its byte order.
#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xc000_003e;
#[cfg(target_arch = "x86_64")]
const I386: u32 = 0x4000_0003;
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xc000_00b7;

/// `__X32_SYSCALL_BIT`: the ABI of x86-64 with short pointers shows the same architecture and numbers with this bit.
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const IF_BITS: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

type Instruction = libc::sock_filter;

fn load(offset: u32) -> Instruction {
    Instruction { code: LOAD as u16, jt: 0, jf: 0, k: offset }
}

/// Goes on `skip` instructions later when the test fails.
fn unless(test: u32, value: u32, skip: u8) -> Instruction {
    Instruction { code: test as u16, jt: 0, jf: skip, k: value }
}

/// Goes on `skip` instructions later when the test holds.
fn when(test: u32, value: u32, skip: u8) -> Instruction {
    Instruction { code: test as u16, jt: skip, jf: 0, k: value }
}

fn jump(over: usize) -> Instruction {
    Instruction { code: (libc::BPF_JMP | libc::BPF_JA) as u16, jt: 0, jf: 0, k: over as u32 }
}

fn allow() -> Instruction {
    Instruction { code: RETURN as u16, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW }
}

fn refuse(errno: i32) -> Instruction {
    let errno = errno.unsigned_abs() & libc::SECCOMP_RET_DATA;
    Instruction { code: RETURN as u16, jt: 0, jf: 0, k: libc::SECCOMP_RET_ERRNO | errno }
}

/// The program. What no rule names is allowed, and so is an ABI that is not known here.
pub(super) fn assemble(rules: &[Rule]) -> Vec<Instruction> {
    let mut program = vec![load(ARCHITECTURE)];
    for (architecture, body) in sections(rules) {
        program.push(when(IF_EQUAL, architecture, 1));
        program.push(jump(body.len()));
        program.extend(body);
    }
    program.push(allow());
    program
}

/// What is judged of each architecture; each ends with a return.
fn sections(rules: &[Rule]) -> Vec<(u32, Vec<Instruction>)> {
    let native = judge(rules, |rule| u32::try_from(rule.call.number()).unwrap_or(u32::MAX));
    #[cfg(target_arch = "x86_64")]
    {
        let without_x32 = [load(NUMBER), unless(IF_BITS, X32, 1), refuse(libc::ENOSYS)];
        let native = without_x32.into_iter().chain(native).collect();
        vec![(NATIVE, native), (I386, judge(rules, |rule| rule.call.number_i386()))]
    }
    #[cfg(not(target_arch = "x86_64"))]
    vec![(NATIVE, native)]
}

fn judge(rules: &[Rule], number: impl Fn(&Rule) -> u32) -> Vec<Instruction> {
    let mut program = vec![load(NUMBER)];
    for rule in rules {
        let body = body(rule);
        program.push(unless(IF_EQUAL, number(rule), u8::try_from(body.len()).unwrap_or(u8::MAX)));
        program.extend(body);
    }
    program.push(allow());
    program
}

/// What follows when the number is the rule's: a refusal, or on with the number loaded again.
fn body(rule: &Rule) -> Vec<Instruction> {
    let argument = |number: u8| load(ARGUMENTS + 8 * u32::from(number));
    let refuse = refuse(rule.errno);
    match rule.when {
        When::Always => vec![refuse],
        When::AnyBit { argument: number, bits } => {
            vec![argument(number), unless(IF_BITS, bits, 1), refuse, load(NUMBER)]
        }
        When::Equal { argument: number, value } => {
            vec![argument(number), unless(IF_EQUAL, value, 1), refuse, load(NUMBER)]
        }
        When::NoneOf { argument: number, values } => {
            let mut body = vec![argument(number)];
            for (at, value) in values.iter().enumerate() {
                // Over the comparisons that are left, and the refusal.
                body.push(when(IF_EQUAL, *value, u8::try_from(values.len() - at).unwrap_or(u8::MAX)));
            }
            body.extend([refuse, load(NUMBER)]);
            body
        }
    }
}
