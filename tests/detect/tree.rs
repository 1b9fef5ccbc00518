//! Boards as text: `tests/data/sysfs/NAME.tree` lists the nodes that a kernel shows, and becomes a tree of files.
//!
//! A line is `path mode content`. The path is relative to the root, with `sys`, `proc` and `etc` below it; the mode is
//! octal as the driver sets it, or `link`, and then the content is where it leads. In the content `\n`, `\0`, `\\` and
//! `\xNN` mean what they do elsewhere. A line's end is added, as most attributes have one, unless the content is
//! empty or ends in `\0`, as texts of a device tree do. Lines that begin with `#` are comments.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

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
        let file = folder().join(format!("{name}.tree"));
        let text = std::fs::read_to_string(&file).unwrap();
        let tree = Self::empty();
        for (index, line) in text.lines().enumerate() {
            if !line.is_empty() && !line.starts_with('#') {
                let at = format!("{}:{}", file.display(), index + 1);
                tree.put(line).unwrap_or_else(|why| panic!("{at}: {why}: {line}"));
            }
        }
        tree
    }

    /// Adds the node of one line.
    pub(crate) fn put(&self, line: &str) -> Result<(), String> {
        let mut parts = line.splitn(3, ' ');
        let path = parts.next().filter(|path| !path.starts_with('/')).ok_or("expected a relative path")?;
        // Some kernels' names have a space; they are written as \x20.
        let path = self.root().join(String::from_utf8(unescaped(path)?).map_err(|error| error.to_string())?);
        let mode = parts.next().ok_or("expected a mode behind the path")?;
        let content = parts.next().unwrap_or_default();
        std::fs::create_dir_all(path.parent().unwrap()).map_err(|error| error.to_string())?;
        if mode == "link" {
            return std::os::unix::fs::symlink(content, &path).map_err(|error| error.to_string());
        }
        let mode = u32::from_str_radix(mode, 8).map_err(|_| "expected an octal mode, or `link`")?;
        let mut bytes = unescaped(content)?;
        if !matches!(bytes.last(), None | Some(0)) {
            bytes.push(b'\n');
        }
        std::fs::write(&path, bytes).map_err(|error| error.to_string())?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))
            .map_err(|error| error.to_string())
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

/// Names of all trees.
pub(crate) fn names() -> Vec<String> {
    let files = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let trees = files.filter(|path| path.extension().is_some_and(|end| end == "tree"));
    let mut names: Vec<String> =
        trees.map(|path| path.file_stem().unwrap().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn unescaped(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        match rest.next() {
            Some(b'n') => bytes.push(b'\n'),
            Some(b'0') => bytes.push(0),
            Some(b'\\') => bytes.push(b'\\'),
            Some(b'x') => {
                let digits: Vec<u8> = rest.by_ref().take(2).collect();
                let digits = String::from_utf8_lossy(&digits).into_owned();
                bytes.push(
                    u8::from_str_radix(&digits, 16)
                        .map_err(|_| format!("\\x{digits}: expected two hex digits"))?,
                );
            }
            other => return Err(format!("\\{:?}: expected n, 0, \\ or xNN", other.map(char::from))),
        }
    }
    Ok(bytes)
}
