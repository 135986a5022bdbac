//! Kernels over pictures that lie channels last (`kernels/{group_norm,resample,pixelwise}.cu`).
//!
//! A picture has the logical shape (batch, channels, height, width) with strides as if it were (batch, height, width,
//! channels), which is torch's `channels_last`. Functions take any strides and copy what lies otherwise; results lie
//! channels last. Must not know any net. Caller: `models::ops`.

use std::ffi::{c_float, c_int};
use std::ptr;

use candle_core::{DType, Error, Result, Tensor};

use super::launch::{Address, KernelError, Stream, View, check, contiguous_for, elsewhere, empty, format};

#[allow(unsafe_code)]
unsafe extern "C" {
    fn marquee_group_norm_scratch(batch: c_int, groups: c_int) -> usize;
    fn marquee_group_norm(
        format: c_int,
        x: Address,
        shift: Address,
        weight: Address,
        bias: Address,
        y: Address,
        scratch: Address,
        batch: c_int,
        pixels: i64,
        channels: c_int,
        groups: c_int,
        eps: c_float,
        silu: c_int,
        stream: Stream,
    ) -> c_int;
    fn marquee_pixel_mean(
        format: c_int,
        x: Address,
        y: Address,
        scratch: Address,
        batch: c_int,
        pixels: i64,
        channels: c_int,
        stream: Stream,
    ) -> c_int;
    fn marquee_upsample_nearest(
        format: c_int,
        x: Address,
        y: Address,
        batch: c_int,
        h: c_int,
        w: c_int,
        height: c_int,
        width: c_int,
        channels: c_int,
        stream: Stream,
    ) -> c_int;
    fn marquee_resize_bilinear(
        format: c_int,
        x: Address,
        y: Address,
        batch: c_int,
        h: c_int,
        w: c_int,
        height: c_int,
        width: c_int,
        channels: c_int,
        stream: Stream,
    ) -> c_int;
    fn marquee_copy_columns(
        format: c_int,
        x: Address,
        y: Address,
        rows: i64,
        channels: c_int,
        stride: c_int,
        at: c_int,
        stream: Stream,
    ) -> c_int;
    fn marquee_batch_norm(
        format: c_int,
        x: Address,
        weight: Address,
        bias: Address,
        mean: Address,
        variance: Address,
        y: Address,
        pixels: i64,
        channels: c_int,
        relu: c_int,
        stream: Stream,
    ) -> c_int;
    fn marquee_gate(
        format: c_int,
        x: Address,
        g: Address,
        y: Address,
        pixels: i64,
        channels: c_int,
        stream: Stream,
    ) -> c_int;
    fn marquee_geglu(format: c_int, x: Address, y: Address, rows: i64, inner: c_int, stream: Stream)
    -> c_int;
    fn marquee_scaled_sum(
        format: c_int,
        a: Address,
        b: Address,
        y: Address,
        scale: c_float,
        count: i64,
        times: c_int,
        stream: Stream,
    ) -> c_int;
}

/// (batch, channels, height, width) as a contiguous (batch, height, width, channels): the same memory if it lies so.
///
/// # Errors
/// Another number of dimensions, no room on the card for a copy.
pub fn channels_last(x: &Tensor) -> Result<Tensor> {
    x.permute((0, 2, 3, 1))?.contiguous()
}

/// The inverse view: (batch, height, width, channels) as (batch, channels, height, width). Copies nothing.
///
/// # Errors
/// Another number of dimensions.
pub fn channels_first(x: &Tensor) -> Result<Tensor> {
    x.permute((0, 3, 1, 2))
}

fn code(kernel: &'static str, x: &Tensor) -> Result<c_int> {
    format(x.dtype()).ok_or_else(|| {
        let found = format!("{:?}", x.dtype());
        Error::from(KernelError::Unfit { kernel, expected: "f32, f16 or bf16", found })
    })
}

