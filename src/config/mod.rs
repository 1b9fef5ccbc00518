//! Configuration: the TOML as written, its validation, and what may change on reload.
