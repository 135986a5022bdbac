//! GGUF files. The header is read at opening, tensors at their offsets when asked for; blocks stay blocks.

use std::borrow::Cow;
use std::fs::File;
use std::io::BufReader;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::quantized::gguf_file::{Content, TensorInfo, Value};
use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{DType, Device, Error, Result, Tensor};

use super::{Extent, Format, Loaded, Meta, Problem, Source};

/// A GGUF file as a source, under its own names.
pub struct Gguf {
    path: PathBuf,
    file: Arc<File>,
    content: Content,
}

impl Gguf {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// Unreadable, not GGUF, a block type that candle lacks (the IQ types), or tensors past the end of the file.
    pub fn open(path: &Path) -> std::result::Result<Self, Vec<Problem>> {
        let unreadable =
            |error: std::io::Error| vec![Problem::new(path, "file", "a readable file", error.to_string())];
        let file = File::open(path).map_err(unreadable)?;
        let size = file.metadata().map_err(unreadable)?.len();
        let content = Content::read(&mut BufReader::new(&file)).map_err(|error| {
            vec![Problem::new(path, "header", "GGUF 1 to 3 with types F32 to Q8_K", error.to_string())]
        })?;
        let mut problems = Vec::new();
        for (key, info) in &content.tensor_infos {
            let dims = info.shape.dims();
            let block = info.ggml_dtype.block_size();
            if dims.last().is_some_and(|inner| inner % block != 0) {
                let expected = format!("rows of a multiple of {block} for {:?}", info.ggml_dtype);
                problems.push(Problem::new(path, key, expected, format!("{dims:?}")));
                continue;
            }
            // Sizes are the file's claim: no product may wrap around.
            let elements = dims.iter().try_fold(1usize, |product, dim| product.checked_mul(*dim));
            let bytes = elements.and_then(|count| (count / block).checked_mul(info.ggml_dtype.type_size()));
            let start = content.tensor_data_offset.checked_add(info.offset);
            let end = start.zip(bytes).and_then(|(start, bytes)| start.checked_add(bytes as u64));
            let end = end.unwrap_or(u64::MAX);
            if end > size {
                let found = format!("{size} bytes: the file was cut short");
                problems.push(Problem::new(path, key, format!("a file of at least {end} bytes"), found));
            }
        }
        if problems.is_empty() {
            Ok(Self { path: path.to_owned(), file: Arc::new(file), content })
        } else {
            Err(problems)
        }
    }

    /// `general.architecture`: "flux", "t5encoder".
    pub fn architecture(&self) -> Option<&str> {
        match self.content.metadata.get("general.architecture") {
            Some(Value::String(name)) => Some(name),
            _ => None,
        }
    }
}

fn bytes(info: &TensorInfo, dims: &[usize]) -> usize {
    dims.iter().product::<usize>() / info.ggml_dtype.block_size() * info.ggml_dtype.type_size()
}

fn format(dtype: GgmlDType) -> Format {
    match dtype {
        GgmlDType::F32 => Format::Dense(DType::F32),
        GgmlDType::F16 => Format::Dense(DType::F16),
        GgmlDType::BF16 => Format::Dense(DType::BF16),
        blocks => Format::Quantised(blocks),
    }
}

impl Source for Gguf {
    fn meta(&self, key: &str) -> Option<Meta> {
        let info = self.content.tensor_infos.get(key)?;
        Some(Meta { shape: info.shape.dims().to_vec(), format: format(info.ggml_dtype) })
    }

    fn load(&self, key: &str, rows: Option<Range<usize>>, device: &Device) -> Result<Loaded> {
        let info = self
            .content
            .tensor_infos
            .get(key)
            .ok_or_else(|| Error::CannotFindTensor { path: key.to_owned() })?;
        let mut shape = info.shape.dims().to_vec();
        let mut start = self.content.tensor_data_offset + info.offset;
        if let (Some(rows), Some(count)) = (rows, shape.first_mut()) {
            let row = bytes(info, info.shape.dims()) / (*count).max(1);
            start += (rows.start * row) as u64;
            *count = rows.len();
        }
        let mut data = vec![0; bytes(info, &shape)];
        self.file
            .read_exact_at(&mut data, start)
            .map_err(|error| Error::Msg(format!("{}: {key}: {error}", self.path.display())))?;
        match format(info.ggml_dtype) {
            Format::Dense(dtype) => Tensor::from_raw_buffer(&data, dtype, &shape, device).map(Loaded::Dense),
            Format::Quantised(blocks) => {
                let storage = QStorage::from_data(Cow::Owned(data), device, blocks)?;
                QTensor::new(storage, shape).map(Loaded::Quantised)
            }
        }
    }

    fn extents(&self, key: &str, rows: Option<Range<usize>>) -> Option<Vec<Extent>> {
        let info = self.content.tensor_infos.get(key)?;
        let Format::Dense(dtype) = format(info.ggml_dtype) else { return None };
        let start = self.content.tensor_data_offset + info.offset;
        Extent::of(&self.file, start, dtype, info.shape.dims(), rows).map(|extent| vec![extent])
    }

    fn keys(&self) -> Vec<String> {
        self.content.tensor_infos.keys().cloned().collect()
    }

    fn origin(&self, _: &str) -> String {
        self.path.display().to_string()
    }
}
