//! From a checkpoint's files into main memory: many threads read at their own positions straight into place.
//!
//! What lies in the file as the net wants it is read where it belongs; other dtypes, convolution kernels and rows that are
//! rounded to 8 bits ([`rounded`]) go through a buffer of the thread; what a source cannot point at (fp8 with scales, GGML
//! blocks, transposed matrices) it loads itself. Must not know devices or nets.

mod rounded;

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytemuck::Pod;
use candle_core::{DType, Device, Error, Result, Tensor};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::arena::Table;
use crate::models::weights::{Content, Entry, Extent, Layout, Loaded, Source};
use rounded::{Halves, Rows};

/// Bytes that a thread reads at once: large enough for a disk's queue, small enough to spread over threads and caches.
const READ: usize = 8 << 20;

/// Threads that read. More gain nothing: 16 of them copy 42 GB/s out of the page cache.
const THREADS: usize = 16;

/// How many threads this machine is worth.
pub(super) fn threads() -> usize {
    std::thread::available_parallelism().map_or(4, |cores| cores.get().clamp(2, THREADS))
}

/// Something to read and where it goes.
enum Job<'a> {
    /// Numbers of a file.
    Read { entry: &'a Entry, file: Arc<File>, offset: u64, dtype: DType, place: &'a mut [u8] },
    /// A convolution kernel, (outputs, inputs, window) in the file, (outputs, window, inputs) in place.
    Kernel { entry: &'a Entry, extent: Extent, place: &'a mut [u8], inputs: usize, window: usize },
    /// Whole rows of a file, to be rounded to 8 bits.
    Round { rows: Rows<'a>, extent: Extent },
    /// What only the source can read.
    Load { entry: &'a Entry, place: &'a mut [u8] },
    /// What only the source can read, to be rounded to 8 bits.
    LoadRounded { rows: Rows<'a> },
}

impl<'a> Job<'a> {
    fn entry(&self) -> &'a Entry {
        match self {
            Self::Read { entry, .. } | Self::Kernel { entry, .. } | Self::Load { entry, .. } => entry,
            Self::Round { rows, .. } | Self::LoadRounded { rows } => rows.entry,
        }
    }

    /// Slow ones first, then in the files' order.
    fn order(&self) -> (u8, usize, u64) {
        match self {
            Self::Load { place, .. } => (0, usize::MAX - place.len(), 0),
            Self::LoadRounded { rows } => (0, usize::MAX - rows.bytes(), 0),
            Self::Kernel { extent, .. } | Self::Round { extent, .. } => {
                (1, Arc::as_ptr(&extent.file) as usize, extent.offset)
            }
            Self::Read { file, offset, .. } => (1, Arc::as_ptr(file) as usize, *offset),
        }
    }
}

/// Fills `memory` as `table` says; `progress` counts the bytes in place while it runs. `stop` ends it early, which is an
/// error.
///
/// # Errors
/// A file cannot be read or ends early; a tensor cannot be converted.
pub(super) fn fill(
    memory: &mut [u8],
    table: &Table,
    layout: &Layout,
    source: &dyn Source,
    progress: &AtomicU64,
    stop: &AtomicBool,
) -> Result<()> {
    let mut jobs = jobs(memory, table, layout, source)?;
    // The threads take from the end.
    jobs.sort_by_key(|job| std::cmp::Reverse(job.order()));
    let jobs = Mutex::new(jobs);
    let problem = Mutex::new(None);
    let work = || {
        let mut buffer = Vec::new();
        loop {
            let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(job) = job else { return };
            if stop.load(Ordering::Relaxed) {
                let stopped = Error::Msg("loading was stopped".to_owned());
                problem.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(stopped);
                return;
            }
            let key = &job.entry().key;
            match run(job, source, &mut buffer) {
                Ok(bytes) => {
                    progress.fetch_add(bytes, Ordering::Relaxed);
                }
                Err(error) => {
                    let error = Error::Msg(format!("{key} in {}: {error}", source.origin(key)));
                    problem.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    jobs.lock().unwrap_or_else(PoisonError::into_inner).clear();
                    return;
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(work);
        }
    });
    match problem.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// One job or more for each tensor.
fn jobs<'a>(
    memory: &'a mut [u8],
    table: &Table,
    layout: &'a Layout,
    source: &dyn Source,
) -> Result<Vec<Job<'a>>> {
    let mut places: Vec<(usize, &Entry)> = layout
        .entries()
        .iter()
        .filter(|entry| table.has(entry.segment, entry.dtype))
        .map(|entry| (table.range(entry.segment, entry.dtype).start + entry.offset, entry))
        .collect();
    places.sort_by_key(|(start, _)| *start);
    let mut jobs = Vec::new();
    let mut halves: HashMap<&str, Halves> = HashMap::new();
    let mut rest = memory;
    let mut at = 0;
    for (start, entry) in places {
        let short = || Error::Msg(format!("{}: its place lies outside of the memory", entry.key));
        let (_, tail) =
            std::mem::take(&mut rest).split_at_mut_checked(start.wrapping_sub(at)).ok_or_else(short)?;
        let (place, tail) = tail.split_at_mut_checked(entry.bytes()).ok_or_else(short)?;
        at = start + entry.bytes();
        rest = tail;
        match (entry.content, source.extents(&entry.key, None)) {
            (Content::Numbers(rounding), _) => {
                halves.entry(&entry.key).or_default().numbers = Some((entry, rounding, place));
            }
            (Content::Scales(_), _) => halves.entry(&entry.key).or_default().scales = Some(place),
            (Content::Whole, Some(extents)) => split(&mut jobs, entry, extents, place)?,
            (Content::Whole, None) => jobs.push(Job::Load { entry, place }),
        }
    }
    for (key, halves) in halves {
        let rows = halves.rows()?;
        match source.extents(key, None).filter(|extents| rows.begin_with(extents)) {
            Some(extents) => {
                check_count(rows.entry, &extents)?;
                jobs.extend(rows.split(extents).map(|(rows, extent)| Job::Round { rows, extent }));
            }
            None => jobs.push(Job::LoadRounded { rows }),
        }
    }
    Ok(jobs)
}

