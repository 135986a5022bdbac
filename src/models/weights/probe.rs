//! A source that has everything and holds nothing: running a net's constructor on it yields the net's schema.
//!
//! The tensors it hands out repeat one zero with strides of nothing, so a full-size net costs kilobytes. Constructors
//! may keep, transpose and reshape them, but must not compute with them (and have no reason to).

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

/// Notes what was asked for, in order.
#[derive(Debug, Default)]
pub struct Probe {
    noted: Mutex<Vec<Expected>>,
}

impl Probe {
    /// What was asked for so far.
    pub fn expected(&self) -> Vec<Expected> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn note(&self, key: String, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.push(Expected { key, shape: shape.to_vec() });
        dataless(shape, dtype)
    }
}

/// Zeros of any shape out of one element.
pub(super) fn dataless(shape: &[usize], dtype: DType) -> Result<Tensor> {
    Tensor::zeros((), dtype, &Device::Cpu)?.broadcast_as(shape)
}