/// A small operand as `x`'s kernel reads it, sixteen bytes at a time.
fn beside(kernel: &'static str, operand: &Tensor, x: &Tensor, count: usize) -> Result<Tensor> {
    if operand.elem_count() != count || operand.dtype() != x.dtype() {
        let found = format!("{:?} {:?}", operand.shape(), operand.dtype());
        return Err(
            KernelError::Unfit { kernel, expected: "operands of x's channels and dtype", found }.into()
        );
    }
    let operand = contiguous_for(kernel, operand, x)?;
    // A part of a larger tensor may begin anywhere.
    let lies_well = View::of(&operand)?.aligned(16);
    match lies_well {
        true => Ok(operand),
        false if operand.device().same_device(x.device()) => operand.force_contiguous(),
        false => Err(elsewhere(kernel, &operand)),
    }
}

/// Which formula [`group_norm`] is asked for.
#[derive(Debug, Clone, Copy)]
pub struct GroupNorm {
    /// Groups of channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f64,
    /// `y σ(y)` after it.
    pub silu: bool,
}

/// Group norm of `x` + `shift`; `x` (batch, channels, height, width), `shift` (batch, channels), `weight` and `bias`
/// (channels).
///
/// # Errors
/// Channels that the groups do not divide, more than 4096 of them, operands of another dtype; no room on the card.
#[allow(unsafe_code)]
pub fn group_norm(
    x: &Tensor,
    shift: Option<&Tensor>,
    weight: &Tensor,
    bias: &Tensor,
    formula: GroupNorm,
) -> Result<Tensor> {
    const NAME: &str = "marquee_group_norm";
    let (batch, channels, height, width) = x.dims4()?;
    let GroupNorm { groups, eps, silu } = formula;
    let format = code(NAME, x)?;
    let x = channels_last(x)?;
    let weight = beside(NAME, weight, &x, channels)?;
    let bias = beside(NAME, bias, &x, channels)?;
    let shift = shift.map(|shift| beside(NAME, shift, &x, batch * channels)).transpose()?;
    let from = View::of(&x)?;
    let y = empty(x.shape().clone(), x.dtype(), &from.device)?;
    // SAFETY: two numbers.
    let bytes = unsafe { marquee_group_norm_scratch(batch as c_int, groups as c_int) };
    let scratch = empty(bytes, DType::U8, &from.device)?;
    let shift = shift.as_ref().map(View::of).transpose()?;
    // SAFETY: contiguous tensors of the counts that the kernel reads (checked above), on the stream's card; they outlive
    // the work in stream order.
    check(NAME, unsafe {
        marquee_group_norm(
            format,
            from.address,
            shift.map_or(ptr::null_mut(), |shift| shift.address),
            View::of(&weight)?.address,
            View::of(&bias)?.address,
            View::of(&y)?.address,
            View::of(&scratch)?.address,
            batch as c_int,
            (height * width) as i64,
            channels as c_int,
            groups as c_int,
            eps as c_float,
            c_int::from(silu),
            from.stream(),
        )
    })?;
    channels_first(&y)
}

/// The mean over all pixels: (batch, channels, 1, 1).
///
/// # Errors
/// No room on the card.
#[allow(unsafe_code)]
pub fn pixel_mean(x: &Tensor) -> Result<Tensor> {
    const NAME: &str = "marquee_pixel_mean";
    let (batch, channels, height, width) = x.dims4()?;
    let format = code(NAME, x)?;
    let x = channels_last(x)?;
    let from = View::of(&x)?;
    let y = empty((batch, channels, 1, 1), x.dtype(), &from.device)?;
    // SAFETY: two numbers.
    let bytes = unsafe { marquee_group_norm_scratch(batch as c_int, channels as c_int) };
    let scratch = empty(bytes, DType::U8, &from.device)?;
    // SAFETY: as in `group_norm`.
    check(NAME, unsafe {
        marquee_pixel_mean(
            format,
            from.address,
            View::of(&y)?.address,
            View::of(&scratch)?.address,
            batch as c_int,
            (height * width) as i64,
            channels as c_int,
            from.stream(),
        )
    })?;
    Ok(y)
}

/// How a new size is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// The nearest pixel, as torch rounds.
    Nearest,
    /// Between four pixels; corners keep their places.
    Bilinear,
}

