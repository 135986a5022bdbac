//! Fakes shared by the tests.

pub mod endpoint;
