//! The RunPod endpoint as a source: job-take long polls, the stop channel and the heartbeat.