/// `x` (batch, channels, h, w) -> (batch, channels, height, width).
///
/// # Errors
/// A side of 0; no room on the card.
#[allow(unsafe_code)]
pub fn resize(x: &Tensor, height: usize, width: usize, filter: Filter) -> Result<Tensor> {
    const NAME: &str = "marquee_resize";
    let (batch, channels, h, w) = x.dims4()?;
    if [batch, channels, h, w, height, width].contains(&0) {
        let found = format!("{:?} to {height} x {width}", x.shape());
        return Err(KernelError::Unfit { kernel: NAME, expected: "no side of 0", found }.into());
    }
    let format = code(NAME, x)?;
    let x = channels_last(x)?;
    let from = View::of(&x)?;
    let y = empty((batch, height, width, channels), x.dtype(), &from.device)?;
    let kernel = match filter {
        Filter::Nearest => marquee_upsample_nearest,
        Filter::Bilinear => marquee_resize_bilinear,
    };
    // SAFETY: as in `group_norm`; both read and write the shapes given.
    check(NAME, unsafe {
        kernel(
            format,
            from.address,
            View::of(&y)?.address,
            batch as c_int,
            h as c_int,
            w as c_int,
            height as c_int,
            width as c_int,
            channels as c_int,
            from.stream(),
        )
    })?;
    channels_first(&y)
}

/// Channels of `pictures` side by side.
///
/// # Errors
/// No pictures, pictures of different sizes or dtypes; no room on the card.
#[allow(unsafe_code)]
pub fn cat_channels(pictures: &[&Tensor]) -> Result<Tensor> {
    const NAME: &str = "marquee_copy_columns";
    let Some(first) = pictures.first() else {
        let found = "none".to_owned();
        return Err(KernelError::Unfit { kernel: NAME, expected: "pictures", found }.into());
    };
    let (batch, _, height, width) = first.dims4()?;
    let format = code(NAME, first)?;
    let mut total = 0;
    for picture in pictures {
        let (b, channels, h, w) = picture.dims4()?;
        if (b, h, w) != (batch, height, width) || picture.dtype() != first.dtype() {
            let found = format!("{:?} beside {:?}", picture.shape(), first.shape());
            return Err(KernelError::Unfit { kernel: NAME, expected: "one size and dtype", found }.into());
        }
        total += channels;
    }
    let y = empty((batch, height, width, total), first.dtype(), &View::of(first)?.device)?;
    let mut at = 0;
    for picture in pictures {
        let x = channels_last(picture)?;
        let (from, channels) = (View::of(&x)?, x.dim(3)?);
        // SAFETY: as in `group_norm`; `at + channels` is at most `total`.
        check(NAME, unsafe {
            marquee_copy_columns(
                format,
                from.address,
                View::of(&y)?.address,
                (batch * height * width) as i64,
                channels as c_int,
                total as c_int,
                at as c_int,
                from.stream(),
            )
        })?;
        at += channels;
    }
    channels_first(&y)
}

/// `(x - mean) / √(variance + 1e-5) · weight + bias` for each channel, negative values to 0 if `relu`. The four are
/// (channels) f32.
///
/// # Errors
/// Operands of other sizes; no room on the card.
#[allow(unsafe_code)]
pub fn batch_norm(x: &Tensor, [weight, bias, mean, variance]: [&Tensor; 4], relu: bool) -> Result<Tensor> {
    const NAME: &str = "marquee_batch_norm";
    let (batch, channels, height, width) = x.dims4()?;
    let format = code(NAME, x)?;
    for operand in [weight, bias, mean, variance] {
        if operand.dims() != [channels] || operand.dtype() != DType::F32 || !operand.is_contiguous() {
            let found = format!("{:?} {:?}", operand.shape(), operand.dtype());
            return Err(KernelError::Unfit { kernel: NAME, expected: "f32 statistics", found }.into());
        }
    }
    let x = channels_last(x)?;
    let from = View::of(&x)?;
    let y = empty(x.shape().clone(), x.dtype(), &from.device)?;
    // SAFETY: as in `group_norm`.
    check(NAME, unsafe {
        marquee_batch_norm(
            format,
            from.address,
            View::of(weight)?.address,
            View::of(bias)?.address,
            View::of(mean)?.address,
            View::of(variance)?.address,
            View::of(&y)?.address,
            (batch * height * width) as i64,
            channels as c_int,
            c_int::from(relu),
            from.stream(),
        )
    })?;
    channels_first(&y)
}

