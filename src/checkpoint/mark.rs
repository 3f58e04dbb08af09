//! What a process may have come to rely on at the host that it runs on: a checkpoint goes on only where that is as well.
//!
//! A program asks the CPU what it can do when it starts, and goes by the answer for ever: glibc has chosen its memcpy, a
//! compiler at run time has made its code. So every instruction set that a program may use counts, none that only the kernel
//! uses does, and a host that can do more is none the worse. Model and family do not count: they tell a user what the CPU is
//! called. The vendor does: the parts of the FPU's state lie at other places (CPUID leaf 0xd), and CRIU puts them back as they
//! were.
//!
//! That is the granularity of `criu --cpu-cap=ins`, with the instruction sets that CRIU's list lacks. CRIU's own check when
//! restoring (`fpu`) looks for three bits.
//!
//! Of the kernel, what a program can find out by asking counts: a system call that was there once is expected to stay
//! ([`HostMark::syscalls`]). Its version as such does not: a kernel of a distribution has what was put into it, so an older one that
//! has all that was there gives a warning.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

use crate::sys::{SYSTEM_CALLS, has_system_call};

/// Flags of /proc/cpuinfo that stand for what a program may use by itself: instruction sets, and the registers that belong to
/// them (arch/x86/include/asm/cpufeatures.h).
const INSTRUCTIONS: &str = "fpu tsc cx8 sep cmov clflush mmx fxsr sse sse2 syscall mmxext rdtscp lm 3dnowext 3dnow \
    pni pclmulqdq ssse3 fma cx16 sse4_1 sse4_2 movbe popcnt aes xsave avx f16c rdrand lahf_lm abm sse4a misalignsse \
    3dnowprefetch xop fma4 tbm fsgsbase bmi1 hle avx2 bmi2 erms rtm mpx avx512f avx512dq rdseed adx avx512ifma \
    clflushopt clwb avx512pf avx512er avx512cd sha_ni avx512bw avx512vl xsaveopt xsavec xgetbv1 xsaves avx_vnni \
    avx512_bf16 avx512vbmi ospke waitpkg avx512_vbmi2 gfni vaes vpclmulqdq avx512_vnni avx512_bitalg \
    avx512_vpopcntdq rdpid cldemote movdiri movdir64b fsrm avx512_4vnniw avx512_4fmaps avx512_vp2intersect serialize \
    tsxldtrk amx_bf16 avx512_fp16 amx_tile amx_int8 amx_fp16 amx_complex avx_ifma avx_vnni_int8 avx_ne_convert \
    cmpccxadd prefetchi monitorx clzero mwaitx rdpru user_shstk sha512 sm3 sm4 wbnoinvd fzrm fsrs fsrc hreset";

/// What a host is like, as far as a machine that runs there may rely on it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostMark {
    /// The kernel's release, `uname -r`.
    pub kernel: String,
    /// The instruction set architecture, `uname -m`.
    pub arch: String,
    /// The size of a page of memory, bytes.
    pub page_size: u64,
    /// The CPUs.
    pub cpu: Cpu,
    /// The system calls that came last, as far as this kernel has them.
    #[serde(default)]
    pub syscalls: BTreeSet<String>,
    /// This boot of the host: random(4).
    #[serde(default)]
    pub boot_id: String,
    /// The host: machine-id(5), or nothing.
    #[serde(default)]
    pub machine_id: String,
}

/// CPUs of a host, which are all alike.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// Who made them.
    pub vendor: String,
    /// Their family, for people.
    #[serde(default)]
    pub family: String,
    /// Their model and its name, for people.
    #[serde(default)]
    pub model: String,
    /// What they can do that a program may use by itself: of /proc/cpuinfo's flags, or all of its features.
    pub flags: BTreeSet<String>,
}

/// Something that a checkpoint relies on and this host has not; shown as a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What to do about it.
    pub weight: Weight,
    /// The end of the sentence "the checkpoint was made …".
    what: String,
}

/// How bad a difference is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// To be told: the machine may find something missing.
    Warn,
    /// Not to be restored here.
    Refuse,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the checkpoint was made {}", self.what)
    }
}

impl HostMark {
    /// That of this host.
    ///
    /// # Errors
    /// What reading /proc/cpuinfo gives.
    pub fn read() -> io::Result<Self> {
        let uname = rustix::system::uname();
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let found = SYSTEM_CALLS.iter().filter(|(_, number)| has_system_call(*number));
        Ok(Self {
            kernel: uname.release().to_string_lossy().into_owned(),
            arch: uname.machine().to_string_lossy().into_owned(),
            page_size: rustix::param::page_size() as u64,
            cpu: Cpu::parse(&fs::read_to_string("/proc/cpuinfo")?),
            syscalls: found.map(|(name, _)| (*name).to_owned()).collect(),
            boot_id: text("/proc/sys/kernel/random/boot_id"),
            machine_id: text("/etc/machine-id"),
        })
    }

    /// What a machine that ran there may miss on `here`, the worst first.
    pub fn compare(&self, here: &Self) -> Vec<Difference> {
        if self.arch != here.arch {
            // Nothing else can be compared.
            return vec![refused(format!("for {}, and this host is {}", self.arch, here.arch))];
        }
        let mut found = Vec::new();
        if self.page_size != here.page_size {
            let (there, here) = (self.page_size, here.page_size);
            found.push(refused(format!("with pages of {there} bytes, and this kernel's have {here}")));
        }
        if self.cpu.vendor != here.cpu.vendor {
            let (there, here) = (&self.cpu.vendor, &here.cpu.vendor);
            found.push(refused(format!("on a CPU of {there}, and this one is of {here}")));
        }
        if let Some(names) = lacking(&self.cpu.flags, &here.cpu.flags) {
            found.push(refused(format!("on a CPU with {names}, which this one lacks")));
        }
        if let Some(names) = lacking(&self.syscalls, &here.syscalls) {
            let calls = "on a kernel with the system calls";
            found.push(refused(format!("{calls} {names}, which this one ({}) lacks", here.kernel)));
        }
        if release(&self.kernel) > release(&here.kernel) {
            let (there, here) = (&self.kernel, &here.kernel);
            let what = format!("on Linux {there}, and this host has the older {here}");
            found.push(Difference { weight: Weight::Warn, what });
        }
        found
    }
}

