//! Attention inside the windows of a map (`kernels/window_attention.cu`).
//!
//! Must not know any net. Caller: the segmentation net's encoder.

use std::ffi::{c_float, c_int};

use candle_core::{DType, Result, Tensor};

use super::launch::{Address, KernelError, Stream, View, check, empty, format};

#[allow(unsafe_code)]
unsafe extern "C" {
    fn marquee_window_attention(
        format: c_int,
        qkv: Address,
        bias: Address,
        table: Address,
        out: Address,
        batch: c_int,
        height: c_int,
        width: c_int,
        heads: c_int,
        window: c_int,
        shift: c_int,
        scale: c_float,
        stream: Stream,
    ) -> c_int;
}

/// Channels of a head that the kernel is made for.
const HEAD: usize = 32;

/// How a map is cut.
#[derive(Debug, Clone, Copy)]
pub struct Windows {
    /// Tokens along a window's edge.
    pub edge: usize,
    /// How far up and left the map is moved first.
    pub shift: usize,
    /// Heads of attention.
    pub heads: usize,
}

/// Whether [`window_attention`] takes such windows of `qkv` (…, 3 channels).
pub fn takes(qkv: &Tensor, windows: Windows) -> bool {
    let channels = qkv.dims().last().map_or(0, |width| width / 3);
    matches!(qkv.dtype(), DType::F16 | DType::BF16)
        && matches!(windows.edge, 7 | 12)
        && windows.shift < windows.edge
        && channels == windows.heads * HEAD
}

/// `qkv` (batch, height, width, 3 channels), `bias` (3 channels) of the projection that made it, `table`
/// ((2 edge - 1)², heads): (batch, height, width, channels).
///
/// # Errors
/// What [`takes`] refuses; shapes that do not match; no room on the card.
#[allow(unsafe_code)]
pub fn window_attention(qkv: &Tensor, bias: &Tensor, table: &Tensor, windows: Windows) -> Result<Tensor> {
    const NAME: &str = "marquee_window_attention";
    let (batch, height, width, wide) = qkv.dims4()?;
    let Windows { edge, shift, heads } = windows;
    let distances = (2 * edge).saturating_sub(1) * (2 * edge).saturating_sub(1);
    let fits = takes(qkv, windows)
        && bias.dims() == [wide]
        && table.dims() == [distances, heads]
        && [bias, table].iter().all(|operand| operand.dtype() == qkv.dtype());
    let (Some(format), true) = (format(qkv.dtype()), fits) else {
        let found = format!("{:?} {:?} for {windows:?}", qkv.shape(), qkv.dtype());
        return Err(
            KernelError::Unfit { kernel: NAME, expected: "16-bit heads of 32 channels", found }.into()
        );
    };
    let (qkv, bias, table) = (qkv.contiguous()?, bias.contiguous()?, table.contiguous()?);
    let from = View::of(&qkv)?;
    let out = empty((batch, height, width, wide / 3), qkv.dtype(), &from.device)?;
    // SAFETY: contiguous tensors of the shapes that the kernel reads (checked above), on the stream's card; they outlive
    // the work in stream order.
    check(NAME, unsafe {
        marquee_window_attention(
            format,
            from.address,
            View::of(&bias)?.address,
            View::of(&table)?.address,
            View::of(&out)?.address,
            batch as c_int,
            height as c_int,
            width as c_int,
            heads as c_int,
            edge as c_int,
            shift as c_int,
            (HEAD as f64).powf(-0.5) as c_float,
            from.stream(),
        )
    })?;
    Ok(out)
}
