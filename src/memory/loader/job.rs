//! What there is to read for the tensors of some lanes, in parts that a thread does at once.
//!
//! What lies in the file as the net wants it is read where it belongs; other dtypes, convolution kernels and rows that are
//! rounded to 8 bits ([`rounded`]) go through a buffer of the thread; what a source cannot point at (fp8 with scales, GGML
//! blocks, transposed matrices) it loads itself. Must not know where the memory is. Callers: the loader, `passage`.

use std::collections::HashMap;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use candle_core::{DType, Device, Error, Result, Tensor};

use super::super::arena::Table;
use super::convert::{channels_last, convert, room, write};
use super::rounded;
use crate::models::ops::Rounding;
use crate::models::weights::{Content, Entry, Extent, Layout, Loaded, Source};

/// One part of a tensor.
pub(in crate::memory) struct Job<'a> {
    entry: &'a Entry,
    /// Bytes of the table's memory that it fills.
    pub(in crate::memory) numbers: Range<usize>,
    /// Those of its rows' scales, an f32 each; none unless it is rounded to 8 bits.
    pub(in crate::memory) scales: Range<usize>,
    way: Way,
}

enum Way {
    /// Numbers of a file.
    Read(Extent),
    /// A convolution kernel, (outputs, inputs, window) in the file, (outputs, window, inputs) in place.
    Kernel { extent: Extent, inputs: usize, window: usize },
    /// Whole rows of a file, to be rounded to 8 bits.
    Round(Extent, Rounding),
    /// What only the source can read.
    Load,
    /// What only the source can read, to be rounded to 8 bits.
    LoadRounded(Rounding),
}

/// All jobs for the lanes of `table`, about `most` bytes of a file each where a tensor can be divided: slow ones first, then
/// in the files' order.
///
/// # Errors
/// A tensor has not as many numbers as the layout says.
pub(in crate::memory) fn list<'a>(
    table: &Table,
    layout: &'a Layout,
    source: &dyn Source,
    most: usize,
) -> Result<Vec<Job<'a>>> {
    let mut jobs = Vec::new();
    let mut matrices: HashMap<&str, Halves> = HashMap::new();
    for entry in layout.entries().iter().filter(|entry| table.has(entry.segment, entry.dtype)) {
        let start = table.range(entry.segment, entry.dtype).start + entry.offset;
        let place = start..start + entry.bytes();
        match entry.content {
            Content::Whole => whole(&mut jobs, entry, place, source, most)?,
            Content::Numbers(rounding) => {
                matrices.entry(&entry.key).or_default().numbers = Some((entry, rounding, place));
            }
            Content::Scales(_) => matrices.entry(&entry.key).or_default().scales = Some(place),
        }
    }
    for (key, halves) in matrices {
        let (Some((entry, rounding, numbers)), Some(scales)) = (halves.numbers, halves.scales) else {
            return Err(Error::Msg(format!("{key}: a place for its numbers or for their scales is missing")));
        };
        rows(&mut jobs, entry, rounding, (numbers, scales), source, most)?;
    }
    jobs.sort_by_key(Job::order);
    Ok(jobs)
}

/// The two places of a matrix in 8 bits, which lie in different lanes.
#[derive(Default)]
struct Halves<'a> {
    numbers: Option<(&'a Entry, Rounding, Range<usize>)>,
    scales: Option<Range<usize>>,
}

fn whole<'a>(
    jobs: &mut Vec<Job<'a>>,
    entry: &'a Entry,
    place: Range<usize>,
    source: &dyn Source,
    most: usize,
) -> Result<()> {
    let mut add = |numbers: Range<usize>, way: Way| jobs.push(Job { entry, numbers, scales: 0..0, way });
    let Some(extents) = source.extents(&entry.key, None) else {
        add(place, Way::Load);
        return Ok(());
    };
    check_count(entry, &extents)?;
    if let (true, &[_, inputs, height, width]) = (entry.channels_last, entry.shape.as_slice()) {
        let window = height * width;
        if window > 1 && inputs > 1 {
            match <[Extent; 1]>::try_from(extents) {
                Ok([extent]) => add(place, Way::Kernel { extent, inputs, window }),
                Err(_) => add(place, Way::Load),
            }
            return Ok(());
        }
    }
    let mut at = place.start;
    for part in extents.into_iter().flat_map(|extent| parts(extent, 1, most)) {
        let end = at + part.elements * entry.dtype.size_in_bytes();
        add(at..end, Way::Read(part));
        at = end;
    }
    Ok(())
}

