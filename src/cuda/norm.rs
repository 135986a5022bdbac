//! Sums and normalisations of rows: `kernels/norm.cu` on tensors. Functions give `None` for tensors that they do not take
//! (not on a card, other formats, rows that are no multiple of 16 bytes). Callers: `models::ops`.

use std::ffi::c_int;
use std::ptr;

use candle_core::{DType, Result, Tensor};

use super::launch::{self, Address, Rows, Stream, View};

/// What is done to the sum; formulas and rounding points in `norm.cu`.
#[derive(Debug, Clone, Copy)]
pub enum Form<'a> {
    /// Layer norm without weights.
    Layer,
    /// Layer norm, then `· (1 + scale) + shift`, each (batch, columns).
    Modulate {
        /// (batch, columns).
        scale: &'a Tensor,
        /// (batch, columns).
        shift: &'a Tensor,
    },
    /// Layer norm with weight and bias, (columns) each.
    Affine {
        /// (columns).
        weight: &'a Tensor,
        /// (columns).
        bias: &'a Tensor,
    },
    /// Root mean square and a weight, rounded once.
    Rms(&'a Tensor),
    /// Root mean square, rounded before the weight and after.
    T5(&'a Tensor),
}

impl<'a> Form<'a> {
    fn number(self) -> c_int {
        match self {
            Self::Layer => 0,
            Self::Affine { .. } => 1,
            Self::Modulate { .. } => 2,
            Self::Rms(_) => 3,
            Self::T5(_) => 4,
        }
    }

    fn weights(self) -> [Option<&'a Tensor>; 2] {
        match self {
            Self::Layer => [None, None],
            Self::Modulate { scale, shift } => [Some(scale), Some(shift)],
            Self::Affine { weight, bias } => [Some(weight), Some(bias)],
            Self::Rms(weight) | Self::T5(weight) => [Some(weight), None],
        }
    }

    /// Whether there is a row of weights for each batch.
    fn by_batch(self) -> bool {
        matches!(self, Self::Modulate { .. })
    }
}

/// As in `norm.cu`.
#[repr(C)]
struct Arguments {
    x: Address,
    y: Address,
    gate: Address,
    sum: Address,
    first: Address,
    second: Address,
    out: Address,
    x_row: i64,
    y_row: i64,
    gate_row: i64,
    sum_row: i64,
    batch_row: i64,
    out_row: i64,
    rows: i64,
    tokens: i64,
    channels: i64,
    eps: f32,
    kind: c_int,
    format: c_int,
}

#[allow(unsafe_code)]
unsafe extern "C" {
    fn marquee_norm(arguments: *const Arguments, stream: Stream) -> c_int;
    fn marquee_residual(arguments: *const Arguments, stream: Stream) -> c_int;
    fn marquee_norm_e4m3(arguments: *const Arguments, scales: *mut f32, stream: Stream) -> c_int;
}

/// What [`run`] makes, each where it was asked for.
#[derive(Default)]
struct Made {
    sum: Option<Tensor>,
    out: Option<Tensor>,
    scales: Option<Tensor>,
}

/// What is to be made of the sum.
#[derive(Clone, Copy)]
enum Wanted<'a> {
    Sum,
    Norm(Form<'a>),
    /// In e4m3; the modulated form only.
    Eight(Form<'a>),
}

impl<'a> Wanted<'a> {
    fn form(self) -> Option<Form<'a>> {
        match self {
            Self::Sum => None,
            Self::Norm(form) | Self::Eight(form) => Some(form),
        }
    }
}

/// `norm(x)`.
///
/// # Errors
/// No room on the card, or the card failed.
pub fn norm(x: &Tensor, form: Form<'_>, eps: f64) -> Result<Option<Tensor>> {
    Ok(run(x, None, Wanted::Norm(form), eps)?.out)
}

/// [`norm`] of the modulated form in e4m3: numbers of `x`'s shape as u8, and a scale a row. f16 and bf16 only.
///
/// # Errors
/// As [`norm`].
pub fn norm_eight(x: &Tensor, form: Form<'_>, eps: f64) -> Result<Option<(Tensor, Tensor)>> {
    let made = run(x, None, Wanted::Eight(form), eps)?;
    Ok(made.out.zip(made.scales))
}

/// [`residual_norm`] with the norm as [`norm_eight`] gives it: sum, numbers, scales.
///
/// # Errors
/// As [`norm`].
pub fn residual_norm_eight(
    x: &Tensor,
    gate: Option<&Tensor>,
    y: &Tensor,
    form: Form<'_>,
    eps: f64,
) -> Result<Option<(Tensor, Tensor, Tensor)>> {
    let made = run(x, Some((gate, y)), Wanted::Eight(form), eps)?;
    Ok(made.sum.zip(made.out.zip(made.scales)).map(|(sum, (numbers, scales))| (sum, numbers, scales)))
}

/// `s = x + gate · y` (gate (batch, columns), or 1) and `norm(s)`; x and y (…, columns), and (batch, tokens, columns)
/// where something goes by the batch.
///
/// # Errors
/// No room on the card, or the card failed.
pub fn residual_norm(
    x: &Tensor,
    gate: Option<&Tensor>,
    y: &Tensor,
    form: Form<'_>,
    eps: f64,
) -> Result<Option<(Tensor, Tensor)>> {
    let made = run(x, Some((gate, y)), Wanted::Norm(form), eps)?;
    Ok(made.sum.zip(made.out))
}

/// `x + gate · y`.
///
/// # Errors
/// No room on the card, or the card failed.
pub fn residual(x: &Tensor, gate: Option<&Tensor>, y: &Tensor) -> Result<Option<Tensor>> {
    Ok(run(x, Some((gate, y)), Wanted::Sum, 0.0)?.sum)
}

/// Nothing is made of tensors that the kernels do not take.
#[allow(unsafe_code)]
fn run(x: &Tensor, addend: Option<(Option<&Tensor>, &Tensor)>, wanted: Wanted<'_>, eps: f64) -> Result<Made> {
    let form = wanted.form();
    let (Some(card), Some(format)) = (launch::card(x.device()), launch::format(x.dtype())) else {
        return Ok(Made::default());
    };
    let gate = addend.and_then(|(gate, _)| gate);
    let by_batch = gate.is_some() || form.is_some_and(Form::by_batch);
    let batch = if by_batch { x.dim(0)? } else { 1 };
    let from = View::of(x)?;
    let Some(x_rows) = Rows::of(from.layout) else { return Ok(Made::default()) };
    let rows = x_rows.rows * x_rows.blocks / batch.max(1);
    // One block a batch: weights change with it. A layout that cannot be cut so is not ours.
    let Some(x_rows) = cut(x_rows, rows, batch) else { return Ok(Made::default()) };
    let columns = x_rows.columns;
    // 1024 threads of four packs hold a row.
    if !from.packed(&x_rows) || columns * x.dtype().size_in_bytes() > 1024 * 4 * 16 {
        return Ok(Made::default());
    }
    let is_eight = matches!(wanted, Wanted::Eight(_));
    let modulates = matches!(form, Some(Form::Modulate { .. }));
    if is_eight
        && (!modulates || !matches!(x.dtype(), DType::F16 | DType::BF16) || !columns.is_multiple_of(16))
    {
        return Ok(Made::default());
    }
    let y = match addend {
        Some((_, y)) => {
            if y.dims() != x.dims() || y.dtype() != x.dtype() {
                return Ok(Made::default());
            }
            let view = View::of(y)?;
            match Rows::of(view.layout).and_then(|lie| cut(lie, rows, batch)).filter(|lie| view.packed(lie)) {
                Some(lie) => Some((view, lie)),
                None => return Ok(Made::default()),
            }
        }
        None => None,
    };
    let [first, second] = form.map_or([None, None], Form::weights);
    let weights_batch = if form.is_some_and(Form::by_batch) { batch } else { 1 };
    let (Some(gate), Some(first), Some(second)) = (
        weight_rows(gate, columns, batch, x.dtype())?,
        weight_rows(first, columns, weights_batch, x.dtype())?,
        weight_rows(second, columns, weights_batch, x.dtype())?,
    ) else {
        return Ok(Made::default());
    };
    let sum = y.is_some().then(|| launch::empty(x.shape(), x.dtype(), card)).transpose()?;
    let out_dtype = if is_eight { DType::U8 } else { x.dtype() };
    let out = form.map(|_| launch::empty(x.shape(), out_dtype, card)).transpose()?;
    let scales = is_eight.then(|| launch::empty(rows * batch, DType::F32, card)).transpose()?;
    let sum_view = sum.as_ref().map(View::of).transpose()?;
    let out_view = out.as_ref().map(View::of).transpose()?;
    let scales_view = scales.as_ref().map(View::of).transpose()?;
    for block in 0..batch {
        let at =
            |view: &View<'_>, distance: usize| launch::advance(view.address, block * distance, view.dtype);
        let written =
            |view: &Option<View<'_>>| view.as_ref().map_or(ptr::null_mut(), |view| at(view, rows * columns));
        let y_at = y.as_ref().map_or(ptr::null_mut(), |(view, lie)| at(view, lie.block_distance));
        let arguments = Arguments {
            x: at(&from, x_rows.block_distance),
            y: y_at,
            gate: gate.at(block),
            sum: written(&sum_view),
            first: first.at(block),
            second: second.at(block),
            // A bare residual's sum is its output.
            out: written(if form.is_some() { &out_view } else { &sum_view }),
            x_row: x_rows.distance as i64,
            y_row: y.as_ref().map_or(0, |(_, lie)| lie.distance as i64),
            gate_row: 0,
            sum_row: columns as i64,
            batch_row: 0,
            out_row: columns as i64,
            rows: rows as i64,
            tokens: rows as i64,
            channels: columns as i64,
            eps: if form.is_some() { eps as f32 } else { f32::INFINITY },
            kind: form.map_or(0, Form::number),
            format,
        };
        let scales = scales_view.as_ref().map_or(ptr::null_mut(), |view| at(view, rows));
        // SAFETY: x and y have `rows` of `columns` numbers at these distances in each block, checked above; sum and out are
        // contiguous of x's shape; weights have `columns` numbers, scales one a row. The stream is theirs, and they outlive the launch in
        // its order.
        let code = unsafe {
            match wanted {
                Wanted::Sum => marquee_residual(&raw const arguments, from.stream()),
                Wanted::Norm(_) => marquee_norm(&raw const arguments, from.stream()),
                Wanted::Eight(_) => marquee_norm_e4m3(&raw const arguments, scales.cast(), from.stream()),
            }
        };
        launch::check("marquee_norm", code)?;
    }
    drop((sum_view, out_view, scales_view));
    Ok(Made { sum, out, scales })
}

fn cut(lie: Rows, rows: usize, blocks: usize) -> Option<Rows> {
    if lie.blocks == blocks && lie.rows == rows {
        Some(lie)
    } else {
        lie.split(rows).filter(|lie| lie.blocks == blocks)
    }
}

/// Where a row of weights is for each batch.
struct WeightRows {
    base: Address,
    distance: usize,
    dtype: DType,
}

impl WeightRows {
    fn at(&self, batch: usize) -> Address {
        if self.base.is_null() {
            self.base
        } else {
            launch::advance(self.base, batch * self.distance, self.dtype)
        }
    }
}

/// Of a tensor (columns) or (batch, columns); null for none, `None` for one that does not fit.
fn weight_rows(
    weight: Option<&Tensor>,
    columns: usize,
    batch: usize,
    dtype: DType,
) -> Result<Option<WeightRows>> {
    let Some(weight) = weight else {
        return Ok(Some(WeightRows { base: ptr::null_mut(), distance: 0, dtype }));
    };
    let view = View::of(weight)?;
    let Some(lie) = Rows::of(view.layout) else { return Ok(None) };
    if weight.dtype() != dtype
        || lie.columns != columns
        || lie.blocks != 1
        || lie.rows != batch
        || !view.packed(&lie)
    {
        return Ok(None);
    }
    Ok(Some(WeightRows { base: view.address, distance: lie.distance, dtype }))
}
