//! Numbers of one kind in memory as numbers of another.
//!
//! Knows no files. Callers: the loader's jobs.

use bytemuck::Pod;
use candle_core::{DType, Error, Result, Tensor};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// `bytes` of `buffer`, which grows and keeps its memory; its type aligns it.
pub(super) fn room(buffer: &mut Vec<u64>, bytes: usize) -> &mut [u8] {
    if buffer.len() * 8 < bytes {
        buffer.resize(bytes.div_ceil(8), 0);
    }
    bytemuck::cast_slice_mut::<u64, u8>(buffer).get_mut(..bytes).unwrap_or_default()
}

/// Bytes as numbers. Entries are aligned to their dtype in memory that is page-aligned.
pub(super) fn numbers<T: Pod>(bytes: &[u8]) -> Result<&[T]> {
    bytemuck::try_cast_slice(bytes).map_err(|error| Error::Msg(format!("weights out of line: {error}")))
}

/// [`numbers`] to write.
pub(super) fn numbers_mut<T: Pod>(bytes: &mut [u8]) -> Result<&mut [T]> {
    bytemuck::try_cast_slice_mut(bytes).map_err(|error| Error::Msg(format!("weights out of line: {error}")))
}

/// As candle's `to_dtype` on a CPU: 16-bit types into each other through f32, to the nearest.
pub(super) fn convert(from: &[u8], dtype: DType, into: &mut [u8], to: DType) -> Result<()> {
    match (dtype, to) {
        (from_type, to_type) if from_type == to_type => into.copy_from_slice(from),
        (DType::BF16, DType::F32) => numbers::<bf16>(from)?.convert_to_f32_slice(numbers_mut(into)?),
        (DType::F16, DType::F32) => numbers::<f16>(from)?.convert_to_f32_slice(numbers_mut(into)?),
        (DType::F32, DType::BF16) => numbers_mut::<bf16>(into)?.convert_from_f32_slice(numbers(from)?),
        (DType::F32, DType::F16) => numbers_mut::<f16>(into)?.convert_from_f32_slice(numbers(from)?),
        (DType::BF16, DType::F16) => {
            for (from, into) in numbers::<bf16>(from)?.iter().zip(numbers_mut::<f16>(into)?) {
                *into = f16::from_f32(from.to_f32());
            }
        }
        (DType::F16, DType::BF16) => {
            for (from, into) in numbers::<f16>(from)?.iter().zip(numbers_mut::<bf16>(into)?) {
                *into = bf16::from_f32(from.to_f32());
            }
        }
        (from, to) => {
            return Err(Error::Msg(format!("{} cannot become {}", from.as_str(), to.as_str())));
        }
    }
    Ok(())
}

/// (outputs, inputs, window) to (outputs, window, inputs).
pub(super) fn channels_last<T: Pod>(
    from: &[u8],
    into: &mut [u8],
    inputs: usize,
    window: usize,
) -> Result<()> {
    let (from, into) = (numbers::<T>(from)?, numbers_mut::<T>(into)?);
    let kernel = inputs * window;
    for (from, into) in from.chunks_exact(kernel).zip(into.chunks_exact_mut(kernel)) {
        for (at, into) in into.chunks_exact_mut(inputs).enumerate() {
            for (into, from) in into.iter_mut().zip(from.iter().skip(at).step_by(window)) {
                *into = *from;
            }
        }
    }
    Ok(())
}

/// The numbers of `tensor`, f32, f16 or bf16.
pub(super) fn write(tensor: &Tensor, place: &mut [u8], key: &str) -> Result<()> {
    fn put<T: Pod>(numbers: &[T], place: &mut [u8], key: &str) -> Result<()> {
        let bytes: &[u8] = bytemuck::cast_slice(numbers);
        if bytes.len() != place.len() {
            let (found, expected) = (bytes.len(), place.len());
            return Err(Error::Msg(format!("{key}: expected {expected} bytes, found {found}")));
        }
        place.copy_from_slice(bytes);
        Ok(())
    }
    match tensor.dtype() {
        DType::F32 => put(&tensor.to_vec1::<f32>()?, place, key),
        DType::F16 => put(&tensor.to_vec1::<f16>()?, place, key),
        DType::BF16 => put(&tensor.to_vec1::<bf16>()?, place, key),
        other => Err(Error::Msg(format!("{key}: {}: expected f32, f16 or bf16", other.as_str()))),
    }
}
