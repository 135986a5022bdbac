//! Joining GGML matrices by rows without leaving their blocks.
//!
//! Blocks lie along the last dimension and rows are whole numbers of blocks, so rows of one block type can be put below
//! each other byte by byte.

use std::borrow::Cow;

use candle_core::quantized::{QStorage, QTensor};
use candle_core::{Device, Error, Result};

use super::Loaded;

/// Whether all are blocks, of one type.
pub(super) fn joinable(parts: &[Loaded]) -> bool {
    let mut types = parts.iter().map(|part| match part {
        Loaded::Quantised(tensor) => Some(tensor.dtype()),
        Loaded::Dense(_) => None,
    });
    match types.next() {
        Some(Some(first)) => types.all(|other| other == Some(first)),
        _ => false,
    }
}

pub(super) fn join(parts: Vec<Loaded>, inputs: usize, device: &Device) -> Result<QTensor> {
    let mut tensors = Vec::with_capacity(parts.len());
    for part in parts {
        match part {
            Loaded::Quantised(tensor) => tensors.push(tensor),
            Loaded::Dense(_) => return Err(Error::Msg("a dense matrix among quantised ones".to_owned())),
        }
    }
    if tensors.len() == 1 {
        return Ok(tensors.swap_remove(0));
    }
    let Some(dtype) = tensors.first().map(QTensor::dtype) else {
        return Err(Error::Msg("no matrices to join".to_owned()));
    };
    if let Some(other) = tensors.iter().find(|tensor| tensor.dtype() != dtype) {
        return Err(Error::Msg(format!(
            "matrices of one fused layer are stored as {dtype:?} and {:?}; expected one block type",
            other.dtype()
        )));
    }
    let mut rows = 0;
    let mut bytes = Vec::new();
    for tensor in &tensors {
        rows += tensor.shape().dims().first().copied().unwrap_or(0);
        bytes.extend_from_slice(&tensor.data()?);
    }
    QTensor::new(QStorage::from_data(Cow::Owned(bytes), device, dtype)?, (rows, inputs))
}
