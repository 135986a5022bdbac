//! Runs jobs: takes from a source while a permit is free, runs the engine, delivers through the job's own sink.
