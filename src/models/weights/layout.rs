//! Where each tensor of a net lies in one piece of memory: made by running the net's constructor on a [`Probe`].
//!
//! Rows that the net joins lie below each other, so that the joined matrix is a view; convolution kernels lie as their
//! device wants them; a matrix in 8 bits has one place for its numbers and one for its scales; tensors of one repeated block lie together in a [`Segment`], so that a block can be copied in one
//! go. Pure: no data, no device. Must not know any net. Callers: `memory` (fills it), [`super::Weights`] (reads it).

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use candle_core::{DType, Error, Result};

use super::probe::{Asked, Role};
use super::{Format, Probe, Source};
use crate::models::ops::Rounding;

/// Tensors start at multiples of this, which is what matrix kernels' widest loads and copies want. Bytes.
pub const ALIGNMENT: usize = 256;

/// What of a tensor lies in a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// All of it, as the net asks for it.
    Whole,
    /// A matrix in 8 bits, u8, without its scales.
    Numbers(Rounding),
    /// A scale for each row of such a matrix, f32.
    Scales(Rounding),
}

/// A tensor's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Full key, which is also the source's.
    pub key: String,
    /// Of it.
    pub content: Content,
    /// As the net asks for it; of scales, their number.
    pub shape: Vec<usize>,
    /// As the net asks for it, or as [`Content`] says; sources are converted.
    pub dtype: DType,
    /// A convolution kernel, whose memory is (outputs, height, width, inputs).
    pub channels_last: bool,
    /// Index into [`Layout::segments`].
    pub segment: usize,
    /// Bytes from the start of the segment's lane of this dtype.
    pub offset: usize,
}

impl Entry {
    /// Numbers.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Memory.
    pub fn bytes(&self) -> usize {
        self.elements() * self.dtype.size_in_bytes()
    }

    /// Bytes of the segment's lane.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.bytes()
    }
}

/// The tensors of one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The keys' common prefix (`transformer_blocks.3`), or nothing for the tensors that belong to no part.
    pub name: String,
    /// Whether the net reaches it through [`super::Blocks`], so that it may come and go.
    pub is_block: bool,
    /// One a dtype.
    pub lanes: Vec<Lane>,
    /// Bytes of quantised tensors, which have no place here.
    pub outside: u64,
}

impl Segment {
    /// Memory of all lanes, without what lies outside.
    pub fn bytes(&self) -> usize {
        self.lanes.iter().map(|lane| lane.bytes).sum()
    }

    /// Bytes of `dtype`.
    pub fn lane(&self, dtype: DType) -> usize {
        self.lanes.iter().find(|lane| lane.dtype == dtype).map_or(0, |lane| lane.bytes)
    }
}

/// A segment's tensors of one dtype, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lane {
    /// Of all tensors in it.
    pub dtype: DType,
    /// A multiple of [`ALIGNMENT`].
    pub bytes: usize,
}

/// Places of all tensors of a net.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    entries: Vec<Entry>,
    by_key: HashMap<String, Vec<usize>>,
    segments: Vec<Segment>,
}

impl Layout {
    /// Places what `probe` noted. Matrices that `source` keeps in GGML blocks are left to it. `channels_last` says how
    /// convolution kernels should lie.
    ///
    /// # Errors
    /// The source lacks a tensor or has it in another shape; a dtype that nets do not compute in.
    pub fn new(probe: &Probe, source: &dyn Source, channels_last: bool) -> Result<Self> {
        let asked = probe.asked();
        for tensor in &asked {
            super::checked(source, &tensor.key, &tensor.shape)?;
            if !matches!(tensor.dtype, DType::F32 | DType::F16 | DType::BF16) {
                let dtype = tensor.dtype.as_str();
                return Err(Error::Msg(format!("{}: {dtype}: expected f32, f16 or bf16", tensor.key)));
            }
        }
        let mut layout = Self::default();
        let mut numbers: HashMap<String, usize> = HashMap::new();
        // Tensors without a block come first, however late the net asks for them: they are never streamed.
        let parts = Parts::of(&asked, source);
        let names = asked.iter().map(|tensor| parts.of_tensor(tensor));
        for name in std::iter::once("").chain(names) {
            if !numbers.contains_key(name) {
                numbers.insert(name.to_owned(), layout.segments.len());
                let is_block = parts == Parts::Blocks && !name.is_empty();
                layout.segments.push(Segment {
                    name: name.to_owned(),
                    is_block,
                    lanes: Vec::new(),
                    outside: 0,
                });
            }
        }
        let mut placed_groups = HashSet::new();
        for tensor in &asked {
            let group: Vec<&Asked> = match tensor.group {
                Some(group) if !placed_groups.insert(group) => continue,
                Some(group) => asked.iter().filter(|other| other.group == Some(group)).collect(),
                None => vec![tensor],
            };
            let segment = numbers.get(parts.of_tensor(tensor)).copied().unwrap_or(0);
            layout.place(&group, segment, source, channels_last);
        }
        Ok(layout)
    }

