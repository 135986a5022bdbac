//! Safetensors files, one or many shards, read tensor by tensor at their offsets.
//!
//! Positional reads, not a memory map: a map needs `unsafe`, turns a file that shrinks under it into a signal, and the
//! copy to a GPU from one is slower than from a buffer. The header is parsed here because the `safetensors` crate wants
//! the whole file in memory to do it. fp8 weights (e4m3) come out as f32, times their scale if the file has one.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Error, Result, Tensor};
use serde::Deserialize;

use super::{Extent, Format, Loaded, Meta, Problem, Source};

/// Largest header accepted, the limit of the reference implementation.
const MAX_HEADER: u64 = 100_000_000;

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

struct Place {
    shard: usize,
    meta: Meta,
    /// From the start of the file.
    start: u64,
}

struct Shard {
    path: PathBuf,
    file: Arc<File>,
}

/// One or more safetensors files as one source.
pub struct Safetensors {
    shards: Vec<Shard>,
    places: HashMap<String, Place>,
}

impl Safetensors {
    /// Opens files and reads their headers.
    ///
    /// # Errors
    /// Every defect of every file: unreadable, no header, a tensor of an unknown type, a tensor past the end of the file.
    pub fn open(paths: &[PathBuf]) -> std::result::Result<Self, Vec<Problem>> {
        let mut source = Self { shards: Vec::new(), places: HashMap::new() };
        let mut problems = Vec::new();
        for path in paths {
            if let Err(found) = source.add(path) {
                problems.extend(found);
            }
        }
        if problems.is_empty() { Ok(source) } else { Err(problems) }
    }

    fn add(&mut self, path: &Path) -> std::result::Result<(), Vec<Problem>> {
        let unreadable =
            |error: std::io::Error| vec![Problem::new(path, "file", "a readable file", error.to_string())];
        let file = File::open(path).map_err(unreadable)?;
        let size = file.metadata().map_err(unreadable)?.len();
        let header = |expected: String, found: String| vec![Problem::new(path, "header", expected, found)];
        let mut length = [0; 8];
        if size < 8 {
            return Err(header("at least 8 bytes".to_owned(), format!("{size} bytes")));
        }
        file.read_exact_at(&mut length, 0).map_err(unreadable)?;
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER || length + 8 > size {
            let limit = MAX_HEADER.min(size - 8);
            return Err(header(format!("a length of at most {limit} bytes"), format!("{length}")));
        }
        let mut text = vec![0; length as usize];
        file.read_exact_at(&mut text, 8).map_err(unreadable)?;
        let entries: HashMap<String, serde_json::Value> =
            serde_json::from_slice(&text).map_err(|error| header("JSON".to_owned(), error.to_string()))?;
        let mut problems = Vec::new();
        let data = 8 + length;
        for (key, value) in entries.into_iter().filter(|(key, _)| key != "__metadata__") {
            match place(path, &key, value, data, size) {
                Ok((meta, start)) => {
                    self.places.insert(key, Place { shard: self.shards.len(), meta, start });
                }
                Err(problem) => problems.push(problem),
            }
        }
        self.shards.push(Shard { path: path.to_owned(), file: Arc::new(file) });
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// A scale stored beside an fp8 weight: `x.weight` has `x.scale_weight`, `x.weight_scale` or `x.weight.scale`.
    fn scale(&self, key: &str) -> Result<Option<Tensor>> {
        let Some(stem) = key.strip_suffix("weight") else { return Ok(None) };
        let names = [format!("{stem}scale_weight"), format!("{stem}weight_scale"), format!("{key}.scale")];
        match names.iter().find(|name| self.places.contains_key(*name)) {
            Some(name) => self.dense(name, None, &Device::Cpu)?.to_dtype(DType::F32).map(Some),
            None => Ok(None),
        }
    }

    fn dense(&self, key: &str, rows: Option<Range<usize>>, device: &Device) -> Result<Tensor> {
        let place = self.places.get(key).ok_or_else(|| Error::CannotFindTensor { path: key.to_owned() })?;
        let Format::Dense(dtype) = place.meta.format else {
            return Err(Error::Msg(format!("{key}: {} is not dense", place.meta.format)));
        };
        let mut shape = place.meta.shape.clone();
        let mut start = place.start;
        if let (Some(rows), Some(count)) = (rows, shape.first_mut()) {
            *count = rows.len();
            let row: usize = place.meta.shape.iter().skip(1).product::<usize>() * dtype.size_in_bytes();
            start += (rows.start * row) as u64;
        }
        let mut bytes = vec![0; shape.iter().product::<usize>() * dtype.size_in_bytes()];
        let Some(shard) = self.shards.get(place.shard) else {
            return Err(Error::Msg(format!("{key}: no shard {}", place.shard)));
        };
        shard
            .file
            .read_exact_at(&mut bytes, start)
            .map_err(|error| Error::Msg(format!("{}: {key}: {error}", shard.path.display())))?;
        Tensor::from_raw_buffer(&bytes, dtype, &shape, device)
    }
}

fn place(
    path: &Path,
    key: &str,
    value: serde_json::Value,
    data: u64,
    size: u64,
) -> std::result::Result<(Meta, u64), Problem> {
    let entry: Entry = serde_json::from_value(value)
        .map_err(|error| Problem::new(path, key, "dtype, shape and data_offsets", error.to_string()))?;
    let Some(dtype) = dtype(&entry.dtype) else {
        let known = "F64, F32, F16, BF16, F8_E4M3, I64, I32, I16, U32 or U8";
        return Err(Problem::new(path, key, known, entry.dtype));
    };
    let (begin, end) = entry.data_offsets;
    let elements = entry.shape.iter().try_fold(1usize, |product, dim| product.checked_mul(*dim));
    let bytes = elements.and_then(|count| count.checked_mul(dtype.size_in_bytes())).map(|bytes| bytes as u64);
    if bytes.is_none() || end.checked_sub(begin) != bytes {
        let expected = format!("{} bytes for {:?} {}", bytes.unwrap_or(u64::MAX), entry.shape, entry.dtype);
        return Err(Problem::new(path, key, expected, format!("offsets {begin}..{end}")));
    }
    if data.checked_add(end).is_none_or(|end| end > size) {
        let expected = format!("a file of at least {} bytes", data.saturating_add(end));
        return Err(Problem::new(path, key, expected, format!("{size} bytes: the file was cut short")));
    }
    Ok((Meta { shape: entry.shape, format: Format::Dense(dtype) }, data + begin))
}

fn dtype(name: &str) -> Option<DType> {
    Some(match name {
        "F64" => DType::F64,
        "F32" => DType::F32,
        "F16" => DType::F16,
        "BF16" => DType::BF16,
        "F8_E4M3" => DType::F8E4M3,
        "I64" => DType::I64,
        "I32" => DType::I32,
        "I16" => DType::I16,
        "U32" => DType::U32,
        "U8" | "BOOL" => DType::U8,
        _ => return None,
    })
}

impl Source for Safetensors {
    fn meta(&self, key: &str) -> Option<Meta> {
        self.places.get(key).map(|place| place.meta.clone())
    }

