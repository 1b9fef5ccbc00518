//! Boards as text, `tests/data/sysfs/NAME.tree`, as trees of plain files: see [`wattd::board::sim::process::Fixture`].

use std::path::{Path, PathBuf};
use wattd::board::sim::process::Fixture;

/// A tree in a folder of its own.
pub(crate) struct Tree {
    dir: tempfile::TempDir,
}

impl Tree {
    /// One without any node but the directory that stands for `/sys`.
    pub(crate) fn empty() -> Self {
        let dir = tempfile::Builder::new().prefix("tree").tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sys")).unwrap();
        Self { dir }
    }

    /// The tree of `tests/data/sysfs/NAME.tree`.
    pub(crate) fn of(name: &str) -> Self {
        let tree = Self::empty();
        fixture(name).lay_out(tree.root()).unwrap_or_else(|error| panic!("{name}: {error}"));
        tree
    }

    /// Adds the node of one line.
    pub(crate) fn put(&self, line: &str) -> Result<(), String> {
        let fixture = Fixture::parse(line, "line").map_err(|error| error.to_string())?;
        fixture.lay_out(self.root()).map_err(|error| error.to_string())
    }

    /// The directory that stands for `/`.
    pub(crate) fn root(&self) -> &Path {
        self.dir.path()
    }

    /// A text without the paths of this tree's folder.
    pub(crate) fn without_root(&self, text: &str) -> String {
        text.replace(&self.root().display().to_string(), "")
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sysfs")
}

/// The board of `tests/data/sysfs/NAME.tree`.
pub(crate) fn fixture(name: &str) -> Fixture {
    let file = folder().join(format!("{name}.tree"));
    let text = std::fs::read_to_string(&file).unwrap();
    Fixture::parse(&text, &file.display().to_string()).unwrap_or_else(|error| panic!("{error}"))
}

/// Names of all trees.
pub(crate) fn names() -> Vec<String> {
    let files = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let trees = files.filter(|path| path.extension().is_some_and(|end| end == "tree"));
    let mut names: Vec<String> =
        trees.map(|path| path.file_stem().unwrap().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
