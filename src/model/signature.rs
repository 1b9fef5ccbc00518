//! Signed manifests: `model.toml.minisig` beside `model.toml`, made with `minisign -S`.
//!
//! The manifest holds the hash of every variant's file, so that its signature covers these too. It does not cover the
//! labelled sample: that decides what is measured, never what is run.

use super::store::MANIFEST;
use crate::config::document::{Problem, read_text};
use minisign_verify::{PublicKey, Signature};
use std::path::Path;

/// Name of the signature.
pub const SIGNATURE: &str = "model.toml.minisig";
/// Longest signature file, bytes; its comments are short.
const MAX_BYTES: u64 = 4_096;

/// A public key as minisign prints it: the second line of `minisign.pub`.
///
/// # Errors
/// What would be right.
pub fn key(text: &str) -> Result<PublicKey, String> {
    PublicKey::from_base64(text.trim())
        .map_err(|error| format!("is no key ({error}): give the line of minisign.pub that begins with RW"))
}

/// Whether one of the keys signed this text of a folder's manifest.
///
/// # Errors
/// If there is no signature, or it is not by one of the keys, or not of this text.
pub(super) fn check(folder: &Path, text: &str, keys: &[PublicKey]) -> Result<(), Problem> {
    let file = folder.join(SIGNATURE);
    let fault = |message: String| Problem::of_file(&file, message);
    if file.symlink_metadata().is_err() {
        let message = format!(
            "is missing: [models] public_keys takes signed folders only; sign with minisign -Sm {MANIFEST}"
        );
        return Err(fault(message));
    }
    let signature = Signature::decode(&read_text(&file, MAX_BYTES)?)
        .map_err(|error| fault(format!("is no signature of minisign ({error})")))?;
    if keys.iter().any(|key| key.verify(text.as_bytes(), &signature, false).is_ok()) {
        return Ok(());
    }
    Err(fault(format!(
        "does not fit: {MANIFEST} was changed after it was signed, or is not signed with a key of [models] public_keys"
    )))
}