/// `x · σ(gate)` with `gate` (batch, 1, height, width).
///
/// # Errors
/// Shapes that do not match; no room on the card.
#[allow(unsafe_code)]
pub fn gate(x: &Tensor, gate: &Tensor) -> Result<Tensor> {
    const NAME: &str = "marquee_gate";
    let (batch, channels, height, width) = x.dims4()?;
    let format = code(NAME, x)?;
    let x = channels_last(x)?;
    let gate = beside(NAME, &channels_last(gate)?, &x, batch * height * width)?;
    let from = View::of(&x)?;
    let y = empty(x.shape().clone(), x.dtype(), &from.device)?;
    // SAFETY: as in `group_norm`.
    check(NAME, unsafe {
        marquee_gate(
            format,
            from.address,
            View::of(&gate)?.address,
            View::of(&y)?.address,
            (batch * height * width) as i64,
            channels as c_int,
            from.stream(),
        )
    })?;
    channels_first(&y)
}

/// `value · gelu(gate)` of rows (…, values | gates), the erf form: (…, values).
///
/// # Errors
/// An odd number of channels; no room on the card.
#[allow(unsafe_code)]
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    const NAME: &str = "marquee_geglu";
    let format = code(NAME, x)?;
    let mut shape = x.dims().to_vec();
    let inner = match shape.last_mut() {
        Some(last) if *last > 0 && last.is_multiple_of(2) => {
            *last /= 2;
            *last
        }
        _ => {
            let found = format!("{:?}", x.shape());
            return Err(KernelError::Unfit { kernel: NAME, expected: "values and gates", found }.into());
        }
    };
    let x = x.contiguous()?;
    let from = View::of(&x)?;
    let y = empty(shape, x.dtype(), &from.device)?;
    let rows = y.elem_count() / inner;
    // SAFETY: as in `group_norm`.
    check(NAME, unsafe {
        marquee_geglu(format, from.address, View::of(&y)?.address, rows as i64, inner as c_int, from.stream())
    })?;
    Ok(y)
}

/// `a + round(scale · b)`, or `scale · b` without `a`; both of one shape, or `a` several pictures and `b` one for all.
///
/// # Errors
/// Shapes or dtypes that do not match; no room on the card.
#[allow(unsafe_code)]
pub fn scaled_sum(a: Option<&Tensor>, b: &Tensor, scale: f64) -> Result<Tensor> {
    const NAME: &str = "marquee_scaled_sum";
    let format = code(NAME, b)?;
    let shape = a.unwrap_or(b).dims4()?;
    let times = match (shape, b.dims4()?) {
        (shape, other) if shape == other => 1,
        ((batch, channels, height, width), other @ (1, ..)) if (1, channels, height, width) == other => batch,
        (_, other) => {
            let found = format!("{other:?} for {shape:?}");
            let expected = "pictures of one size, or one for all";
            return Err(KernelError::Unfit { kernel: NAME, expected, found }.into());
        }
    };
    let (batch, channels, height, width) = shape;
    // The sum belongs where its first operand does.
    let first = channels_last(a.unwrap_or(b))?;
    let b = contiguous_for(NAME, &b.permute((0, 2, 3, 1))?, &first)?;
    let a = match a {
        Some(_) => Some(beside(NAME, &first, &b, batch * channels * height * width)?),
        None => None,
    };
    let y = empty((batch, height, width, channels), b.dtype(), &View::of(&first)?.device)?;
    if y.elem_count() == 0 {
        return channels_first(&y);
    }
    let a = a.as_ref().map(View::of).transpose()?;
    let from = View::of(&b)?;
    // SAFETY: as in `group_norm`; a and y are `times` as large as b.
    check(NAME, unsafe {
        marquee_scaled_sum(
            format,
            a.map_or(ptr::null_mut(), |a| a.address),
            from.address,
            View::of(&y)?.address,
            scale as c_float,
            b.elem_count() as i64,
            times as c_int,
            View::of(&y)?.stream(),
        )
    })?;
    channels_first(&y)
}
