//! A call of a function, as a debugger sees it at the function's first instruction: its arguments, and how to return from it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::sys::ptrace;
use nix::unistd::Pid;

/// What traps, in place of an instruction.
#[cfg(target_arch = "x86_64")]
pub(super) const TRAP: &[u8] = &[0xcc];
#[cfg(target_arch = "aarch64")]
pub(super) const TRAP: &[u8] = &[0x00, 0x00, 0x20, 0xd4];

/// An instruction that does nothing where CRIU runs, and that may be left out: `endbr64`, with which functions begin.
#[cfg(target_arch = "x86_64")]
pub(super) const LANDING: &[u8] = &[0xf3, 0x0f, 0x1e, 0xfa];
/// `bti c`.
#[cfg(target_arch = "aarch64")]
pub(super) const LANDING: &[u8] = &[0x5f, 0x24, 0x03, 0xd5];

/// A thread that has stopped at a trap, and its registers.
pub(super) struct Call {
    pid: Pid,
    registers: libc::user_regs_struct,
    memory: File,
}

impl Call {
    /// Reads the registers of a stopped thread.
    pub(super) fn of(pid: Pid) -> io::Result<Self> {
        Ok(Self { pid, registers: ptrace::getregs(pid)?, memory: memory(pid)? })
    }

    /// The thread.
    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Its memory.
    pub(super) fn memory(&self) -> &File {
        &self.memory
    }
}

/// The memory of a traced process.
pub(super) fn memory(pid: Pid) -> io::Result<File> {
    File::options().read(true).write(true).open(format!("/proc/{pid}/mem"))
}

#[cfg(target_arch = "x86_64")]
impl Call {
    /// Where the trap is: the processor is one byte past it.
    pub(super) fn address(&self) -> u64 {
        self.registers.rip.wrapping_sub(1)
    }

    /// The first five arguments (System V ABI).
    pub(super) fn arguments(&self) -> [u64; 5] {
        let all = &self.registers;
        [all.rdi, all.rsi, all.rdx, all.rcx, all.r8]
    }

    /// Goes on at `address`.
    pub(super) fn jump(mut self, address: u64) -> io::Result<()> {
        self.registers.rip = address;
        Ok(ptrace::setregs(self.pid, self.registers)?)
    }

    /// Returns `value` to the caller.
    pub(super) fn leave(mut self, value: u64) -> io::Result<()> {
        let mut back = [0; 8];
        self.memory.read_exact_at(&mut back, self.registers.rsp)?;
        self.registers.rsp += 8;
        self.registers.rax = value;
        self.jump(u64::from_ne_bytes(back))
    }
}

#[cfg(target_arch = "aarch64")]
impl Call {
    /// Where the trap is.
    pub(super) fn address(&self) -> u64 {
        self.registers.pc
    }

    /// The first five arguments (AAPCS64).
    pub(super) fn arguments(&self) -> [u64; 5] {
        std::array::from_fn(|at| self.registers.regs[at])
    }

    /// Goes on at `address`.
    pub(super) fn jump(mut self, address: u64) -> io::Result<()> {
        self.registers.pc = address;
        Ok(ptrace::setregs(self.pid, self.registers)?)
    }

    /// Returns `value` to the caller, whose place is in the link register.
    pub(super) fn leave(mut self, value: u64) -> io::Result<()> {
        self.registers.regs[0] = value;
        let back = self.registers.regs[30];
        self.jump(back)
    }
}
