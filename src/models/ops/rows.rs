//! Moving rows: embeddings, joining token sequences, T5's positions.

use candle_core::{Device, Result, Tensor};

#[cfg(feature = "cuda")]
use crate::cuda::copy as kernel;

/// Rows `ids` of `table` (vocabulary, channels): (batch, length, channels). Ids were checked against the table.
///
/// # Errors
/// Ids beyond the table, or the device has no room.
pub fn embed(table: &Tensor, ids: &[Vec<u32>]) -> Result<Tensor> {
    let (list, shape) = (ids.concat(), (ids.len(), (), table.dim(1)?));
    #[cfg(feature = "cuda")]
    if let Some(rows) = kernel::gather(table, &list)? {
        return rows.reshape(shape);
    }
    let count = list.len();
    table.index_select(&Tensor::from_vec(list, count, table.device())?, 0)?.reshape(shape)
}

/// `first`'s tokens, then `second`'s: (batch, tokens, channels) each.
///
/// # Errors
/// Shapes that do not match.
pub fn join_tokens(first: &Tensor, second: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    {
        let (batch, words, channels) = first.dims3()?;
        let tokens = second.dim(1)?;
        let both = super::buffer((batch, words + tokens, channels), first)?;
        if first.dtype() == second.dtype()
            && kernel::copy_into(first, &both.narrow(1, 0, words)?)?
            && kernel::copy_into(second, &both.narrow(1, words, tokens)?)?
        {
            return Ok(both);
        }
    }
    Tensor::cat(&[first, second], 1)
}

/// A bias of attention by distance: (1, heads, length, length) of the rows of `table` (buckets, heads) that `bucket` names
/// for key position - query position.
///
/// # Errors
/// A bucket beyond the table, or the device has no room.
pub fn relative_bias(table: &Tensor, length: usize, bucket: impl Fn(i64) -> u32) -> Result<Tensor> {
    let last = length as i64 - 1;
    let buckets: Vec<u32> = (-last..=last).map(bucket).collect();
    #[cfg(feature = "cuda")]
    if let Some(bias) = kernel::relative_bias(table, &buckets)? {
        return Ok(bias);
    }
    let rows: Vec<u32> =
        (0..length).rev().flat_map(|first| buckets.iter().skip(first).take(length).copied()).collect();
    let rows = Tensor::from_vec(rows, length * length, &Device::Cpu)?.to_device(table.device())?;
    table
        .index_select(&rows, 0)?
        .reshape((length, length, ()))?
        .permute((2, 0, 1))?
        .unsqueeze(0)?
        .contiguous()
}
