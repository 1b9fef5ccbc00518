//! Where the configuration has keys, only what is signed with one of them is served.

use crate::harness::{Setup, copy, inputs, nothing_but, root, said, wattctl};
use minisign::KeyPair;
use std::path::Path;

fn sign(folder: &Path, pair: &KeyPair) {
    let manifest = std::fs::read(folder.join("model.toml")).unwrap();
    let signature = minisign::sign(Some(&pair.pk), &pair.sk, &manifest[..], None, None).unwrap();
    std::fs::write(folder.join("model.toml.minisig"), signature.to_string()).unwrap();
}

#[test]
fn unsigned_changed_and_foreign_folders_are_refused_and_a_signed_one_serves() {
    let (ours, theirs) =
        (KeyPair::generate_unencrypted_keypair().unwrap(), KeyPair::generate_unencrypted_keypair().unwrap());
    let mut setup = Setup::new();
    let models = setup.path("models");
    copy(&root().join("tests/data/models"), &models);
    let tiny = models.join("tiny");
    let manifest = std::fs::read_to_string(tiny.join("model.toml")).unwrap();
    setup.set("models.dir", vec![models.display().to_string()]);
    setup.set("models.public_keys", vec![ours.pk.to_base64()]);
    type Spoil<'a> = Box<dyn Fn() + 'a>;
    let cases: [(Spoil<'_>, &str); 4] = [
        (Box::new(|| {}), "model.toml.minisig: is missing: [models] public_keys takes signed folders only"),
        (Box::new(|| sign(&tiny, &theirs)), "not signed with a key of [models] public_keys"),
        (
            Box::new(|| {
                sign(&tiny, &ours);
                let changed = manifest.replace("accuracy = 0.9688", "accuracy = 0.9999");
                std::fs::write(tiny.join("model.toml"), changed).unwrap();
            }),
            "changed after it was signed",
        ),
        (
            Box::new(|| std::fs::write(tiny.join("model.toml.minisig"), "trust me").unwrap()),
            "no signature of minisign",
        ),
    ];
    let tensors = inputs("tests/data/models", "tiny");
    for (spoil, words) in cases {
        spoil();
        let daemon = setup.start();
        let problems = daemon.status().problems.join("\n");
        assert!(problems.contains(words), "no `{words}` in {problems}");
        assert!(daemon.model("tiny").problem.is_some_and(|problem| problem.contains(words)));
        assert!(daemon.ask(tensors.ask(0, 1)).is_err());
        daemon.stop();
        let checked = wattctl(["check".as_ref(), setup.file().as_os_str()]);
        assert!(checked.status.code() == Some(2) && said(&checked).contains(words), "{}", said(&checked));
    }
    std::fs::write(tiny.join("model.toml"), manifest).unwrap();
    sign(&tiny, &ours);
    let daemon = setup.start();
    assert_eq!(daemon.status().problems, Vec::<String>::new());
    assert_eq!(daemon.infer(nothing_but(&tensors, &[("variant", "base")])).served.variant, "base");
    daemon.stop();
    setup.set("models.public_keys", vec!["RWQ"]);
    let (code, words) = setup.fails();
    assert!(code == 2 && words.contains("models.public_keys[0]") && words.contains("RW"), "{code} {words}");
}

#[test]
fn limits_of_size_are_kept_and_named() {
    let mut setup = Setup::new();
    setup.models("tests/data/models").set("models.max_manifest_kb", 1);
    let daemon = setup.start();
    let problems = daemon.status().problems.join("\n");
    assert!(problems.contains("tiny/model.toml: is longer than 1000 bytes"), "{problems}");
    daemon.stop();
}
