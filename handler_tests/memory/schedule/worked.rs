//! Cases small enough to follow by hand.
