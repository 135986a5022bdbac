//! Attention in 8 bits: `shim/attention_eight.cpp` on tensors. For cards from Hopper on that have cuDNN. Callers:
//! `models::ops`.

use std::ffi::{c_int, c_void};
use std::sync::Once;
use std::thread;

use candle_core::{CudaDevice, DType, Result, Tensor};

use super::launch::{self, Stream, View};

/// As in `attention_eight.cpp`.
#[repr(C)]
struct Arguments {
    batch: i64,
    heads: i64,
    tokens: i64,
    dim: i64,
    scale: f32,
}

#[allow(unsafe_code)]
unsafe extern "C" {
    fn marquee_attention_eight_prepare(arguments: *const Arguments, stream: Stream) -> c_int;
    fn marquee_attention_eight(
        arguments: *const Arguments,
        qkv: *const c_void,
        o: *mut c_void,
        stream: Stream,
    ) -> c_int;
}

/// (batch, heads, tokens, head dim) of an attention of all tokens to each other.
pub type Shape = [usize; 4];

impl Arguments {
    fn new([batch, heads, tokens, dim]: Shape) -> Self {
        let scale = 1.0 / (dim as f64).sqrt();
        Self {
            batch: batch as i64,
            heads: heads as i64,
            tokens: tokens as i64,
            dim: dim as i64,
            scale: scale as f32,
        }
    }
}

/// Whether the card is of a kind that has it.
pub fn suits(card: &CudaDevice) -> bool {
    launch::capability(card) >= 90
}

/// Whether the card has it for this shape. The first answer takes cuDNN a second.
#[allow(unsafe_code)]
pub fn available(card: &CudaDevice, shape: Shape) -> bool {
    let [.., dim] = shape;
    if !suits(card) || !dim.is_multiple_of(16) {
        return false;
    }
    let stream = card.cuda_stream();
    if stream.context().bind_to_thread().is_err() {
        return false;
    }
    let arguments = Arguments::new(shape);
    // SAFETY: preparing reads no tensor.
    let refused = unsafe { marquee_attention_eight_prepare(&raw const arguments, stream.cu_stream().cast()) };
    if let Err(reason) = launch::check("marquee_attention_eight_prepare", refused) {
        static TOLD: Once = Once::new();
        TOLD.call_once(|| tracing::warn!(%reason, "attention stays in 16 bits on this card"));
        return false;
    }
    true
}

/// Makes the plan of `shape` on a thread of its own, in which other work can go on. What fails here fails again when the
/// attention is asked for, and is told there.
pub fn warm(card: &CudaDevice, shape: Shape) {
    let card = card.clone();
    let work = move || {
        available(&card, shape);
    };
    if let Err(error) = thread::Builder::new().name("attention-plans".to_owned()).spawn(work) {
        tracing::debug!(%error, "attention plans are made at first use");
    }
}

/// `softmax(q kᵀ / √dim) v` of `qkv` (batch, tokens, q then k then v of `heads`; contiguous), e4m3 as u8 without scales: so is
/// the result, (batch, tokens, heads · dim). `None` for tensors that it does not take.
///
/// # Errors
/// cuDNN failed; no room on the card.
#[allow(unsafe_code)]
pub fn attention(qkv: &Tensor, heads: usize) -> Result<Option<Tensor>> {
    let Some(card) = launch::card(qkv.device()) else { return Ok(None) };
    let (batch, tokens, columns) = qkv.dims3()?;
    let inner = columns / 3;
    let shape = [batch, heads, tokens, inner / heads.max(1)];
    if qkv.dtype() != DType::U8
        || !qkv.is_contiguous()
        || columns != 3 * heads * (inner / heads.max(1))
        || !available(card, shape)
    {
        return Ok(None);
    }
    let o = launch::empty((batch, tokens, inner), DType::U8, card)?;
    let (from, to) = (View::of(qkv)?, View::of(&o)?);
    if !from.aligned(16) {
        return Ok(None);
    }
    let arguments = Arguments::new(shape);
    // SAFETY: qkv and o are contiguous and of the shapes that the arguments name, checked above; the stream is theirs, and
    // they outlive the launch in its order.
    let code =
        unsafe { marquee_attention_eight(&raw const arguments, from.address, to.address, from.stream()) };
    launch::check("marquee_attention_eight", code)?;
    drop(to);
    Ok(Some(o))
}
