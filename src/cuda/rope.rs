//! Norm and rotation of q and k where they lie: `kernels/rope.cu` on tensors. Callers: `models::ops`.

use std::ffi::{c_int, c_void};

use candle_core::{DType, Result, Tensor};

use super::launch::{self, Rows, Stream, View};

#[allow(unsafe_code)]
unsafe extern "C" {
    fn marquee_norm_rope(
        x: *mut c_void,
        row: i64,
        q_weight: *const c_void,
        k_weight: *const c_void,
        cosines: *const f32,
        sines: *const f32,
        tokens: i64,
        heads: c_int,
        dim: c_int,
        eps: f32,
        format: c_int,
        stream: Stream,
    ) -> c_int;
}

/// Changes q and k in `x` (batch, tokens, q then k then anything), `heads` of each, by `weights` (head dim) of q and k and
/// the table (tokens, head dim / 2) of cosines and sines. False, and nothing done, for tensors that it does not take.
///
/// # Errors
/// The card failed.
#[allow(unsafe_code)]
pub fn norm_rope(
    x: &Tensor,
    heads: usize,
    (q_weight, k_weight): (&Tensor, &Tensor),
    eps: f64,
    (cosines, sines): (&Tensor, &Tensor),
) -> Result<bool> {
    let (Some(_), Some(format)) = (launch::card(x.device()), launch::format(x.dtype())) else {
        return Ok(false);
    };
    let (batch, tokens, columns) = x.dims3()?;
    let dim = q_weight.elem_count();
    let lanes = dim * x.dtype().size_in_bytes() / 16;
    let view = View::of(x)?;
    let Some(rows) = Rows::of(view.layout).and_then(|rows| rows.split(tokens)) else { return Ok(false) };
    let like = |weight: &Tensor| weight.dtype() == x.dtype() && weight.elem_count() == dim && weight.is_contiguous();
    let table = |half: &Tensor| half.dtype() == DType::F32 && half.dims() == [tokens, dim / 2] && half.is_contiguous();
    if rows.blocks != batch
        || columns < 2 * heads * dim
        || !view.packed(&rows)
        || !lanes.is_power_of_two()
        || lanes > 32
        || !(dim * x.dtype().size_in_bytes()).is_multiple_of(16)
        || !like(q_weight)
        || !like(k_weight)
        || !table(cosines)
        || !table(sines)
    {
        return Ok(false);
    }
    let (q_weight, k_weight) = (View::of(q_weight)?, View::of(k_weight)?);
    let (cosines, sines) = (View::of(cosines)?, View::of(sines)?);
    if !q_weight.aligned(16) || !k_weight.aligned(16) {
        return Ok(false);
    }
    for block in 0..batch {
        // SAFETY: each block has `tokens` rows of at least 2 x heads x dim numbers at this distance, the table a row for
        // each, the weights `dim` numbers, all checked above; the stream is theirs.
        let code = unsafe {
            marquee_norm_rope(
                launch::advance(view.address, block * rows.block_distance, x.dtype()),
                rows.distance as i64,
                q_weight.address,
                k_weight.address,
                cosines.address.cast(),
                sines.address.cast(),
                tokens as i64,
                heads as c_int,
                dim as c_int,
                eps as f32,
                format,
                view.stream(),
            )
        };
        launch::check("marquee_norm_rope", code)?;
    }
    Ok(true)
}
