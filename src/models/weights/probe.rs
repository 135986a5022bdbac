//! A source that has everything and holds nothing: running a net's constructor on it yields the net's schema.
//!
//! The tensors it hands out repeat one zero with strides of nothing, so a full-size net costs kilobytes. Constructors
//! may keep, transpose and reshape them, but must not compute with them (and have no reason to).

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Result, Tensor};

/// A tensor that a net asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Full key.
    pub key: String,
    /// Rows first.
    pub shape: Vec<usize>,
}

/// What a net does with a tensor, as far as it matters to where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The matrix of a linear layer; may stay quantised.
    Matrix,
    /// A convolution's kernel.
    Kernel,
    /// Anything else.
    Plain,
}

/// Everything a net said about a tensor that it asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) key: String,
    pub(super) shape: Vec<usize>,
    pub(super) dtype: DType,
    pub(super) role: Role,
    /// Tensors of one group are read as one, below each other.
    pub(super) group: Option<usize>,
}

/// Notes what was asked for, in order.
#[derive(Debug, Default)]
pub struct Probe {
    noted: Mutex<Vec<Asked>>,
    blocks: Mutex<HashSet<String>>,
}

impl Probe {
    /// What was asked for so far.
    pub fn expected(&self) -> Vec<Expected> {
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.iter().map(|asked| Expected { key: asked.key.clone(), shape: asked.shape.clone() }).collect()
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Prefixes of what the net takes as [`super::Blocks`].
    pub(super) fn blocks(&self) -> HashSet<String> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn note_block(&self, prefix: &str) {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner).insert(prefix.to_owned());
    }

    pub(super) fn note(&self, key: String, shape: &[usize], dtype: DType, role: Role) -> Result<Tensor> {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.push(Asked { key, shape: shape.to_vec(), dtype, role, group: None });
        dataless(shape, dtype)
    }

    /// Notes several tensors that are read as one.
    pub(super) fn note_joined(
        &self,
        parts: &[(String, Vec<usize>)],
        dtype: DType,
        role: Role,
    ) -> Result<Tensor> {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let group = Some(noted.len());
        let mut shape = parts.first().map(|(_, shape)| shape.clone()).unwrap_or_default();
        if let Some(rows) = shape.first_mut() {
            *rows = parts.iter().filter_map(|(_, shape)| shape.first()).sum();
        }
        noted.extend(parts.iter().map(|(key, shape)| Asked {
            key: key.clone(),
            shape: shape.clone(),
            dtype,
            role,
            group,
        }));
        dataless(&shape, dtype)
    }
}

/// Zeros of any shape out of one element.
fn dataless(shape: &[usize], dtype: DType) -> Result<Tensor> {
    Tensor::zeros((), dtype, &Device::Cpu)?.broadcast_as(shape)
}
