//! Memory that has come, kept for who wants it again: to the child of a task that forks everything is still to come that has not come
//! to that one, and CRIU asks for both. Fetched each time, a machine that forks faster than the link answers would never have all.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use crate::criu::images::{Pages, page};

/// What has come, in a file without a name.
#[derive(Debug)]
pub(super) struct Stock {
    file: File,
    end: u64,
    /// By task and address: how many, and where in the file.
    runs: BTreeMap<(u64, u64), (u64, u64)>,
}

impl Stock {
    /// With nothing in it; `directory` has to have room for as much as will come.
    ///
    /// # Errors
    /// What open(2) gives.
    pub(super) fn new(directory: &Path) -> io::Result<Self> {
        let path = directory.join("came");
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        fs::remove_file(path)?;
        Ok(Self { file, end: 0, runs: BTreeMap::new() })
    }

    /// Keeps `content`, which is in `pages`.
    ///
    /// # Errors
    /// What write(2) gives.
    pub(super) fn keep(&mut self, pages: Pages, content: &[u8]) -> io::Result<()> {
        self.file.write_all_at(content, self.end)?;
        self.runs.insert((pages.task, pages.address), (pages.number, self.end));
        self.end += content.len() as u64;
        Ok(())
    }

    /// The first of `wanted`, as many as came together, and what is in them; nothing where the first has not come.
    ///
    /// # Errors
    /// What read(2) gives.
    pub(super) fn read(&self, wanted: Pages) -> io::Result<Option<(Pages, Vec<u8>)>> {
        let before = self.runs.range(..=(wanted.task, wanted.address)).next_back();
        let Some((&(task, address), &(number, offset))) = before else { return Ok(None) };
        if task != wanted.task {
            return Ok(None);
        }
        let into = wanted.address - address;
        let number = wanted.number.min(number.saturating_sub(into / page()));
        if number == 0 {
            return Ok(None);
        }
        let length = usize::try_from(number * page()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut content = vec![0; length];
        self.file.read_exact_at(&mut content, offset + into)?;
        Ok(Some((Pages { number, ..wanted }, content)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdir::TestDir;

    #[test]
    fn what_has_come_is_there_and_nothing_else() {
        let dir = TestDir::new("stock");
        let mut stock = Stock::new(dir.path()).unwrap();
        let size = usize::try_from(page()).unwrap();
        let pages = |task, first: u64, number| Pages { task, address: (100 + first) * page(), number };
        let content = [vec![1; size], vec![2; size], vec![3; size]].concat();
        stock.keep(pages(7, 4, 3), &content).unwrap();
        stock.keep(pages(7, 0, 1), &vec![9; size]).unwrap();
        assert_eq!(stock.read(pages(7, 5, 16)).unwrap(), Some((pages(7, 5, 2), content[size..].to_vec())));
        assert_eq!(stock.read(pages(7, 0, 16)).unwrap(), Some((pages(7, 0, 1), vec![9; size])));
        for (task, first) in [(7, 1), (7, 7), (6, 4), (8, 4)] {
            assert_eq!(stock.read(pages(task, first, 1)).unwrap(), None);
        }
        // Nothing is left of it in the directory either.
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
