//! Pages of memory that are taken out of the images, to be sent after the machine runs elsewhere.
//!
//! CRIU marks those that can be fetched later (`PE_LAZY`): private anonymous memory that is neither locked nor a stack. Of them the
//! images keep where they belong, as in a dump that CRIU makes with `--lazy-pages`. That dump itself is not used: CRIU keeps the
//! pages in pipes then, and serves them from a process that holds the tasks by ptrace(2); here they are in files, and whole
//! whatever becomes of whom.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::file::{Image, Kind};

/// `PE_PARENT`, `PE_LAZY` and `PE_PRESENT` (criu/include/pagemap.h).
const PARENT: u64 = 1;
const LAZY: u64 = 2;
const PRESENT: u64 = 4;

/// The fields of `pagemap_head` and `pagemap_entry` (images/pagemap.proto). What has no `NUMBER` (before CRIU 4.2) has it in 32 bits.
const FILE: u64 = 1;
const ADDRESS: u64 = 1;
const NUMBER_32: u64 = 2;
const FLAGS: u64 = 4;
const NUMBER: u64 = 5;

/// Some pages of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Pages {
    /// The task: its process ID inside.
    pub task: u64,
    /// Where they begin.
    pub address: u64,
    /// How many.
    pub number: u64,
}

/// The pages that were taken out.
#[derive(Debug, Default)]
pub struct Aside {
    tasks: BTreeMap<u64, (File, Vec<Run>)>,
    size: u64,
}

/// Pages that follow one another in memory and in the file.
#[derive(Debug, Clone, Copy)]
struct Run {
    address: u64,
    number: u64,
    offset: u64,
}

impl Aside {
    /// Takes the pages that can wait out of `images` and keeps them in files in the directory `beside`.
    ///
    /// # Errors
    /// `InvalidData` for what are no images, or those of a dump that has others before it; what reading and writing gives.
    pub fn take(images: &Path, beside: &Path) -> io::Result<Self> {
        let mut this = Self::default();
        for entry in fs::read_dir(images)? {
            let name = entry?.file_name();
            let task = name.to_str().and_then(|name| name.strip_prefix("pagemap-")?.strip_suffix(".img"));
            // `pagemap-shmem-N.img` is of memory that is shared, which has to be there.
            if let Some(task) = task.and_then(|task| task.parse().ok()) {
                this.take_of(task, &images.join(&name), (images, beside))?;
            }
        }
        Ok(this)
    }

    fn take_of(&mut self, task: u64, map: &Path, (images, beside): (&Path, &Path)) -> io::Result<()> {
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, format!("'{}' is odd", map.display()));
        let mut image = Image::read(map, Kind::Pagemap)?;
        let records = image.records();
        let Some((head, entries)) = records.split_first() else { return Ok(()) };
        let head = image.fields(head)?;
        let name = format!("pages-{}.img", image.number(&head, FILE).ok_or_else(invalid)?);
        let (mut runs, mut kept, mut offset) = (Vec::new(), Vec::new(), 0);
        for entry in entries {
            let fields = image.fields(entry)?;
            let number = image.number(&fields, NUMBER).or_else(|| image.number(&fields, NUMBER_32));
            let number = number.ok_or_else(invalid)?;
            let address = image.number(&fields, ADDRESS).ok_or_else(invalid)?;
            let flags = image.number(&fields, FLAGS).unwrap_or(PRESENT);
            if flags & PARENT != 0 {
                return Err(invalid());
            }
            if flags & PRESENT == 0 {
                continue;
            }
            let run = Run { address, number, offset };
            offset += number * page();
            match fields.iter().find(|field| field.number == FLAGS && flags & LAZY != 0) {
                Some(field) if image.set_number(field, flags & !PRESENT) => runs.push(run),
                _ => kept.push(run),
            }
        }
        if runs.is_empty() {
            return Ok(());
        }
        let (whole, rest) = (beside.join(&name), images.join(&name));
        fs::rename(&rest, &whole)?;
        let mut file = File::open(&whole)?;
        let mut to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&rest)?;
        for run in kept {
            file.seek(SeekFrom::Start(run.offset))?;
            let length = run.number * page();
            if io::copy(&mut (&mut file).take(length), &mut to)? != length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        image.write()?;
        self.size += runs.iter().map(|run| run.number * page()).sum::<u64>();
        self.tasks.insert(task, (file, runs));
        Ok(())
    }

    /// How many bytes there are.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The first of `wanted`, as many as stand together in memory, and what is in them.
    ///
    /// # Errors
    /// `NotFound` for pages that were not taken out; what reading gives.
    pub fn read(&self, wanted: Pages) -> io::Result<(Pages, Vec<u8>)> {
        let (file, runs) = self.tasks.get(&wanted.task).ok_or(io::ErrorKind::NotFound)?;
        let within = |run: &&Run| {
            wanted.address.checked_sub(run.address).is_some_and(|into| into < run.number * page())
        };
        let run = runs.iter().find(within).ok_or(io::ErrorKind::NotFound)?;
        let into = wanted.address - run.address;
        let number = wanted.number.min(run.number - into / page()).min(MOST);
        let length = usize::try_from(number * page()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, run.offset + into)?;
        Ok((Pages { number, ..wanted }, bytes))
    }
}

