//! Posts to the RunPod endpoint: results with a retry budget, progress without.
