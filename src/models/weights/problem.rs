//! What is wrong with a checkpoint, one entry a defect, so that all can be reported at once.

use std::fmt;
use std::path::Path;

/// A defect: where, what was expected there, what was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// File, or wherever the tensor should be.
    pub file: String,
    /// Tensor key, or the part of the file that is broken.
    pub tensor: String,
    /// In words.
    pub expected: String,
    /// In words.
    pub found: String,
}

impl Problem {
    /// About `tensor` in `file`.
    pub fn new(
        file: &Path,
        tensor: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self {
            file: file.display().to_string(),
            tensor: tensor.into(),
            expected: expected.into(),
            found: found.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: expected {}, found {}", self.file, self.tensor, self.expected, self.found)
    }
}
