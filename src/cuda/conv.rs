//! Convolutions of pictures that lie channels last, by cuDNN (`shim/conv.cpp`).
//!
//! Must not know any net. Caller: `models::ops::Conv` and the segmentation net's convolutions.

use std::ffi::{c_int, c_void};
use std::ptr;

use candle_core::{DType, Result, Tensor};

use super::launch::{Address, KernelError, Stream, View, check, contiguous_for, empty, format};
use super::picture::{channels_first, channels_last};

/// Mirrors `marquee_conv_shape`.
#[repr(C)]
struct Shape {
    format: i32,
    batch: i32,
    height: i32,
    width: i32,
    inputs: i32,
    outputs: i32,
    kernel: i32,
    stride: i32,
    before: i32,
    after: i32,
    bias: i32,
}

#[allow(unsafe_code)]
unsafe extern "C" {
    fn marquee_conv_plan(shape: *const Shape, plan: *mut *mut c_void, workspace: *mut usize) -> c_int;
    fn marquee_conv_run(
        plan: *mut c_void,
        x: Address,
        weight: Address,
        bias: Address,
        y: Address,
        workspace: Address,
        stream: Stream,
    ) -> c_int;
    fn marquee_cudnn_version() -> usize;
}

/// Whether cuDNN is there.
#[allow(unsafe_code)]
pub fn available() -> bool {
    // SAFETY: no arguments; opens the library at the first call.
    unsafe { marquee_cudnn_version() != 0 }
}

/// How a square kernel moves over a picture.
#[derive(Debug, Clone, Copy)]
pub struct Steps {
    /// Pixels from one output to the next.
    pub stride: usize,
    /// Rows of zeros above, and columns to the left.
    pub before: usize,
    /// Below, and to the right.
    pub after: usize,
}

/// `x` (batch, inputs, height, width), `weight` (outputs, inputs, k, k), `bias` (outputs), all of one dtype and one card:
/// (batch, outputs, …). Tensors that do not lie channels last are copied first; the result does. Sums in f32, rounded
/// once, after the bias.
///
/// # Errors
/// Shapes that do not fit together, cuDNN is missing or refuses, no room on the card.
#[allow(unsafe_code)]
pub fn conv2d(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, steps: Steps) -> Result<Tensor> {
    let (batch, inputs, height, width) = x.dims4()?;
    let (outputs, weight_inputs, kernel, kernel_width) = weight.dims4()?;
    let Steps { stride, before, after } = steps;
    let length =
        |side: usize| (side + before + after).checked_sub(kernel).map(|rest| rest / stride.max(1) + 1);
    let fits = weight_inputs == inputs && kernel == kernel_width && weight.dtype() == x.dtype() && stride > 0;
    let (Some(rows), Some(columns), Some(format), true) =
        (length(height), length(width), format(x.dtype()), fits)
    else {
        return Err(KernelError::Unfit {
            kernel: "marquee_conv_plan",
            expected: "a square kernel no larger than the padded picture, of its channels and dtype",
            found: format!("{:?} {:?} with {:?} {:?}", x.shape(), x.dtype(), weight.shape(), weight.dtype()),
        }
        .into());
    };
    let x = channels_last(x)?;
    let weight = contiguous_for("marquee_conv_run", &weight.permute((0, 2, 3, 1))?, &x)?;
    let bias = bias.map(|bias| contiguous_for("marquee_conv_run", bias, &x)).transpose()?;
    let shape = Shape {
        format,
        batch: batch as i32,
        height: height as i32,
        width: width as i32,
        inputs: inputs as i32,
        outputs: outputs as i32,
        kernel: kernel as i32,
        stride: stride as i32,
        before: before as i32,
        after: after as i32,
        bias: i32::from(bias.is_some()),
    };
    let from = View::of(&x)?;
    let (mut plan, mut workspace) = (ptr::null_mut(), 0);
    // SAFETY: three pointers to values that outlive the call. The view above bound the card to this thread.
    check("marquee_conv_plan", unsafe {
        marquee_conv_plan(&raw const shape, &raw mut plan, &raw mut workspace)
    })?;
    let y = empty((batch, rows, columns, outputs), x.dtype(), &from.device)?;
    let room = empty(workspace.max(1), DType::U8, &from.device)?;
    let bias = bias.as_ref().map(View::of).transpose()?;
    // SAFETY: the plan is for these shapes, and plans are never freed; each address is the first element of a contiguous
    // tensor of the shape that the plan names, on the stream's card, and outlives the work in stream order.
    check("marquee_conv_run", unsafe {
        marquee_conv_run(
            plan,
            from.address,
            View::of(&weight)?.address,
            bias.map_or(ptr::null_mut(), |bias| bias.address),
            View::of(&y)?.address,
            View::of(&room)?.address,
            from.stream(),
        )
    })?;
    channels_first(&y)
}
