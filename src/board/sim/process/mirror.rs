//! The tree as ordinary files, where FUSE is not to be had: refreshed periodically, with written values
//! picked up. It cannot show errors (such a node is taken away), and a short text written over a longer one
//! leaves the rest of the longer one, as with any file; whoever writes must truncate. Values may be followed by
//! empty lines.

use super::attr::Attr;
use super::tree::{Node, Tree};
use crate::board::sim::board::SimBoard;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Marks a directory that a simulated board may clear.
const MARKER: &str = ".wattd-sim-board";

/// A tree of files.
pub(super) struct Mirror {
    board: SimBoard,
    root: PathBuf,
    attributes: Vec<(PathBuf, Attr)>,
    /// What was last written to each file, by its index.
    shown: BTreeMap<usize, String>,
}

impl Mirror {
    /// Lays the tree out in a directory that is empty or was laid out by another such run.
    pub(super) fn create(board: SimBoard, tree: &Tree, root: &Path) -> io::Result<Self> {
        clear(root)?;
        fs::write(root.join(MARKER), "made by a simulated board; cleared at its next start\n")?;
        let mut attributes = Vec::new();
        for (path, id) in tree.walk() {
            let path = root.join(path);
            match tree.node(id) {
                Some(Node::Directory(_)) => fs::create_dir_all(&path)?,
                Some(Node::Link(target)) => symlink(target, &path)?,
                Some(Node::Attribute(attr)) => attributes.push((path, attr.clone())),
                None => {}
            }
        }
        let mut mirror = Self { board, root: root.to_owned(), attributes, shown: BTreeMap::new() };
        mirror.refresh()?;
        Ok(mirror)
    }

    /// Takes in what was written, then shows the present values.
    pub(super) fn refresh(&mut self) -> io::Result<()> {
        let Self { board, attributes, shown, .. } = self;
        let mut truncated = BTreeSet::new();
        for (index, (path, attr)) in attributes.iter().enumerate() {
            if attr.writable()
                && let (Some(last), Ok(found)) = (shown.get(&index), fs::read_to_string(path))
                && found.trim_end() != last.trim_end()
            {
                if found.is_empty() {
                    // A writer has truncated it and is about to write: not now.
                    truncated.insert(index);
                    continue;
                }
                // A bad value is undone by the refresh below: the only answer that a file can give.
                let _ = board.with(|plant, now| attr.write(plant, now, found.as_bytes()));
                shown.insert(index, found);
            }
        }
        for (index, (path, attr)) in attributes.iter().enumerate() {
            if truncated.contains(&index) {
                continue;
            }
            let text = board.with(|plant, now| {
                plant.advance(now);
                attr.read(plant)
            });
            match text {
                // What was written is left as it was written, if it holds.
                Ok(text) if shown.get(&index).is_some_and(|last| last.trim_end() == text.trim_end()) => {}
                Ok(text) => {
                    // Somebody wrote while this went on: the next refresh takes it in, rather than lose it.
                    let seen = shown.get(&index).filter(|_| attr.writable());
                    let other = |seen: &String| {
                        fs::read_to_string(path).is_ok_and(|now| now.trim_end() != seen.trim_end())
                    };
                    if seen.is_some_and(other) {
                        continue;
                    }
                    show(path, attr, &text)?;
                    shown.insert(index, text);
                }
                Err(_) => {
                    if shown.remove(&index).is_some() {
                        fs::remove_file(path)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Removes what was laid out.
    pub(super) fn remove(self) -> io::Result<()> {
        clear(&self.root)
    }
}

/// Replaces the file at once, so that a reader sees one value or the other. A writable one is rewritten in
/// place: a writer may hold it open.
fn show(path: &Path, attr: &Attr, text: &str) -> io::Result<()> {
    if attr.writable()
        && let Ok(file) = fs::File::options().write(true).open(path)
    {
        // Never empty in between, and never cut, which would tear what a writer puts there meanwhile: newlines
        // cover the rest of a longer text.
        let rest = usize::try_from(file.metadata()?.len()).unwrap_or(0).saturating_sub(text.len());
        return file.write_all_at(format!("{text}{:\n>rest$}", "").as_bytes(), 0);
    }
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(u32::from(attr.mode())))?;
    fs::rename(&new, path)
}

fn clear(root: &Path) -> io::Result<()> {
    let mut entries = fs::read_dir(root)?.peekable();
    if entries.peek().is_some() && !root.join(MARKER).exists() {
        let message = format!("{} is not empty and was not made by a simulated board", root.display());
        return Err(io::Error::new(io::ErrorKind::DirectoryNotEmpty, message));
    }
    for name in ["bus", "class", "devices", "firmware"] {
        match fs::remove_dir_all(root.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    match fs::remove_file(root.join(MARKER)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
