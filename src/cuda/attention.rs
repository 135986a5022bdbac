//! Attention through cuDNN: `shim/attention.cpp` on tensors. Callers: `models::ops`.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::Once;

use candle_core::{DType, Layout, Result, Tensor};

use super::launch::{self, Stream, View};

/// As in `attention.cpp`.
#[repr(C)]
struct Arguments {
    batch: i64,
    heads: i64,
    queries: i64,
    keys: i64,
    dim: i64,
    q_stride: [i64; 3],
    k_stride: [i64; 3],
    v_stride: [i64; 3],
    o_stride: [i64; 3],
    bias_batch: i64,
    bias_heads: i64,
    bias_stride: [i64; 3],
    format: i32,
    bias_format: i32,
    causal: i32,
    scale: f32,
}

#[allow(unsafe_code)]
unsafe extern "C" {
    fn marquee_attention_prepare(arguments: *const Arguments, biased: c_int, stream: Stream) -> c_int;
    fn marquee_attention(
        arguments: *const Arguments,
        q: *const c_void,
        k: *const c_void,
        v: *const c_void,
        bias: *const c_void,
        o: *mut c_void,
        stream: Stream,
    ) -> c_int;
}

/// What is added to the scaled scores.
#[derive(Debug, Clone, Copy)]
pub enum Mask<'a> {
    /// Nothing.
    None,
    /// -inf where a key follows its query.
    Causal,
    /// (1 or batch, 1 or heads, queries, keys).
    Bias(&'a Tensor),
}

/// `softmax(q kᵀ · scale + mask) v` of q (batch, queries, heads, head dim), k and v (batch, keys, heads, head dim), in
/// f16 or bf16, written to `o` of q's shape, which may be a part of a wider tensor. False, and nothing written, where cuDNN
/// is missing or does not take the tensors; the first refusal goes to the log.
///
/// # Errors
/// cuDNN failed.
#[allow(unsafe_code)]
pub fn attention_into(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    scale: f64,
    mask: Mask<'_>,
    o: &Tensor,
) -> Result<bool> {
    let (Some(_), Some(format), DType::F16 | DType::BF16) =
        (launch::card(q.device()), launch::format(q.dtype()), q.dtype())
    else {
        return Ok(false);
    };
    let (batch, queries, heads, dim) = q.dims4()?;
    let keys = k.dim(1)?;
    let fits = |tensor: &Tensor, tokens: usize| {
        tensor.dtype() == q.dtype() && tensor.dims() == [batch, tokens, heads, dim]
    };
    if !fits(k, keys) || !fits(v, keys) || !fits(o, queries) || !dim.is_multiple_of(8) || dim > 256 {
        return Ok(false);
    }
    let views = [View::of(q)?, View::of(k)?, View::of(v)?, View::of(o)?];
    let [Some(q_stride), Some(k_stride), Some(v_stride), Some(o_stride)] = [0, 1, 2, 3].map(|index| {
        views.get(index).filter(|view| view.aligned(16)).and_then(|view| token_strides(view.layout))
    }) else {
        return Ok(false);
    };
    let bias = match mask {
        Mask::Bias(bias) => Some(View::of(bias)?),
        Mask::None | Mask::Causal => None,
    };
    let mut arguments = Arguments {
        batch: batch as i64,
        heads: heads as i64,
        queries: queries as i64,
        keys: keys as i64,
        dim: dim as i64,
        q_stride,
        k_stride,
        v_stride,
        o_stride,
        bias_batch: 0,
        bias_heads: 0,
        bias_stride: [0; 3],
        format,
        bias_format: 0,
        causal: c_int::from(matches!(mask, Mask::Causal)),
        scale: scale as f32,
    };
    if let Some(view) = &bias {
        let (Some(bias_format), &[bias_batch, bias_heads, rows, columns], &[s0, s1, s2, 1]) =
            (launch::format(view.dtype), view.layout.dims(), view.layout.stride())
        else {
            return Ok(false);
        };
        let one_or = |count: usize, all: usize| count == 1 || count == all;
        if !one_or(bias_batch, batch) || !one_or(bias_heads, heads) || (rows, columns) != (queries, keys) {
            return Ok(false);
        }
        arguments.bias_batch = bias_batch as i64;
        arguments.bias_heads = bias_heads as i64;
        arguments.bias_stride = [s0, s1, s2].map(|stride| stride as i64);
        arguments.bias_format = bias_format;
    }
    let [q, k, v, o] = &views;
    let bias_address = bias.as_ref().map_or(ptr::null_mut(), |view| view.address);
    // SAFETY: the arguments' shape and distances are the tensors' own, checked above; preparing reads no tensor.
    let refused =
        unsafe { marquee_attention_prepare(&raw const arguments, c_int::from(bias.is_some()), q.stream()) };
    if let Err(reason) = launch::check("marquee_attention_prepare", refused) {
        static TOLD: Once = Once::new();
        TOLD.call_once(|| tracing::warn!(%reason, "attention goes a slower way on this card"));
        return Ok(false);
    }
    // SAFETY: as above; all five lie on the stream's card and outlive the launch in its order.
    let code = unsafe {
        marquee_attention(
            &raw const arguments,
            q.address,
            k.address,
            v.address,
            bias_address,
            o.address,
            q.stream(),
        )
    };
    launch::check("marquee_attention", code)?;
    Ok(true)
}

/// Distances of batches, tokens and heads; `None` unless channels are adjacent and rows begin at multiples of 16 bytes.
fn token_strides(layout: &Layout) -> Option<[i64; 3]> {
    let &[batch, tokens, heads, 1] = layout.stride() else { return None };
    [batch, tokens, heads]
        .iter()
        .all(|stride| stride.is_multiple_of(8))
        .then(|| [batch, tokens, heads].map(|stride| stride as i64))
}
