//! The board files that come with the project, so that a board can be named where its file is not.

use super::spec::{BoardSpec, SpecError};
use std::path::Path;

/// Name and text of each.
const FILES: [(&str, &str); 14] = [
    ("desktop", include_str!("../../config/boards/desktop.toml")),
    ("generic-arm", include_str!("../../config/boards/generic-arm.toml")),
    ("generic-x86", include_str!("../../config/boards/generic-x86.toml")),
    ("jetson-agx-orin", include_str!("../../config/boards/jetson-agx-orin.toml")),
    ("jetson-agx-xavier", include_str!("../../config/boards/jetson-agx-xavier.toml")),
    ("jetson-nano", include_str!("../../config/boards/jetson-nano.toml")),
    ("jetson-orin-nano", include_str!("../../config/boards/jetson-orin-nano.toml")),
    ("jetson-orin-nx", include_str!("../../config/boards/jetson-orin-nx.toml")),
    ("jetson-thor", include_str!("../../config/boards/jetson-thor.toml")),
    ("jetson-tx2", include_str!("../../config/boards/jetson-tx2.toml")),
    ("jetson-xavier-nx", include_str!("../../config/boards/jetson-xavier-nx.toml")),
    ("raspberry-pi-4", include_str!("../../config/boards/raspberry-pi-4.toml")),
    ("raspberry-pi-5", include_str!("../../config/boards/raspberry-pi-5.toml")),
    ("rk3588", include_str!("../../config/boards/rk3588.toml")),
];

/// Names of the boards that come with the project.
pub fn names() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|(name, _)| *name)
}

/// The board of a name; `None` if no such board comes with the project.
///
/// # Errors
/// As [`BoardSpec::parse`]: never, as tests prove.
pub fn named(name: &str) -> Option<Result<BoardSpec, SpecError>> {
    let (name, text) = FILES.iter().find(|(known, _)| *known == name)?;
    Some(BoardSpec::parse(text, Path::new(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_file_is_there_under_its_name() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/boards");
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let files: BTreeSet<String> =
            files.map(|file| file.file_stem().unwrap().to_string_lossy().into_owned()).collect();
        assert_eq!(names().map(str::to_owned).collect::<BTreeSet<_>>(), files);
        for name in names() {
            assert_eq!(named(name).unwrap().unwrap().name, name);
        }
        assert!(named("toaster").is_none());
    }
}