    fn load(&self, key: &str, rows: Option<Range<usize>>, device: &Device) -> Result<Loaded> {
        let fp8 = self.places.get(key).is_some_and(|at| at.meta.format == Format::Dense(DType::F8E4M3));
        if !fp8 {
            return self.dense(key, rows, device).map(Loaded::Dense);
        }
        // Only the newest GPUs can convert fp8, a CPU always can.
        let wide = self.dense(key, rows.clone(), &Device::Cpu)?.to_dtype(DType::F32)?;
        let wide = match self.scale(key)? {
            Some(scale) if scale.elem_count() == 1 => wide.broadcast_mul(&scale.reshape(())?)?,
            Some(scale) => {
                let mut column = vec![1; wide.rank()];
                if let Some(first) = column.first_mut() {
                    *first = wide.dim(0)?;
                }
                let scale = scale.flatten_all()?;
                let scale = match rows {
                    Some(rows) => scale.narrow(0, rows.start, rows.len())?,
                    None => scale,
                };
                wide.broadcast_mul(&scale.reshape(column)?)?
            }
            None => wide,
        };
        wide.to_device(device).map(Loaded::Dense)
    }

    fn extents(&self, key: &str, rows: Option<Range<usize>>) -> Option<Vec<Extent>> {
        let place = self.places.get(key)?;
        let Format::Dense(dtype) = place.meta.format else { return None };
        let file = &self.shards.get(place.shard)?.file;
        Extent::of(file, place.start, dtype, &place.meta.shape, rows).map(|extent| vec![extent])
    }

    fn keys(&self) -> Vec<String> {
        self.places.keys().cloned().collect()
    }

    fn origin(&self, key: &str) -> String {
        let shard = self.places.get(key).map_or(0, |place| place.shard);
        self.shards.get(shard).map_or_else(|| "no file".to_owned(), |shard| shard.path.display().to_string())
    }
}
