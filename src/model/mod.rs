//! Models on disk: manifests, the store, verification, labelled samples.