/// So many at a time at most: more than CRIU ever asks for, and no more than fits into memory on either side without a thought.
pub const MOST: u64 = 4096;

/// A page's size, bytes.
pub fn page() -> u64 {
    rustix::param::page_size() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdir::TestDir;

    fn record(fields: &[(u8, u64)]) -> Vec<u8> {
        let mut message = Vec::new();
        for (number, value) in fields {
            message.push(number << 3);
            let mut value = *value;
            while value > 0x7f {
                message.push((value & 0x7f) as u8 | 0x80);
                value >>= 7;
            }
            message.push(value as u8);
        }
        [&u32::try_from(message.len()).unwrap().to_le_bytes()[..], &message].concat()
    }

    #[test]
    fn what_can_wait_is_taken_out_and_found_again() {
        let dir = TestDir::new("aside");
        let (images, beside) = (dir.join("images"), dir.join("beside"));
        fs::create_dir(&images).unwrap();
        fs::create_dir(&beside).unwrap();
        let size = usize::try_from(page()).unwrap();
        let content: Vec<u8> = (1..=6).flat_map(|number| vec![number; size]).collect();
        fs::write(images.join("pages-3.img"), &content).unwrap();
        let head = [0x5456_4319_u32, Kind::Pagemap as u32].map(u32::to_le_bytes).concat();
        let at = |number: u64| 0x7000_0000 + number * page();
        let map = [
            head,
            record(&[(1, 3)]),
            record(&[(1, at(0)), (2, 1), (4, PRESENT)]),
            record(&[(1, at(10)), (2, 3), (4, PRESENT | LAZY)]),
            // As CRIU 4.2 has it.
            record(&[(1, at(20)), (2, 0), (4, PRESENT), (5, 1)]),
            record(&[(1, at(30)), (2, 1), (4, PRESENT | LAZY)]),
        ];
        fs::write(images.join("pagemap-1.img"), map.concat()).unwrap();
        let aside = Aside::take(&images, &beside).unwrap();
        assert_eq!(aside.size(), 4 * page());
        let kept = fs::read(images.join("pages-3.img")).unwrap();
        assert_eq!(kept, [&content[..size], &content[4 * size..5 * size]].concat());
        let read = |number, count| aside.read(Pages { task: 1, address: at(number), number: count });
        let (pages, bytes) = read(11, 9).unwrap();
        assert_eq!((pages.number, bytes), (2, content[2 * size..4 * size].to_vec()));
        assert_eq!(read(30, 1).unwrap().1, vec![6; size]);
        for (number, task) in [(0, 1), (13, 1), (9, 1), (10, 2)] {
            let error = aside.read(Pages { task, address: at(number), number: 1 }).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
        }
        // The image says what is not there any more, and nothing else of it has changed.
        let flags = |entry: usize| {
            let image = Image::read(&images.join("pagemap-1.img"), Kind::Pagemap).unwrap();
            let fields = image.fields(&image.records()[entry]).unwrap();
            image.number(&fields, FLAGS).unwrap()
        };
        assert_eq!([1, 2, 3, 4].map(flags), [PRESENT, LAZY, PRESENT, LAZY]);
    }
}
