//! Norm and rotation of q and k where they lie: `kernels/rope.cu` on tensors. Callers: `models::ops`.

use std::ffi::{c_int, c_void};
use std::ptr;

use candle_core::{DType, Result, Tensor};

use super::launch::{self, Rows, Stream, View};

#[allow(unsafe_code)]
unsafe extern "C" {
    fn marquee_rms_norm_rope(
        x: *mut c_void,
        eight: *mut c_void,
        batch_row: i64,
        token_row: i64,
        batch: i64,
        tokens: i64,
        heads: i64,
        dim: i64,
        words: i64,
        q_words: *const c_void,
        k_words: *const c_void,
        q_rest: *const c_void,
        k_rest: *const c_void,
        cosines: *const f32,
        sines: *const f32,
        eps: f32,
        format: c_int,
        stream: Stream,
    ) -> c_int;
}

/// Changes q and k in `x` (batch, tokens, q then k then anything), `heads` of each, by norm weights of q and k (head dim):
/// `of_words` for each batch's first `words` tokens, `of_rest` for the others; and by the table (tokens, head dim / 2) of
/// cosines and sines. False, and nothing done, for tensors that it does not take.
///
/// # Errors
/// The card failed.
pub fn rms_norm_rope(
    x: &Tensor,
    heads: usize,
    words: usize,
    of_words: [&Tensor; 2],
    of_rest: [&Tensor; 2],
    eps: f64,
    table: [&Tensor; 2],
) -> Result<bool> {
    run(x, None, (heads, words), of_words, of_rest, eps, table)
}

/// What [`rms_norm_rope`] would leave of `x` (batch, tokens, q then k then v), f16 or bf16, in e4m3 as u8; `x` stays as it is.
/// `None` for tensors that it does not take.
///
/// # Errors
/// No room on the card, or the card failed.
pub fn rms_norm_rope_eight(
    x: &Tensor,
    heads: usize,
    words: usize,
    of_words: [&Tensor; 2],
    of_rest: [&Tensor; 2],
    eps: f64,
    table: [&Tensor; 2],
) -> Result<Option<Tensor>> {
    let (Some(card), DType::F16 | DType::BF16) = (launch::card(x.device()), x.dtype()) else {
        return Ok(None);
    };
    if x.dim(2)? != 3 * heads * of_rest[0].elem_count() {
        return Ok(None);
    }
    let eight = launch::empty(x.shape(), DType::U8, card)?;
    Ok(run(x, Some(&eight), (heads, words), of_words, of_rest, eps, table)?.then_some(eight))
}

/// In place, or to `eight`, contiguous and of x's shape.
#[allow(unsafe_code)]
fn run(
    x: &Tensor,
    eight: Option<&Tensor>,
    (heads, words): (usize, usize),
    of_words: [&Tensor; 2],
    of_rest: [&Tensor; 2],
    eps: f64,
    table: [&Tensor; 2],
) -> Result<bool> {
    let (Some(_), Some(format)) = (launch::card(x.device()), launch::format(x.dtype())) else {
        return Ok(false);
    };
    let (batch, tokens, columns) = x.dims3()?;
    let dim = of_rest[0].elem_count();
    let view = View::of(x)?;
    let Some(rows) = Rows::of(view.layout).and_then(|rows| rows.split(tokens)) else { return Ok(false) };
    // Threads a head, 16 bytes each.
    let lanes = dim * x.dtype().size_in_bytes() / 16;
    if rows.blocks != batch
        || columns < 2 * heads * dim
        || !view.packed(&rows)
        || !matches!(lanes, 4 | 8 | 16 | 32)
        || lanes * 16 != dim * x.dtype().size_in_bytes()
    {
        return Ok(false);
    }
    let [Some(q_words), Some(k_words), Some(q_rest), Some(k_rest)] =
        [of_words[0], of_words[1], of_rest[0], of_rest[1]].map(|weight| whole(weight, x.dtype(), &[dim]))
    else {
        return Ok(false);
    };
    let [Some(cosines), Some(sines)] = table.map(|half| whole(half, DType::F32, &[tokens, dim / 2])) else {
        return Ok(false);
    };
    let eight = eight.map(View::of).transpose()?;
    // SAFETY: each batch has `tokens` rows of at least 2 x heads x dim numbers at these distances (3 where they leave in 8
    // bits), the table a row for each token, the weights `dim` numbers, all checked above or by the caller; the stream is
    // theirs.
    let code = unsafe {
        marquee_rms_norm_rope(
            view.address,
            eight.map_or(ptr::null_mut(), |eight| eight.address),
            rows.block_distance as i64,
            rows.distance as i64,
            batch as i64,
            tokens as i64,
            heads as i64,
            dim as i64,
            words as i64,
            q_words.address,
            k_words.address,
            q_rest.address,
            k_rest.address,
            cosines.address.cast(),
            sines.address.cast(),
            eps as f32,
            format,
            view.stream(),
        )
    };
    launch::check("marquee_rms_norm_rope", code)?;
    Ok(true)
}

/// The view of a contiguous tensor on a card, of this format and shape.
fn whole<'a>(tensor: &'a Tensor, dtype: DType, shape: &[usize]) -> Option<View<'a>> {
    let view = View::of(tensor).ok()?;
    (tensor.dtype() == dtype && tensor.dims() == shape && tensor.is_contiguous() && view.aligned(16))
        .then_some(view)
}
