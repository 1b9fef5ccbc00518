//! What an operator sees: metrics, logs, and the mapping from effects to both.
