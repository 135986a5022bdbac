//! A view on a checkpoint's tensors by key prefix: what every net is built from.
//!
//! Nets ask for tensors by diffusers' or transformers' key and shape; where they come from (memory mapped safetensors,
//! GGUF, a map, seeds) is a [`Source`]'s business. A net's constructor doubles as its schema: run on a
//! [`Probe`] it touches no data and leaves the list of tensors that it expects, so no key list is written twice.
//! Must not know any model. Callers: nets (reading), `checkpoint` (opening, checking).
//!
//! candle's `VarBuilder` is not used as the seam because it can only hand out dense tensors: a quantised matrix would
//! have to be expanded on load. [`Weights::var_builder`] gives one where a candle module wants it.

mod blocks;
mod gguf;
mod layout;
mod memory;
mod placed;
mod probe;
mod problem;
mod quantised;
mod random;
mod renamed;
mod safetensors;

use std::collections::HashMap;
use std::fmt::Display;
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Error, Result, Shape, Tensor};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;

use crate::models::ops::{Eight, Int8, Linear, Rounding};
use placed::{Gate, Placed};
use probe::{Asked, Role};

pub use blocks::Blocks;
pub use gguf::Gguf;
pub use layout::{ALIGNMENT, Content, Entry, Lane, Layout, Segment};
pub use placed::Lanes;
pub use probe::{Expected, Probe};
pub use problem::Problem;
pub use random::{Random, random_tensor, random_tensor_around};
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

/// Numbers that lie one after the other in a file.
#[derive(Debug, Clone)]
pub struct Extent {
    /// Open for reading.
    pub file: Arc<File>,
    /// Bytes from the start of the file.
    pub offset: u64,
    /// f32, f16 or bf16, little endian.
    pub dtype: DType,
    /// Numbers.
    pub elements: usize,
}

impl Extent {
    /// Of `rows` of a tensor of `shape` that starts at `offset`; `None` for other dtypes.
    fn of(
        file: &Arc<File>,
        offset: u64,
        dtype: DType,
        shape: &[usize],
        rows: Option<Range<usize>>,
    ) -> Option<Self> {
        if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
            return None;
        }
        let row: usize = shape.iter().skip(1).product();
        let rows = rows.unwrap_or(0..shape.first().copied().unwrap_or(1));
        let offset = offset + (rows.start * row * dtype.size_in_bytes()) as u64;
        Some(Self { file: Arc::clone(file), offset, dtype, elements: rows.len() * row })
    }
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

    /// Where a tensor's numbers (or those of `rows` of its first dimension) lie in files, if they lie there in plain
    /// f32, f16 or bf16: extents below each other. `None` sends the reader to [`Source::load`].
    fn extents(&self, _key: &str, _rows: Option<Range<usize>>) -> Option<Vec<Extent>> {
        None
    }

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
    /// Prefix of the block that the view is on, if it is on one of [`Blocks`].
    block: Option<Arc<str>>,
    dtype: DType,
    device: Device,
    /// What linear layers are rounded to, if they are.
    eight: Option<Rounding>,
}

#[derive(Clone)]
enum Origin {
    Source(Arc<dyn Source>),
    Probe(Arc<Probe>),
    Placed(Placed),
}

impl Weights {
    /// A view on all of `source`; tensors are converted to `dtype` on `device`.
    pub fn new(source: Arc<dyn Source>, dtype: DType, device: &Device) -> Self {
        Self {
            from: Origin::Source(source),
            prefix: String::new(),
            block: None,
            dtype,
            device: device.clone(),
            eight: None,
        }
    }

    /// A view on tensors in memory.
    pub fn from_map(map: HashMap<String, Tensor>, dtype: DType, device: &Device) -> Self {
        Self::new(Arc::new(map), dtype, device)
    }

    /// A view that has every tensor, notes what is asked for, and holds no data.
    pub fn probing(probe: &Arc<Probe>) -> Self {
        Self::probing_as(probe, DType::F32)
    }

    /// [`Weights::probing`] for a net that will compute in `dtype`, for nets keep some tensors wider.
    pub fn probing_as(probe: &Arc<Probe>, dtype: DType) -> Self {
        let from = Origin::Probe(Arc::clone(probe));
        Self { from, prefix: String::new(), block: None, dtype, device: Device::Cpu, eight: None }
    }

