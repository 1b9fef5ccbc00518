//! The files that come with the project are what the code expects.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::path::{Path, PathBuf};
use wattd::board::BoardSpec;
use wattd::board::sim::{PlantSpec, Script};
use wattd::model::{ModelStore, Sample};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `dir` with the extension.
fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn every_toml_file_under_config_is_toml() {
    let files = files(&root().join("config"), "toml");
    assert!(files.len() >= 2, "{files:?}");
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        if let Err(e) = text.parse::<toml::Table>() {
            panic!("{}: {e}", file.display());
        }
    }
}

/// These files need nothing of the machine: they load as they stand, and so do their boards.
#[test]
fn the_configurations_for_a_desktop_load() {
    for name in ["desktop.toml", "demo.toml"] {
        let config = wattd::config::Config::load(&root().join("config").join(name));
        let config = config.unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(config.models.dirs, [root().join("config/models")]);
        let board = BoardSpec::load(&config.board.file).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(board.name, "jetson-tx2");
    }
}

/// Every shipped board is well-formed, has a plant, and can play every shipped disturbance.
#[test]
fn every_shipped_board_plays_every_shipped_disturbance() {
    let boards = files(&root().join("config/boards"), "toml");
    let scripts = files(&root().join("config/disturbances"), "toml");
    assert!(boards.len() >= 5 && !scripts.is_empty(), "{boards:?} {scripts:?}");
    for file in &boards {
        let board = BoardSpec::load(file).unwrap_or_else(|error| panic!("{error}"));
        let plant = PlantSpec::from_board(&board).unwrap_or_else(|error| panic!("{error}"));
        for script in &scripts {
            let text = std::fs::read_to_string(script).unwrap();
            let script = script.display().to_string();
            if let Err(error) = Script::parse(&text, &script, &plant) {
                panic!("{} on {}: {error}", script, file.display());
            }
        }
    }
}

/// Every shipped model folder is sound: hashes, sizes, sample.
#[test]
fn every_shipped_model_is_sound() {
    let dir = root().join("config/models");
    let manifests = files(&root().join("config"), "toml");
    let expected = manifests.iter().filter(|file| file.ends_with("model.toml")).count();
    assert!(expected >= 2, "at least two ladders");
    let (models, problems) = ModelStore::default().open(&[dir]);
    assert_eq!(problems, []);
    assert_eq!(models.len(), expected);
    for model in &models {
        assert!(model.variants().len() >= 3, "{} is no ladder", model.name);
        assert_eq!(model.variants()[0].parent, None, "{}: the reference comes first", model.name);
        let sample = Sample::read(model).unwrap_or_else(|problem| panic!("{problem}"));
        assert!(sample.is_some_and(|sample| sample.len() >= 100), "{} has no sample", model.name);
    }
}