fn check_count(entry: &Entry, extents: &[Extent]) -> Result<()> {
    let found: usize = extents.iter().map(|extent| extent.elements).sum();
    let expected = entry.elements();
    if found == expected {
        return Ok(());
    }
    Err(Error::Msg(format!("{}: expected {expected} numbers, found {found}", entry.key)))
}

fn split<'a>(
    jobs: &mut Vec<Job<'a>>,
    entry: &'a Entry,
    extents: Vec<Extent>,
    mut place: &'a mut [u8],
) -> Result<()> {
    check_count(entry, &extents)?;
    if let (true, &[_, inputs, height, width]) = (entry.channels_last, entry.shape.as_slice()) {
        let window = height * width;
        if window > 1 && inputs > 1 {
            match <[Extent; 1]>::try_from(extents) {
                Ok([extent]) => jobs.push(Job::Kernel { entry, extent, place, inputs, window }),
                Err(_) => jobs.push(Job::Load { entry, place }),
            }
            return Ok(());
        }
    }
    for Extent { file, offset, dtype, elements } in extents {
        let (from, into) = (dtype.size_in_bytes(), entry.dtype.size_in_bytes());
        let mut done = 0;
        while done < elements {
            let count = (READ / from).min(elements - done);
            let (piece, tail) = std::mem::take(&mut place).split_at_mut(count * into);
            place = tail;
            let offset = offset + (done * from) as u64;
            jobs.push(Job::Read { entry, file: Arc::clone(&file), offset, dtype, place: piece });
            done += count;
        }
    }
    Ok(())
}

/// Does one job and says how many bytes are in place. `buffer` keeps its memory between jobs; its type aligns it.
fn run(job: Job<'_>, source: &dyn Source, buffer: &mut Vec<u64>) -> Result<u64> {
    match job {
        Job::Read { entry, file, offset, dtype, place } => {
            if dtype == entry.dtype {
                file.read_exact_at(place, offset)?;
            } else {
                let elements = place.len() / entry.dtype.size_in_bytes();
                let raw = room(buffer, elements * dtype.size_in_bytes());
                file.read_exact_at(raw, offset)?;
                convert(raw, dtype, place, entry.dtype)?;
            }
            Ok(place.len() as u64)
        }
        Job::Kernel { entry, extent, place, inputs, window } => {
            let raw = room(buffer, extent.elements * extent.dtype.size_in_bytes());
            extent.file.read_exact_at(raw, extent.offset)?;
            let mut converted = vec![0u64; place.len().div_ceil(8)];
            let converted = room(&mut converted, place.len());
            convert(raw, extent.dtype, converted, entry.dtype)?;
            match entry.dtype.size_in_bytes() {
                2 => channels_last::<u16>(converted, place, inputs, window)?,
                _ => channels_last::<u32>(converted, place, inputs, window)?,
            }
            Ok(place.len() as u64)
        }
        Job::Round { rows, extent } => {
            let raw = room(buffer, extent.elements * extent.dtype.size_in_bytes());
            extent.file.read_exact_at(raw, extent.offset)?;
            rows.round(raw, extent.dtype)
        }
        Job::LoadRounded { rows } => {
            let wide = load(source, &rows.entry.key, DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
            rows.round(bytemuck::cast_slice(&wide), DType::F32)
        }
        Job::Load { entry, place } => {
            let tensor = load(source, &entry.key, entry.dtype)?;
            let tensor = if entry.channels_last { tensor.permute((0, 2, 3, 1))? } else { tensor };
            write(&tensor.flatten_all()?, place, &entry.key)?;
            Ok(place.len() as u64)
        }
    }
}

fn load(source: &dyn Source, key: &str, dtype: DType) -> Result<Tensor> {
    match source.load(key, None, &Device::Cpu)? {
        Loaded::Dense(tensor) => tensor.to_dtype(dtype),
        Loaded::Quantised(blocks) => blocks.dequantize(&Device::Cpu)?.to_dtype(dtype),
    }
}

fn room(buffer: &mut Vec<u64>, bytes: usize) -> &mut [u8] {
    if buffer.len() * 8 < bytes {
        buffer.resize(bytes.div_ceil(8), 0);
    }
    bytemuck::cast_slice_mut::<u64, u8>(buffer).get_mut(..bytes).unwrap_or_default()
}

/// Bytes as numbers. Entries are aligned to their dtype in memory that is page-aligned.
fn numbers<T: Pod>(bytes: &[u8]) -> Result<&[T]> {
    bytemuck::try_cast_slice(bytes).map_err(|error| Error::Msg(format!("weights out of line: {error}")))
}

fn numbers_mut<T: Pod>(bytes: &mut [u8]) -> Result<&mut [T]> {
    bytemuck::try_cast_slice_mut(bytes).map_err(|error| Error::Msg(format!("weights out of line: {error}")))
}

/// As candle's `to_dtype` on a CPU: 16-bit types into each other through f32, to the nearest.
fn convert(from: &[u8], dtype: DType, into: &mut [u8], to: DType) -> Result<()> {
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
fn channels_last<T: Pod>(from: &[u8], into: &mut [u8], inputs: usize, window: usize) -> Result<()> {
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

fn write(tensor: &Tensor, place: &mut [u8], key: &str) -> Result<()> {
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
