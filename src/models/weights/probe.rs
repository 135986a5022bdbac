//! A source that has everything and holds nothing: running a net's constructor on it yields the net's schema.
//!
//! The tensors it hands out repeat one zero with strides of nothing, so a full-size net costs kilobytes. Constructors
//! may keep, transpose and reshape them, but must not compute with them (and have no reason to).

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Result, Tensor};

use crate::models::ops::Rounding;

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
    /// The matrix of a linear layer; may stay in GGML blocks. Else it is rounded to 8 bits, if the net wants that.
    Matrix(Option<Rounding>),
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
    /// Prefix of the [`super::Blocks`]' block that asked, if it was one.
    pub(super) block: Option<Arc<str>>,
}

/// Notes what was asked for, in order.
#[derive(Debug, Default)]
pub struct Probe {
    noted: Mutex<Vec<Asked>>,
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

    pub(super) fn note(&self, asked: Asked) -> Result<Tensor> {
        let tensor = dataless(&asked.shape, asked.dtype);
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
        tensor
    }

    /// Notes several tensors that are read as one.
    pub(super) fn note_joined(&self, parts: Vec<Asked>) -> Result<Tensor> {
        let Some(first) = parts.first() else { return dataless(&[0], DType::F32) };
        let (mut shape, dtype) = (first.shape.clone(), first.dtype);
        if let Some(rows) = shape.first_mut() {
            *rows = parts.iter().filter_map(|part| part.shape.first()).sum();
        }
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let group = Some(noted.len());
        noted.extend(parts.into_iter().map(|part| Asked { group, ..part }));
        dataless(&shape, dtype)
    }
}

/// Zeros of any shape out of one element.
fn dataless(shape: &[usize], dtype: DType) -> Result<Tensor> {
    Tensor::zeros((), dtype, &Device::Cpu)?.broadcast_as(shape)
}