    /// A view on tensors that lie in `lanes` as `layout` says. What was left out of the layout because it is quantised is
    /// loaded from `source`.
    pub fn placed(
        layout: Arc<Layout>,
        lanes: Arc<dyn Lanes>,
        source: Arc<dyn Source>,
        dtype: DType,
        device: &Device,
    ) -> Self {
        let from = Origin::Placed(Placed { layout, lanes, source });
        Self { from, prefix: String::new(), block: None, dtype, device: device.clone(), eight: None }
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

    /// The same view, whose matrices of linear layers are in 8 bits where sizes and device allow ([`Rounding::fits`],
    /// [`Rounding::suits`]), unless they lie in GGML blocks; or no longer so. A layout made on such a view places them so;
    /// else they are rounded as a layer is built, from the numbers that the source holds, whatever the compute dtype. Nets say
    /// which of their layers must not be.
    #[must_use]
    pub fn in_eight(&self, eight: Option<Rounding>) -> Self {
        Self { eight, ..self.clone() }
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
            Origin::Placed(placed) => placed.source.meta(&self.key(name)).is_some(),
        }
    }

    /// Whether the tensors below the prefix are those of a block that comes and goes.
    pub(super) fn is_streamed(&self) -> bool {
        match &self.from {
            Origin::Placed(placed) => {
                placed.layout.segment(&self.prefix).is_some_and(|segment| placed.lanes.is_streamed(segment))
            }
            Origin::Source(_) | Origin::Probe(_) => false,
        }
    }

    /// What to wait at before the tensors below the prefix are read, if they are those of a block that has a place.
    fn gate(&self) -> Option<Gate> {
        let Origin::Placed(placed) = &self.from else { return None };
        placed.layout.segment(&self.prefix).map(|segment| Gate { lanes: Arc::clone(&placed.lanes), segment })
    }

    /// The same view as that of a block that may come and go.
    pub(super) fn as_block(&self) -> Self {
        let outermost = self.block.clone().unwrap_or_else(|| self.prefix.as_str().into());
        Self { block: Some(outermost), ..self.clone() }
    }

    /// What a probe notes.
    fn asking(&self, name: &str, shape: &[usize], role: Role) -> Asked {
        let (key, shape, block) = (self.key(name), shape.to_vec(), self.block.clone());
        Asked { key, shape, dtype: self.dtype, role, group: None, block }
    }

    /// The same view while its block is on the device: until the last copy of it is dropped.
    pub(super) fn lend(&self) -> Result<Self> {
        let Origin::Placed(placed) = &self.from else { return Ok(self.clone()) };
        let Some(segment) = placed.layout.segment(&self.prefix) else { return Ok(self.clone()) };
        let lanes = placed.lanes.lend(segment)?;
        Ok(Self { from: Origin::Placed(Placed { lanes, ..placed.clone() }), ..self.clone() })
    }

    /// The tensor `name`, dense, in the compute dtype.
    ///
    /// # Errors
    /// No such tensor, or another shape; the message names file, key, expected and found.
    pub fn get<S: Into<Shape>>(&self, shape: S, name: &str) -> Result<Tensor> {
        self.dense(shape.into().dims(), name, Role::Plain)
    }

