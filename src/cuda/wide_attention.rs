//! Attention of one head that is too wide for a fused kernel: blocks of queries through two matrix products, with
//! `kernels/softmax.cu` between.
//!
//! Scores are f32: rounded to 16 bits they would cost the softmax three digits. Must not know any net. Caller:
//! `models::ops`.

use std::ffi::{c_float, c_int, c_void};

use candle_core::cuda_backend::cudarc::cublas::{result, sys};
use candle_core::{DType, Error, Result, Tensor};

use super::launch::{Address, KernelError, Stream, View, check, empty, format};

#[allow(unsafe_code)]
unsafe extern "C" {
    fn marquee_softmax(
        format: c_int,
        x: Address,
        y: Address,
        rows: i64,
        width: i64,
        scale: c_float,
        stream: Stream,
    ) -> c_int;
}

/// Scores held at once: 128 MiB of f32, and half of that of weights. On an H100 at 16384 keys twice as many are 7 % faster,
/// a quarter of as many 14 % slower.
const SCORES: usize = 1 << 25;

/// Whether [`attention`] takes heads of `channels` over `keys`.
pub fn takes(dtype: DType, keys: usize, channels: usize) -> bool {
    // Addresses of rows must be multiples of 16 bytes.
    matches!(dtype, DType::F16 | DType::BF16) && keys.is_multiple_of(8) && channels.is_multiple_of(8)
}

/// `q` (batch, queries, channels), `k` and `v` (batch, keys, channels), 16 bits: softmax(q kᵀ scale) v, like `q`.
///
/// # Errors
/// What [`takes`] refuses; shapes that do not match; no room on the card.
#[allow(unsafe_code)]
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64) -> Result<Tensor> {
    const NAME: &str = "marquee_softmax";
    let (batch, queries, channels) = q.dims3()?;
    let keys = k.dim(1)?;
    let fits = takes(q.dtype(), keys, channels)
        && k.dims() == [batch, keys, channels]
        && v.dims() == k.dims()
        && [k, v].iter().all(|operand| operand.dtype() == q.dtype())
        && queries > 0
        && keys > 0;
    let (Some(format), true) = (format(q.dtype()), fits) else {
        let found = format!("q {:?}, k {:?}, v {:?}, {:?}", q.shape(), k.shape(), v.shape(), q.dtype());
        return Err(KernelError::Unfit { kernel: NAME, expected: "16-bit heads of one shape", found }.into());
    };
    let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
    let (from, k, v) = (View::of(&q)?, View::of(&k)?, View::of(&v)?);
    let out = empty(q.shape().clone(), q.dtype(), &from.device)?;
    let to = View::of(&out)?;
    let rows = (SCORES / keys).clamp(1, queries);
    let scores = empty((rows, keys), DType::F32, &from.device)?;
    let weights = empty((rows, keys), q.dtype(), &from.device)?;
    let (scores, weights) = (View::of(&scores)?, View::of(&weights)?);
    let kind =
        if q.dtype() == DType::F16 { sys::cudaDataType::CUDA_R_16F } else { sys::cudaDataType::CUDA_R_16BF };
    let size = q.dtype().size_in_bytes();
    for item in 0..batch {
        let keys_at = offset(k.address, item * keys * channels * size);
        let values_at = offset(v.address, item * keys * channels * size);
        for first in (0..queries).step_by(rows) {
            let count = rows.min(queries - first);
            let row = (item * queries + first) * channels * size;
            // Row by row is column by column of the transpose: scoresᵀ (keys, count) = k (keys, channels) qᵀ.
            let seen = Operand { at: keys_at, turned: true, kind, leading: channels };
            let asked = Operand { at: offset(from.address, row), turned: false, kind, leading: channels };
            let wide = sys::cudaDataType::CUDA_R_32F;
            product(&from, [keys, count, channels], &seen, &asked, (scores.address, wide, keys))?;
            // SAFETY: `count` of the `rows` rows that both tensors have.
            check(NAME, unsafe {
                marquee_softmax(
                    format,
                    scores.address,
                    weights.address,
                    count as i64,
                    keys as i64,
                    scale as c_float,
                    from.stream(),
                )
            })?;
            let mixed = Operand { at: values_at, turned: false, kind, leading: channels };
            let by = Operand { at: weights.address, turned: false, kind, leading: keys };
            product(&from, [channels, count, keys], &mixed, &by, (offset(to.address, row), kind, channels))?;
        }
    }
    drop((from, to));
    Ok(out)
}

fn offset(address: Address, bytes: usize) -> Address {
    address.wrapping_byte_add(bytes)
}

/// A matrix, column by column.
struct Operand {
    at: Address,
    turned: bool,
    kind: sys::cudaDataType,
    /// Elements from one column to the next.
    leading: usize,
}

/// `out (m, n) = a (m, k) b (k, n)`, all column by column, summed in f32.
#[allow(unsafe_code)]
fn product(
    on: &View<'_>,
    [m, n, k]: [usize; 3],
    a: &Operand,
    b: &Operand,
    (out, out_kind, leading): (Address, sys::cudaDataType, usize),
) -> Result<()> {
    let turn = |operand: &Operand| {
        if operand.turned { sys::cublasOperation_t::CUBLAS_OP_T } else { sys::cublasOperation_t::CUBLAS_OP_N }
    };
    let (one, zero) = (1f32, 0f32);
    let blas = on.device.cublas_handle();
    // SAFETY: addresses and strides name memory inside tensors that the caller holds; the handle works on the tensors'
    // stream; both factors are read during the call (host pointer mode is cuBLAS's default and candle's).
    unsafe {
        result::gemm_ex(
            *blas.handle(),
            turn(a),
            turn(b),
            m as c_int,
            n as c_int,
            k as c_int,
            (&raw const one).cast::<c_void>(),
            a.at.cast_const(),
            a.kind,
            a.leading as c_int,
            b.at.cast_const(),
            b.kind,
            b.leading as c_int,
            (&raw const zero).cast::<c_void>(),
            out,
            out_kind,
            leading as c_int,
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
        )
    }
    .map_err(|error| Error::Cuda(Box::new(error)))
}
