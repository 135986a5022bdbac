//! A view on a checkpoint's tensors by key prefix: what every net is built from.
//!
//! Nets ask for tensors by diffusers' or transformers' key and shape; where they come from (memory mapped safetensors,
//! GGUF, a map, seeds) is a [`Source`]'s business. A net's constructor doubles as its schema: run on a
//! [`Probe`] it touches no data and leaves the list of tensors that it expects, so no key list is written twice.
//! Must not know any model. Callers: nets (reading), `checkpoint` (opening, checking).
//!
//! candle's `VarBuilder` is not used as the seam because it can only hand out dense tensors: a quantised matrix would
//! have to be expanded on load. [`Weights::var_builder`] gives one where a candle module wants it.

mod gguf;
mod memory;
mod probe;
mod problem;
mod quantised;
mod random;
mod renamed;
mod safetensors;

use std::collections::HashMap;
use std::fmt::Display;
use std::ops::Range;
use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Error, Result, Shape, Tensor};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;

use crate::models::ops::Linear;

pub use gguf::Gguf;
pub use probe::{Expected, Probe};
pub use problem::Problem;
pub use random::{Random, random_tensor};
pub(crate) use random::{fnv, spread};
pub use renamed::{Part, Recipe, Renamed};
pub use safetensors::Safetensors;

/// How a tensor's numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One number after the other.
    Dense(DType),
    /// GGML blocks along the last dimension.
    Quantised(GgmlDType),
}

impl Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dense(dtype) => write!(f, "{}", dtype.as_str()),
            Self::Quantised(dtype) => write!(f, "{dtype:?}"),
        }
    }
}

/// A tensor as it was loaded.
pub enum Loaded {
    /// In whatever dtype the source holds; [`Weights`] converts.
    Dense(Tensor),
    /// Kept in blocks.
    Quantised(QTensor),
}

/// What is known of a tensor without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Rows first.
    pub shape: Vec<usize>,
    /// Stored as.
    pub format: Format,
}

/// Where tensors come from. Implementations read lazily: opening one costs its header.
pub trait Source: Send + Sync {
    /// Shape and format; `None` if the source has no such tensor.
    fn meta(&self, key: &str) -> Option<Meta>;

    /// Reads a tensor, or only `rows` of its first dimension.
    ///
    /// # Errors
    /// The key is unknown, the data ends early, or the device has no room.
    fn load(&self, key: &str, rows: Option<Range<usize>>, device: &Device) -> Result<Loaded>;

    /// Every key, in no particular order.
    fn keys(&self) -> Vec<String>;

    /// Where a key's data lies, in words for errors: a file's path, "memory".
    fn origin(&self, key: &str) -> String;
}

/// A cheap handle: a source, a key prefix, the dtype and device that tensors are wanted in.
#[derive(Clone)]
pub struct Weights {
    from: Origin,
    prefix: String,
    dtype: DType,
    device: Device,
}

#[derive(Clone)]
enum Origin {
    Source(Arc<dyn Source>),
    Probe(Arc<Probe>),
}

impl Weights {
    /// A view on all of `source`; tensors are converted to `dtype` on `device`.
    pub fn new(source: Arc<dyn Source>, dtype: DType, device: &Device) -> Self {
        Self { from: Origin::Source(source), prefix: String::new(), dtype, device: device.clone() }
    }

    /// A view on tensors in memory.
    pub fn from_map(map: HashMap<String, Tensor>, dtype: DType, device: &Device) -> Self {
        Self::new(Arc::new(map), dtype, device)
    }

    /// A view that has every tensor, notes what is asked for, and holds no data.
    pub fn probing(probe: &Arc<Probe>) -> Self {
        Self {
            from: Origin::Probe(Arc::clone(probe)),
            prefix: String::new(),
            dtype: DType::F32,
            device: Device::Cpu,
        }
    }

    /// The view below `part`: `w.pp("transformer_blocks").pp(0)`.
    #[must_use]
    pub fn pp(&self, part: impl Display) -> Self {
        Self { prefix: self.key(&part.to_string()), ..self.clone() }
    }

    /// The same view with tensors converted to `dtype`.
    #[must_use]
    pub fn to_dtype(&self, dtype: DType) -> Self {
        Self { dtype, ..self.clone() }
    }

    /// Compute dtype.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where tensors go.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Prefix, without the closing dot.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Whether there is a tensor `name` right below the prefix. A probe says no.
    pub fn contains(&self, name: &str) -> bool {
        match &self.from {
            Origin::Source(source) => source.meta(&self.key(name)).is_some(),
            Origin::Probe(_) => false,
        }
    }

    /// The tensor `name`, dense, in the compute dtype.
    ///
    /// # Errors
    /// No such tensor, or another shape; the message names file, key, expected and found.
    pub fn get<S: Into<Shape>>(&self, shape: S, name: &str) -> Result<Tensor> {
        let shape = shape.into();
        match self.load(name, shape.dims())? {
            Loaded::Dense(tensor) => Ok(tensor),
            Loaded::Quantised(blocks) => blocks.dequantize(&self.device)?.to_dtype(self.dtype),
        }
    }