    /// Puts tensors that the net joins below each other, the first one aligned.
    fn place(&mut self, group: &[&Asked], segment: usize, source: &dyn Source, channels_last: bool) {
        let blocks = |tensor: &Asked| match source.meta(&tensor.key).map(|meta| meta.format) {
            Some(Format::Quantised(blocks)) if matches!(tensor.role, Role::Matrix(_)) => Some(blocks),
            _ => None,
        };
        let first = group.first().and_then(|tensor| blocks(tensor));
        if first.is_some() && group.iter().all(|tensor| blocks(tensor) == first) {
            let Some(at) = self.segments.get_mut(segment) else { return };
            at.outside += group.iter().map(|tensor| quantised_bytes(tensor, first)).sum::<u64>();
            return;
        }
        match group.first().map(|tensor| tensor.role) {
            Some(Role::Matrix(Some(rounding))) => {
                let place = |content, dtype| Place { segment, content, dtype, channels_last: false };
                self.stack(group, place(Content::Numbers(rounding), DType::U8));
                self.stack(group, place(Content::Scales(rounding), DType::F32));
            }
            Some(role) => {
                let channels_last = channels_last && role == Role::Kernel;
                let dtype = group.first().map_or(DType::F32, |tensor| tensor.dtype);
                self.stack(group, Place { segment, content: Content::Whole, dtype, channels_last });
            }
            None => {}
        }
    }

    /// Those of `group` that have no such place yet.
    fn stack(&mut self, group: &[&Asked], place: Place) {
        let Place { segment, content, dtype, channels_last } = place;
        let new: Vec<&&Asked> =
            group.iter().filter(|tensor| self.holding(&tensor.key, content, dtype).is_none()).collect();
        if new.is_empty() {
            return;
        }
        let Some(at) = self.segments.get_mut(segment) else { return };
        let known = at.lanes.iter().position(|lane| lane.dtype == dtype);
        let lane = known.unwrap_or_else(|| {
            at.lanes.push(Lane { dtype, bytes: 0 });
            at.lanes.len() - 1
        });
        let Some(lane) = at.lanes.get_mut(lane) else { return };
        for tensor in new {
            let mut shape = tensor.shape.clone();
            if matches!(content, Content::Scales(_)) {
                shape.truncate(1);
            }
            let (key, offset) = (tensor.key.clone(), lane.bytes);
            let entry = Entry { key, content, shape, dtype, channels_last, segment, offset };
            lane.bytes += entry.bytes();
            self.by_key.entry(entry.key.clone()).or_default().push(self.entries.len());
            self.entries.push(entry);
        }
        lane.bytes = lane.bytes.next_multiple_of(ALIGNMENT);
    }

    fn holding(&self, key: &str, content: Content, dtype: DType) -> Option<&Entry> {
        let mut entries = self.by_key.get(key)?.iter().filter_map(|index| self.entries.get(*index));
        entries.find(|entry| entry.content == content && entry.dtype == dtype)
    }

    /// A tensor's place; `None` if the net did not ask for it in this dtype, or if it is quantised or in 8 bits.
    pub fn find(&self, key: &str, dtype: DType) -> Option<&Entry> {
        self.holding(key, Content::Whole, dtype)
    }

    /// The places of a matrix's numbers and scales; `None` if the net did not ask for it so.
    pub fn find_rounded(&self, key: &str, rounding: Rounding) -> Option<(&Entry, &Entry)> {
        let numbers = self.holding(key, Content::Numbers(rounding), DType::U8)?;
        Some((numbers, self.holding(key, Content::Scales(rounding), DType::F32)?))
    }

    /// All places, segments mixed.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// In the order of first use; the first holds what belongs to no block and may be empty.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The segment called `name`.
    pub fn segment(&self, name: &str) -> Option<usize> {
        self.segments.iter().position(|segment| segment.name == name)
    }

    /// Memory of everything placed.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes() as u64).sum()
    }

    /// Memory of quantised tensors, which their source keeps.
    pub fn outside(&self) -> u64 {
        self.segments.iter().map(|segment| segment.outside).sum()
    }

    /// Every dtype that occurs.
    pub fn dtypes(&self) -> Vec<DType> {
        let mut found = Vec::new();
        for lane in self.segments.iter().flat_map(|segment| &segment.lanes) {
            if !found.contains(&lane.dtype) {
                found.push(lane.dtype);
            }
        }
        found
    }
}

/// Where a group of tensors goes.
#[derive(Clone, Copy)]
struct Place {
    segment: usize,
    content: Content,
    dtype: DType,
    channels_last: bool,
}

fn quantised_bytes(tensor: &Asked, blocks: Option<candle_core::quantized::GgmlDType>) -> u64 {
    let elements: usize = tensor.shape.iter().product();
    blocks.map_or(0, |blocks| (elements / blocks.block_size() * blocks.type_size()) as u64)
}

/// What a layout is divided into.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Parts {
    /// Nothing: quantised matrices belong to the net that loads them, so that parts cannot come and go without it.
    None,
    /// What the net takes as blocks, and the rest.
    Blocks,
    /// Whatever a net without blocks numbers: stages, layers.
    Numbers,
}

impl Parts {
    fn of(asked: &[Asked], source: &dyn Source) -> Self {
        let quantised = |tensor: &Asked| {
            let meta = source.meta(&tensor.key);
            matches!(tensor.role, Role::Matrix(_))
                && meta.is_some_and(|at| matches!(at.format, Format::Quantised(_)))
        };
        if asked.iter().any(quantised) {
            Self::None
        } else if asked.iter().any(|tensor| tensor.block.is_some()) {
            Self::Blocks
        } else {
            Self::Numbers
        }
    }

    /// Name of the segment of `tensor`.
    fn of_tensor(self, tensor: &Asked) -> &str {
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        match self {
            Self::None => "",
            // Not by key: T5's distances lie in block 0 but are read by all.
            Self::Blocks => tensor.block.as_deref().unwrap_or_default(),
            Self::Numbers => tensor
                .key
                .match_indices('.')
                .filter_map(|(dot, _)| tensor.key.get(..dot))
                .find(|prefix| prefix.rsplit_once('.').is_some_and(|(_, last)| is_number(last)))
                .unwrap_or_default(),
        }
    }
}
