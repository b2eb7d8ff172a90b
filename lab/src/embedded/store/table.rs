//! Numbered rows of one message type, one file per row: written beside its place, then renamed into it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use prost::Message;

use super::StoreError;

/// Rows by id, in the order in which they were inserted.
#[derive(Debug)]
pub(crate) struct Table<M> {
    folder: PathBuf,
    rows: BTreeMap<u64, M>,
    last: u64,
}

/// Which rows a list call wants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page<'a> {
    /// 0 or less asks for everything.
    pub(crate) size: i32,
    pub(crate) token: &'a str,
}

impl<M: Message + Default + Clone> Table<M> {
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut rows = BTreeMap::new();
        for file in fs::read_dir(folder)? {
            let path = file?.path();
            if let Some(id) = row_id(&path) {
                rows.insert(id, read_row(&path)?);
            }
        }
        let last = rows.last_key_value().map_or(0, |(id, _)| *id);
        Ok(Self { folder: folder.to_owned(), rows, last })
    }

    pub(super) fn insert(&mut self, row: M) -> io::Result<()> {
        let id = self.last + 1;
        self.replace(id, row)?;
        self.last = id;
        Ok(())
    }

    pub(super) fn replace(&mut self, id: u64, row: M) -> io::Result<()> {
        write_file(&self.path(id), &row.encode_to_vec())?;
        self.rows.insert(id, row);
        Ok(())
    }

    pub(super) fn remove(&mut self, id: u64) -> io::Result<()> {
        fs::remove_file(self.path(id))?;
        self.rows.remove(&id);
        Ok(())
    }

    pub(super) fn find(&self, wanted: impl Fn(&M) -> bool) -> Option<(u64, &M)> {
        self.rows.iter().find(|(_, row)| wanted(row)).map(|(id, row)| (*id, row))
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = (u64, &M)> {
        self.rows.iter().map(|(id, row)| (*id, row))
    }

    /// As SPIRE pages: the token is the last row's id and comes with every page that is not empty.
    pub(super) fn page(
        &self,
        page: Page<'_>,
        wanted: impl Fn(&M) -> bool,
    ) -> Result<(Vec<M>, String), StoreError> {
        let wanted = |row: &(u64, &M)| wanted(row.1);
        if page.size <= 0 {
            return Ok((self.rows().filter(wanted).map(|(_, row)| row.clone()).collect(), String::new()));
        }
        let after = match page.token {
            "" => 0,
            token => {
                token.parse::<u32>().map_err(|_| StoreError::BadToken { token: token.to_owned() })?.into()
            }
        };
        let size = usize::try_from(page.size).unwrap_or(usize::MAX);
        let rows: Vec<_> = self.rows().filter(|(id, _)| *id > after).filter(wanted).take(size).collect();
        let token = rows.last().map(|(id, _)| id.to_string()).unwrap_or_default();
        Ok((rows.into_iter().map(|(_, row)| row.clone()).collect(), token))
    }

    fn path(&self, id: u64) -> PathBuf {
        self.folder.join(format!("{id:010}.pb"))
    }
}

fn row_id(path: &Path) -> Option<u64> {
    let is_row = path.extension().is_some_and(|extension| extension == "pb");
    is_row.then(|| path.file_stem()?.to_str()?.parse().ok()).flatten()
}

fn read_row<M: Message + Default>(path: &Path) -> io::Result<M> {
    M::decode(fs::read(path)?.as_slice())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display())))
}

/// Replaces a file as a whole: whoever is killed meanwhile leaves the old one or the new one.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    fs::write(&beside, bytes)?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(folder: &Path) -> Table<String> {
        Table::open(folder).unwrap()
    }

    fn page(table: &Table<String>, size: i32, token: &str) -> (Vec<String>, String) {
        table.page(Page { size, token }, |row| row != "own").unwrap()
    }

    #[test]
    fn rows_outlive_the_process_and_ids_go_on_counting() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = table(folder.path());
        first.insert("a".into()).unwrap();
        first.insert("b".into()).unwrap();
        first.remove(1).unwrap();
        let mut again = table(folder.path());
        again.insert("c".into()).unwrap();
        let rows: Vec<_> = again.rows().map(|(id, row)| (id, row.as_str())).collect();
        assert_eq!(rows, [(2, "b"), (3, "c")]);
    }

    #[test]
    fn a_half_written_row_is_no_row() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("0000000001.new"), "x").unwrap();
        assert_eq!(table(folder.path()).rows().count(), 0);
    }

    #[test]
    fn only_an_empty_page_comes_without_a_token() {
        let folder = tempfile::tempdir().unwrap();
        let mut table = table(folder.path());
        for row in ["own", "a", "b", "c"] {
            table.insert(row.into()).unwrap();
        }
        assert_eq!(page(&table, 0, ""), (vec!["a".into(), "b".into(), "c".into()], String::new()));
        assert_eq!(page(&table, 2, ""), (vec!["a".into(), "b".into()], "3".into()));
        assert_eq!(page(&table, 2, "3"), (vec!["c".into()], "4".into()));
        assert_eq!(page(&table, 2, "4"), (vec![], String::new()));
        assert!(table.page(Page { size: 2, token: "x" }, |_| true).is_err());
    }
}
