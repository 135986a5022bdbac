//! `test_mode`: every picture procedural, everything else real.