    /// A convolution's kernel `name`, (outputs, inputs, height, width). On a card its memory is channels last (outputs,
    /// height, width, inputs), which is what the fast kernels read; indices mean the same.
    ///
    /// # Errors
    /// As [`Weights::get`].
    pub fn get_kernel(&self, shape: (usize, usize, usize, usize), name: &str) -> Result<Tensor> {
        let kernel = self.get(shape, name)?;
        if kernel.device().is_cpu() {
            return Ok(kernel);
        }
        kernel.permute((0, 2, 3, 1))?.contiguous()?.permute((0, 3, 1, 2))
    }

    /// `y = x Wᵀ (+ b)` from `weight` (out, in) and `bias` (out) right below the prefix. Quantised weights stay so.
    ///
    /// # Errors
    /// As [`Weights::get`].
    pub fn linear(&self, inputs: usize, outputs: usize, bias: bool) -> Result<Linear> {
        self.fused_linear(inputs, &[("", outputs)], bias)
    }

    /// One layer out of several that read the same input: rows of `parts` (name, outputs) in order. An empty name is the
    /// view itself. With one matrix product instead of three, q, k and v cost a third of the launches. Quantised parts of
    /// different block types are expanded.
    ///
    /// # Errors
    /// As [`Weights::get`].
    pub fn fused_linear(&self, inputs: usize, parts: &[(&str, usize)], bias: bool) -> Result<Linear> {
        let mut blocks = Vec::with_capacity(parts.len());
        let mut biases = Vec::with_capacity(parts.len());
        for &(name, outputs) in parts {
            let view = if name.is_empty() { self.clone() } else { self.pp(name) };
            blocks.push(view.load("weight", &[outputs, inputs])?);
            if bias {
                biases.push(view.get(outputs, "bias")?);
            }
        }
        let bias = if bias { Some(self.join(biases)?) } else { None };
        if quantised::joinable(&blocks) {
            return Linear::quantised(quantised::join(blocks, inputs, &self.device)?, bias);
        }
        let dense = blocks
            .into_iter()
            .map(|block| match block {
                Loaded::Dense(tensor) => Ok(tensor),
                Loaded::Quantised(blocks) => blocks.dequantize(&self.device)?.to_dtype(self.dtype),
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Linear::dense(self.join(dense)?, bias))
    }

    /// The same view for candle's own modules.
    pub fn var_builder(&self) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), self.dtype, self.device.clone())
    }

    fn key(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) }
    }

    /// Checks the shape and reads; dense tensors come in the compute dtype.
    fn load(&self, name: &str, expected: &[usize]) -> Result<Loaded> {
        let key = self.key(name);
        let source = match &self.from {
            Origin::Source(source) => source,
            Origin::Probe(probe) => return probe.note(key, expected, self.dtype).map(Loaded::Dense),
        };
        let Some(meta) = source.meta(&key) else {
            return Err(Error::CannotFindTensor { path: format!("{key} in {}", source.origin(&key)) });
        };
        if meta.shape != expected {
            return Err(Error::Msg(format!(
                "{key} in {}: expected shape {expected:?}, found {:?}",
                source.origin(&key),
                meta.shape
            )));
        }
        match source.load(&key, None, &self.device)? {
            Loaded::Dense(tensor) => Ok(Loaded::Dense(tensor.to_device(&self.device)?.to_dtype(self.dtype)?)),
            quantised @ Loaded::Quantised(_) => Ok(quantised),
        }
    }

    /// Rows below rows. A probe's tensors have no data, so only the shape is joined.
    fn join(&self, mut parts: Vec<Tensor>) -> Result<Tensor> {
        match (&self.from, parts.len()) {
            (_, 1) => Ok(parts.swap_remove(0)),
            (Origin::Source(_), _) => Tensor::cat(&parts, 0),
            (Origin::Probe(_), _) => {
                let mut shape = parts.first().map(|part| part.dims().to_vec()).unwrap_or_default();
                if let Some(rows) = shape.first_mut() {
                    *rows = parts.iter().map(|part| part.dims().first().copied().unwrap_or(0)).sum();
                }
                probe::dataless(&shape, self.dtype)
            }
        }
    }
}

impl SimpleBackend for Weights {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let view = Self { dtype, device: device.clone(), ..self.clone() };
        Self::get(&view, shape, name)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let meta = match &self.from {
            Origin::Source(source) => source.meta(&self.key(name)),
            Origin::Probe(_) => None,
        };
        let Some(meta) = meta else {
            return Err(Error::CannotFindTensor { path: self.key(name) });
        };
        SimpleBackend::get(self, Shape::from(meta.shape), name, candle_nn::Init::default(), dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.contains(name)
    }
}
