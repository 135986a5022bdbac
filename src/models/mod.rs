//! The nets: weights in, tensors out, no policy.
