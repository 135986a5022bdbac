//! The plan of a request.

mod laws;
mod replay;
mod worked;
