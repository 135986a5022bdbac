//! The gather of deformable convolutions (`kernels/deform_conv.cu`), and the matrix product behind it.
//!
//! Must not know any net. Caller: the segmentation net.

use std::ffi::c_int;

use candle_core::{Result, Tensor};

use super::launch::{Address, KernelError, Stream, View, check, empty, format};
use super::picture::{channels_first, channels_last};

#[allow(unsafe_code)]
unsafe extern "C" {
    fn marquee_deform_gather(
        format: c_int,
        x: Address,
        offset: Address,
        mask: Address,
        columns: Address,
        height: c_int,
        width: c_int,
        channels: c_int,
        kernel: c_int,
        activate: c_int,
        first: i64,
        count: i64,
        stream: Stream,
    ) -> c_int;
}

/// How much each tap counts, (batch, k², height, width).
#[derive(Debug, Clone, Copy)]
pub enum Mask<'a> {
    /// So much.
    Ready(&'a Tensor),
    /// `2 σ` of it.
    Raw(&'a Tensor),
}

/// `x` (batch, inputs, height, width), `offset` (batch, 2 k², height, width), `weight` (outputs, inputs, k, k):
/// (batch, outputs, height, width), channels last. At most `room` elements are unfolded at once (one pixel at least).
///
/// # Errors
/// Shapes or dtypes that do not fit together; no room on the card.
#[allow(unsafe_code)]
pub fn deform_conv2d(
    room: usize,
    x: &Tensor,
    offset: &Tensor,
    mask: Mask<'_>,
    weight: &Tensor,
) -> Result<Tensor> {
    const NAME: &str = "marquee_deform_gather";
    let (batch, inputs, height, width) = x.dims4()?;
    let (outputs, weight_inputs, kernel, kernel_width) = weight.dims4()?;
    let taps = kernel * kernel;
    let (mask, activate) = match mask {
        Mask::Ready(mask) => (mask, false),
        Mask::Raw(mask) => (mask, true),
    };
    let fits = offset.dims() == [batch, 2 * taps, height, width]
        && mask.dims() == [batch, taps, height, width]
        && (weight_inputs, kernel_width) == (inputs, kernel)
        && !kernel.is_multiple_of(2)
        && [offset, mask, weight].iter().all(|operand| operand.dtype() == x.dtype());
    let (Some(format), true) = (format(x.dtype()), fits) else {
        let found = format!(
            "x {:?}, offset {:?}, mask {:?}, weight {:?}, {:?}",
            x.shape(),
            offset.shape(),
            mask.shape(),
            weight.shape(),
            x.dtype()
        );
        return Err(KernelError::Unfit { kernel: NAME, expected: "shapes that fit together", found }.into());
    };
    let (x, offset, mask) = (channels_last(x)?, channels_last(offset)?, channels_last(mask)?);
    let matrix = channels_last(weight)?.reshape((outputs, taps * inputs))?.t()?;
    let pixels = batch * height * width;
    let stripe = (room / (taps * inputs).max(1)).clamp(1, pixels.max(1));
    let mut parts = Vec::with_capacity(pixels.div_ceil(stripe));
    for first in (0..pixels).step_by(stripe) {
        let count = stripe.min(pixels - first);
        let from = View::of(&x)?;
        let columns = empty((count, taps * inputs), x.dtype(), &from.device)?;
        // SAFETY: contiguous tensors of the shapes that the kernel reads (checked above), pixels within the batch, on the
        // stream's card; they outlive the work in stream order.
        check(NAME, unsafe {
            marquee_deform_gather(
                format,
                from.address,
                View::of(&offset)?.address,
                View::of(&mask)?.address,
                View::of(&columns)?.address,
                height as c_int,
                width as c_int,
                inputs as c_int,
                kernel as c_int,
                c_int::from(activate),
                first as i64,
                count as i64,
                from.stream(),
            )
        })?;
        parts.push(columns.matmul(&matrix)?);
    }
    channels_first(&Tensor::cat(&parts, 0)?.reshape((batch, height, width, outputs))?)
}
