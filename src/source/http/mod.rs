//! The local HTTP API as a source: the platform's routes over a bounded in-memory queue.