    fn dense(&self, shape: &[usize], name: &str, role: Role) -> Result<Tensor> {
        match self.load(name, shape, role)? {
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
        let (outputs, inputs, height, width) = shape;
        let kernel = self.dense(&[outputs, inputs, height, width], name, Role::Kernel)?;
        if kernel.device().is_cpu() {
            return Ok(kernel);
        }
        // Nothing is copied if it lies so already.
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
        let named = |tensor: &str, shape: &dyn Fn(usize) -> Vec<usize>| -> Vec<(String, Vec<usize>)> {
            let key = |name: &str| match name {
                "" => tensor.to_owned(),
                name => format!("{name}.{tensor}"),
            };
            parts.iter().map(|&(name, outputs)| (key(name), shape(outputs))).collect()
        };
        let bias = || -> Result<Option<Tensor>> {
            if !bias {
                return Ok(None);
            }
            match self.joined(&named("bias", &|outputs| vec![outputs]), Role::Plain)? {
                Loaded::Dense(bias) => Ok(Some(bias)),
                Loaded::Quantised(blocks) => blocks.dequantize(&self.device)?.to_dtype(self.dtype).map(Some),
            }
        };
        let weights = named("weight", &|outputs| vec![outputs, inputs]);
        let outputs = parts.iter().map(|(_, outputs)| outputs).sum();
        let eight = self.eight.filter(|eight| Rounding::fits(outputs, inputs) && eight.suits(&self.device));
        if let (Origin::Placed(placed), Some(eight)) = (&self.from, eight)
            && let Some((numbers, scales)) = placed.rounded(&self.keys(&weights), eight)?
        {
            return Ok(match eight {
                Rounding::E4m3 => Linear::eight(Eight::from_parts(numbers, scales, self.dtype), bias()?),
                Rounding::Int8 => Linear::int8(Int8::from_parts(numbers, scales), bias()?),
            });
        }
        let weight = self.joined(&weights, Role::Matrix(eight))?;
        let has_data = !matches!(self.from, Origin::Probe(_));
        if has_data && eight.is_some() {
            self.wait_for_block()?;
        }
        match (weight, eight.filter(|_| has_data)) {
            (Loaded::Quantised(blocks), _) => Linear::quantised(blocks, bias()?),
            (Loaded::Dense(weight), None) => Ok(Linear::dense(weight, bias()?)),
            (Loaded::Dense(weight), Some(Rounding::E4m3)) => Ok(Linear::eight(Eight::new(&weight)?, bias()?)),
            (Loaded::Dense(weight), Some(Rounding::Int8)) => Ok(Linear::int8(Int8::new(&weight)?, bias()?)),
        }
    }

    /// Before a constructor computes with a block's tensors.
    fn wait_for_block(&self) -> Result<()> {
        let (Origin::Placed(placed), Some(block)) = (&self.from, &self.block) else { return Ok(()) };
        placed.layout.segment(block).map_or(Ok(()), |segment| placed.lanes.arrive(segment))
    }

    /// The same view for candle's own modules.
    pub fn var_builder(&self) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), self.dtype, self.device.clone())
    }

    fn key(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) }
    }

    fn keys(&self, parts: &[(String, Vec<usize>)]) -> Vec<(String, Vec<usize>)> {
        parts.iter().map(|(name, shape)| (self.key(name), shape.clone())).collect()
    }

    /// Checks the shape and reads; dense tensors come in the compute dtype, those to be rounded as they are.
    fn load(&self, name: &str, expected: &[usize], role: Role) -> Result<Loaded> {
        let key = self.key(name);
        let loaded = match &self.from {
            Origin::Source(source) => {
                checked(source.as_ref(), &key, expected)?;
                source.load(&key, None, &self.device)
            }
            Origin::Probe(probe) => probe.note(self.asking(name, expected, role)).map(Loaded::Dense),
            Origin::Placed(placed) => placed.load(&key, expected, self.dtype, &self.device),
        };
        match loaded? {
            Loaded::Dense(tensor) if matches!(role, Role::Matrix(Some(_))) => Ok(Loaded::Dense(tensor)),
            Loaded::Dense(tensor) => tensor.to_dtype(self.dtype).map(Loaded::Dense),
            quantised @ Loaded::Quantised(_) => Ok(quantised),
        }
    }

    /// Several tensors (name, shape) below each other. Blocks stay blocks if all are of one type.
    fn joined(&self, parts: &[(String, Vec<usize>)], role: Role) -> Result<Loaded> {
        match &self.from {
            Origin::Probe(probe) => {
                let asked = parts.iter().map(|(name, shape)| self.asking(name, shape, role)).collect();
                return probe.note_joined(asked).map(Loaded::Dense);
            }
            Origin::Placed(placed) => {
                if let Some(view) = placed.joined(&self.keys(parts), self.dtype)? {
                    return Ok(Loaded::Dense(view));
                }
            }
            Origin::Source(_) => {}
        }
        let mut loaded =
            parts.iter().map(|(name, shape)| self.load(name, shape, role)).collect::<Result<Vec<_>>>()?;
        if loaded.len() == 1 {
            return Ok(loaded.swap_remove(0));
        }
        if quantised::joinable(&loaded) {
            let inputs = parts.first().and_then(|(_, shape)| shape.get(1).copied()).unwrap_or(1);
            return quantised::join(loaded, inputs, &self.device).map(Loaded::Quantised);
        }
        let dtype = match role {
            Role::Matrix(Some(_)) => common(&loaded),
            _ => self.dtype,
        };
        let dense = loaded
            .into_iter()
            .map(|part| match part {
                Loaded::Dense(tensor) => tensor.to_dtype(dtype),
                Loaded::Quantised(blocks) => blocks.dequantize(&self.device)?.to_dtype(dtype),
            })
            .collect::<Result<Vec<_>>>()?;
        Tensor::cat(&dense, 0).map(Loaded::Dense)
    }
}

/// The dtype of all parts, or f32, which has all numbers of the narrower ones.
fn common(parts: &[Loaded]) -> DType {
    let mut dtypes = parts.iter().map(|part| match part {
        Loaded::Dense(tensor) => tensor.dtype(),
        Loaded::Quantised(_) => DType::F32,
    });
    let first = dtypes.next().unwrap_or(DType::F32);
    if dtypes.all(|dtype| dtype == first) { first } else { DType::F32 }
}

/// Demands that `source` has `key` in the shape `expected`.
pub(super) fn checked(source: &dyn Source, key: &str, expected: &[usize]) -> Result<()> {
    let Some(meta) = source.meta(key) else {
        return Err(Error::CannotFindTensor { path: format!("{key} in {}", source.origin(key)) });
    };
    if meta.shape != expected {
        return Err(Error::Msg(format!(
            "{key} in {}: expected shape {expected:?}, found {:?}",
            source.origin(key),
            meta.shape
        )));
    }
    Ok(())
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
            Origin::Placed(placed) => placed.source.meta(&self.key(name)),
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