fn rows<'a>(
    jobs: &mut Vec<Job<'a>>,
    entry: &'a Entry,
    rounding: Rounding,
    (numbers, scales): (Range<usize>, Range<usize>),
    source: &dyn Source,
    most: usize,
) -> Result<()> {
    let columns = columns(entry);
    let begin_with_a_row =
        |extents: &Vec<Extent>| extents.iter().all(|extent| extent.elements.is_multiple_of(columns));
    let Some(extents) = source.extents(&entry.key, None).filter(begin_with_a_row) else {
        jobs.push(Job { entry, numbers, scales, way: Way::LoadRounded(rounding) });
        return Ok(());
    };
    check_count(entry, &extents)?;
    let (mut at, mut scale) = (numbers.start, scales.start);
    for part in extents.into_iter().flat_map(|extent| parts(extent, columns, most)) {
        let (end, scales_end) = (at + part.elements, scale + part.elements / columns * size_of::<f32>());
        jobs.push(Job {
            entry,
            numbers: at..end,
            scales: scale..scales_end,
            way: Way::Round(part, rounding),
        });
        (at, scale) = (end, scales_end);
    }
    Ok(())
}

/// Numbers of a row of a matrix.
fn columns(entry: &Entry) -> usize {
    entry.shape.last().copied().unwrap_or(1).max(1)
}

/// Parts of whole `rows` of so many numbers, about `most` bytes each.
fn parts(extent: Extent, rows: usize, most: usize) -> impl Iterator<Item = Extent> {
    let size = extent.dtype.size_in_bytes();
    let most = (most / (rows * size)).max(1) * rows;
    (0..extent.elements).step_by(most).map(move |first| Extent {
        offset: extent.offset + (first * size) as u64,
        elements: most.min(extent.elements - first),
        ..extent.clone()
    })
}

fn check_count(entry: &Entry, extents: &[Extent]) -> Result<()> {
    let found: usize = extents.iter().map(|extent| extent.elements).sum();
    let expected = entry.elements();
    if found == expected {
        return Ok(());
    }
    Err(Error::Msg(format!("{}: expected {expected} numbers, found {found}", entry.key)))
}

impl Job<'_> {
    /// What it puts in place.
    pub(in crate::memory) fn bytes(&self) -> usize {
        self.numbers.len() + self.scales.len()
    }

    fn order(&self) -> (u8, usize, u64) {
        match &self.way {
            Way::Load | Way::LoadRounded(_) => (0, usize::MAX - self.bytes(), 0),
            Way::Read(extent) | Way::Kernel { extent, .. } | Way::Round(extent, _) => {
                (1, Arc::as_ptr(&extent.file) as usize, extent.offset)
            }
        }
    }

    /// Does it: `numbers` and `scales` are as long as its ranges and aligned to their dtypes. `buffer` keeps its memory between
    /// jobs.
    ///
    /// # Errors
    /// The file cannot be read or ends early; the tensor cannot be converted.
    pub(in crate::memory) fn run(
        &self,
        source: &dyn Source,
        buffer: &mut Vec<u64>,
        numbers: &mut [u8],
        scales: &mut [u8],
    ) -> Result<()> {
        let key = &self.entry.key;
        let done = self.try_run(source, buffer, numbers, scales);
        done.map_err(|error| Error::Msg(format!("{key} in {}: {error}", source.origin(key))))
    }

    fn try_run(
        &self,
        source: &dyn Source,
        buffer: &mut Vec<u64>,
        place: &mut [u8],
        scales: &mut [u8],
    ) -> Result<()> {
        let Entry { key, dtype, .. } = self.entry;
        match &self.way {
            Way::Read(extent) if extent.dtype == *dtype => {
                extent.file.read_exact_at(place, extent.offset)?;
                Ok(())
            }
            Way::Read(extent) => convert(read(extent, buffer)?, extent.dtype, place, *dtype),
            Way::Kernel { extent, inputs, window } => {
                let raw = read(extent, buffer)?;
                let mut converted = vec![0u64; place.len().div_ceil(8)];
                let converted = room(&mut converted, place.len());
                convert(raw, extent.dtype, converted, *dtype)?;
                match dtype.size_in_bytes() {
                    2 => channels_last::<u16>(converted, place, *inputs, *window),
                    _ => channels_last::<u32>(converted, place, *inputs, *window),
                }
            }
            Way::Round(extent, rounding) => {
                let raw = read(extent, buffer)?;
                rounded::round(*rounding, columns(self.entry), (raw, extent.dtype), place, scales)
            }
            Way::LoadRounded(rounding) => {
                let wide = load(source, key, DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
                let raw = bytemuck::cast_slice(&wide);
                rounded::round(*rounding, columns(self.entry), (raw, DType::F32), place, scales)
            }
            Way::Load => {
                let tensor = load(source, key, *dtype)?;
                let tensor = if self.entry.channels_last { tensor.permute((0, 2, 3, 1))? } else { tensor };
                write(&tensor.flatten_all()?, place, key)
            }
        }
    }
}

fn read<'b>(extent: &Extent, buffer: &'b mut Vec<u64>) -> Result<&'b [u8]> {
    let raw = room(buffer, extent.elements * extent.dtype.size_in_bytes());
    extent.file.read_exact_at(raw, extent.offset)?;
    Ok(raw)
}

fn load(source: &dyn Source, key: &str, dtype: DType) -> Result<Tensor> {
    match source.load(key, None, &Device::Cpu)? {
        Loaded::Dense(tensor) => tensor.to_dtype(dtype),
        Loaded::Quantised(blocks) => blocks.dequantize(&Device::Cpu)?.to_dtype(dtype),
    }
}