fn refused(what: String) -> Difference {
    Difference { weight: Weight::Refuse, what }
}

/// What is missing, in words.
fn lacking(there: &BTreeSet<String>, here: &BTreeSet<String>) -> Option<String> {
    let missing: Vec<_> = there.difference(here).map(String::as_str).collect();
    (!missing.is_empty()).then(|| missing.join(", "))
}

/// The first two numbers of a kernel's release: what comes after them brings nothing that programs ask for.
fn release(text: &str) -> (u32, u32) {
    let mut numbers = text.split(|char: char| !char.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

impl Cpu {
    /// The first CPU of /proc/cpuinfo's text: x86's keys, or those of arm64.
    fn parse(text: &str) -> Self {
        let value = |key: &str| {
            let found = text.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                (name.trim_end() == key).then(|| value.trim().to_owned())
            });
            found.unwrap_or_default()
        };
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<BTreeSet<_>>();
        let features = value("Features");
        if !features.is_empty() {
            // Each stands for an instruction set: they are the bits of AT_HWCAP (Documentation/arch/arm64/elf_hwcaps.rst).
            return Self {
                vendor: value("CPU implementer"),
                family: value("CPU architecture"),
                model: value("CPU part"),
                flags: words(&features),
            };
        }
        let known = words(INSTRUCTIONS);
        let flags = words(&value("flags"));
        Self {
            vendor: value("vendor_id"),
            family: value("cpu family"),
            model: format!("{} {}", value("model"), value("model name")).trim().to_owned(),
            flags: flags.intersection(&known).cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> HostMark {
        let mark = HostMark::read().unwrap();
        assert!(mark.cpu.flags.len() > 10 && mark.page_size >= 4096, "{mark:?}");
        mark
    }

    fn said(there: &HostMark, here: &HostMark) -> Vec<(Weight, String)> {
        there.compare(here).into_iter().map(|found| (found.weight, found.to_string())).collect()
    }

    #[test]
    fn a_host_is_like_itself_and_like_one_that_can_do_more() {
        let here = here();
        assert_eq!(said(&here, &here), []);
        let mut more = here.clone();
        more.cpu.flags.insert("avx9000".to_owned());
        more.syscalls.insert("teleport".to_owned());
        (more.kernel, more.boot_id, more.machine_id) = ("999.1".to_owned(), String::new(), String::new());
        (more.cpu.family, more.cpu.model) = ("1".to_owned(), "2 Another".to_owned());
        assert_eq!(said(&here, &more), []);
        let made = "the checkpoint was made on";
        let text = format!("{made} a CPU with avx9000, which this one lacks");
        let calls =
            format!("{made} a kernel with the system calls teleport, which this one ({}) lacks", here.kernel);
        let older = format!("{made} Linux 999.1, and this host has the older {}", here.kernel);
        let all = [(Weight::Refuse, text), (Weight::Refuse, calls), (Weight::Warn, older)];
        assert_eq!(said(&more, &here), all);
    }

    #[test]
    fn another_architecture_page_size_or_vendor_is_refused() {
        let here = here();
        let other = HostMark { arch: "riscv64".to_owned(), ..HostMark::default() };
        assert_eq!(
            said(&other, &here),
            [(
                Weight::Refuse,
                format!("the checkpoint was made for riscv64, and this host is {}", here.arch)
            )]
        );
        let mut other = here.clone();
        (other.page_size, other.cpu.vendor) = (16384, "Nobody".to_owned());
        let said = said(&other, &here);
        assert!(said[0].1.contains("16384") && said[1].1.contains("Nobody") && said.len() == 2, "{said:?}");
    }

    #[test]
    fn releases_are_numbers() {
        for (older, newer) in [("6.9.3", "6.10.0-rc1"), ("5.15.0-91-generic", "6.1.0"), ("6.12", "6.18.0+")] {
            assert!(release(older) < release(newer), "{older} {newer}");
        }
        assert_eq!(release("6.12.57+deb13-amd64"), release("6.12.1"));
    }

    #[test]
    fn cpuinfo_of_both_architectures_is_read() {
        let x86 = "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 1\n\
            model name\t: AMD EPYC\nflags\t\t: fpu avx2 hypervisor constant_tsc ibrs\n\nprocessor\t: 1\nvendor_id\t: X\n";
        let cpu = Cpu::parse(x86);
        assert_eq!(
            (cpu.vendor.as_str(), cpu.family.as_str(), cpu.model.as_str()),
            ("AuthenticAMD", "25", "1 AMD EPYC")
        );
        assert_eq!(cpu.flags.into_iter().collect::<Vec<_>>(), ["avx2", "fpu"]);
        let arm = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd sve2\nCPU implementer\t: 0x41\n\
            CPU architecture: 8\nCPU part\t: 0xd49\n";
        let cpu = Cpu::parse(arm);
        assert_eq!((cpu.vendor.as_str(), cpu.family.as_str(), cpu.model.as_str()), ("0x41", "8", "0xd49"));
        assert_eq!(cpu.flags.into_iter().collect::<Vec<_>>(), ["asimd", "fp", "sve2"]);
    }
}
