//! Fakes shared by the tests.

pub mod endpoint;
pub mod fakes;
