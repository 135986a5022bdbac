//! A kernel at one shape: what it reads, how much it moves and computes, and how it is called.
//!
//! Calls go through `models::ops`, as nets call, so that the same case runs on a card (the kernel) and on a CPU (its
//! twin). Must not know which shapes there are. Callers: the families, the timing, the check.

use candle_core::{DType, Device, Error, Result, Tensor};

use crate::models::weights::random_tensor_around;

/// What a case makes of its inputs.
type Run = Of<Vec<Tensor>>;

/// Something that is made of a case's inputs.
type Of<T> = Box<dyn Fn(&[Tensor]) -> Result<T>>;

/// The kernel on one set of inputs, as often as one likes.
pub type Call<'a> = Box<dyn Fn() -> Result<Vec<Tensor>> + 'a>;

/// How inputs become a call.
enum Way {
    /// They are what the kernel reads.
    Direct(Run),
    /// Something is made of them once a set.
    Made(Of<Call<'static>>),
}

/// A kernel at one shape, in whatever dtype it is asked for.
pub struct Case {
    shape: String,
    inputs: Vec<Input>,
    written: usize,
    further_bytes: usize,
    flops: f64,
    multiplied_in: Option<DType>,
    way: Way,
    read: fn(Vec<Tensor>) -> Result<Vec<Tensor>>,
    exact: Option<Run>,
}

impl Case {
    /// `run` gets tensors as `inputs` say.
    pub(super) fn new<const N: usize>(
        shape: impl Into<String>,
        inputs: [Input; N],
        run: impl Fn(&[Tensor; N]) -> Result<Vec<Tensor>> + 'static,
    ) -> Self {
        Self {
            shape: shape.into(),
            inputs: inputs.into(),
            written: 0,
            further_bytes: 0,
            flops: 0.0,
            multiplied_in: None,
            way: Way::Direct(exactly(run)),
            read: Ok,
            exact: None,
        }
    }

    /// `make` is called once a set, and what it returns is the kernel: for what reads no random numbers, but something made
    /// of them, as numbers in 8 bits or packed. The bytes of that are for [`Case::moves`] to say.
    pub(super) fn made<const N: usize>(
        shape: impl Into<String>,
        inputs: [Input; N],
        make: impl Fn(&[Tensor; N]) -> Result<Call<'static>> + 'static,
    ) -> Self {
        let made = move |inputs: &[Tensor]| make(all(inputs)?);
        Self {
            inputs: inputs.map(|input| input.touched(0)).into(),
            way: Way::Made(Box::new(made)),
            ..Self::new(shape, [], |[]| Ok(Vec::new()))
        }
    }

    /// So many numbers of the case's dtype are written.
    pub(super) fn writes(self, numbers: usize) -> Self {
        Self { written: numbers, ..self }
    }

    /// And so many bytes are read or written whatever the dtype.
    pub(super) fn moves(self, bytes: usize) -> Self {
        Self { further_bytes: bytes, ..self }
    }

    /// Operations of matrix products; a multiplication and an addition are two.
    pub(super) fn computes(self, flops: f64) -> Self {
        Self { flops, ..self }
    }

    /// The products' format where it is not the case's.
    pub(super) fn multiplies_in(self, dtype: DType) -> Self {
        Self { multiplied_in: Some(dtype), ..self }
    }

    /// How results become numbers that can be compared.
    pub(super) fn read_by(self, read: fn(Vec<Tensor>) -> Result<Vec<Tensor>>) -> Self {
        Self { read, ..self }
    }

    /// What f32 inputs ought to give on a CPU, where that is not what `run` makes of them: a rounding to 8 bits is held
    /// against what was rounded.
    pub(super) fn ought_to_be<const N: usize>(
        self,
        exact: impl Fn(&[Tensor; N]) -> Result<Vec<Tensor>> + 'static,
    ) -> Self {
        Self { exact: Some(exactly(exact)), ..self }
    }

    /// In the words of the kernel's callers.
    pub fn shape(&self) -> &str {
        &self.shape
    }

    /// Least bytes over the memory's bus in `dtype`: each input read once, each output written once.
    pub fn bytes(&self, dtype: DType) -> f64 {
        let size = dtype.size_in_bytes();
        let read: usize = self.inputs.iter().map(|input| input.bytes(dtype)).sum();
        (read + self.written * size + self.further_bytes) as f64
    }

    /// Operations of matrix products, 0 for a kernel without.
    pub fn flops(&self) -> f64 {
        self.flops
    }

    /// The format that the ceiling is of.
    pub(super) fn rated_in(&self, dtype: DType) -> DType {
        self.multiplied_in.unwrap_or(dtype)
    }

    /// A set of random tensors, the same numbers for a seed on every device.
    ///
    /// # Errors
    /// No room on the device.
    pub fn inputs(&self, seed: u64, dtype: DType, device: &Device) -> Result<Vec<Tensor>> {
        let make = |(index, input): (usize, &Input)| input.make(spread(seed, index as u64), dtype, device);
        self.inputs.iter().enumerate().map(make).collect()
    }

    /// The kernel on `inputs`.
    ///
    /// # Errors
    /// No room on the device.
    pub fn on(&self, inputs: Vec<Tensor>) -> Result<Call<'_>> {
        Ok(match &self.way {
            Way::Direct(run) => Box::new(move || run(&inputs)),
            Way::Made(make) => make(&inputs)?,
        })
    }

    /// The kernel's results on the inputs of `seed`, as numbers.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub(super) fn found(&self, seed: u64, dtype: DType, device: &Device) -> Result<Vec<Tensor>> {
        (self.read)(self.on(self.inputs(seed, dtype, device)?)?()?)
    }

    /// What the same inputs, widened to f32, give on a CPU.
    ///
    /// # Errors
    /// No room in main memory.
    pub(super) fn expected(&self, seed: u64, dtype: DType) -> Result<Vec<Tensor>> {
        let drawn = self.inputs(seed, dtype, &Device::Cpu)?;
        let widened: Vec<Tensor> = drawn
            .iter()
            .map(|input| input.to_dtype(DType::F32)?.force_contiguous())
            .collect::<Result<_>>()?;
        match &self.exact {
            Some(exact) => exact(&widened),
            None => (self.read)(self.on(widened)?()?),
        }
    }
}

fn exactly<const N: usize>(run: impl Fn(&[Tensor; N]) -> Result<Vec<Tensor>> + 'static) -> Run {
    Box::new(move |inputs| run(all(inputs)?))
}

fn all<const N: usize>(inputs: &[Tensor]) -> Result<&[Tensor; N]> {
    inputs
        .try_into()
        .map_err(|_| Error::Msg(format!("a kernel's case: expected {N} inputs, found {}", inputs.len())))
}

/// A seed of its own for each of a seed's parts.
pub(super) fn spread(seed: u64, part: u64) -> u64 {
    seed.wrapping_mul(0x0100_0000_01b3).wrapping_add(part + 1)
}

/// What one tensor is like.
#[derive(Clone)]
pub(super) struct Input {
    shape: Vec<usize>,
    /// Instead of the case's.
    dtype: Option<DType>,
    deviation: f64,
    centre: f64,
    lie: Lie,
    /// Of its numbers, those that are read.
    touched: usize,
}

/// How a tensor lies in memory.
#[derive(Clone, Copy)]
enum Lie {
    /// As its shape says.
    Plain,
    /// (batch, channels, height, width) as (batch, height, width, channels); on a CPU as its shape says, as there nets have it.
    ChannelsLast,
    /// Between others along one dimension of a larger tensor.
    Between { dim: usize, before: usize, after: usize },
}

/// Numbers of mean 0 and deviation 1, at most 2.45 from the mean.
pub(super) fn random(shape: impl Into<Vec<usize>>) -> Input {
    let shape = shape.into();
    let touched = shape.iter().product();
    Input { shape, dtype: None, deviation: 1.0, centre: 0.0, lie: Lie::Plain, touched }
}

/// [`random`] on (batch, channels, height, width), lying channels last.
pub(super) fn picture(shape: impl Into<Vec<usize>>) -> Input {
    Input { lie: Lie::ChannelsLast, ..random(shape) }
}

impl Input {
    pub(super) fn deviation(self, deviation: f64) -> Self {
        Self { deviation, ..self }
    }

    pub(super) fn around(self, centre: f64) -> Self {
        Self { centre, ..self }
    }

    /// In f32 whatever the case's dtype.
    pub(super) fn wide(self) -> Self {
        Self { dtype: Some(DType::F32), ..self }
    }

    /// A part of a tensor that has `before` and `after` more along `dim`.
    pub(super) fn between(self, dim: usize, before: usize, after: usize) -> Self {
        Self { lie: Lie::Between { dim, before, after }, ..self }
    }

    /// Only so many of its numbers are read.
    pub(super) fn touched(self, numbers: usize) -> Self {
        Self { touched: numbers, ..self }
    }

    fn bytes(&self, dtype: DType) -> usize {
        self.touched * self.dtype.unwrap_or(dtype).size_in_bytes()
    }

    fn make(&self, seed: u64, dtype: DType, device: &Device) -> Result<Tensor> {
        let (dtype, numbers) = (self.dtype.unwrap_or(dtype), (self.deviation, self.centre));
        let draw = |shape: &[usize]| random_tensor_around(seed, shape, numbers, dtype, device);
        match (self.lie, self.shape.as_slice()) {
            (Lie::ChannelsLast, &[batch, channels, height, width]) => {
                let picture = draw(&[batch, height, width, channels])?.permute((0, 3, 1, 2))?;
                if device.is_cpu() { picture.contiguous() } else { Ok(picture) }
            }
            (Lie::Between { dim, before, after }, shape) => {
                let mut all = shape.to_vec();
                let mut length = 0;
                if let Some(side) = all.get_mut(dim) {
                    length = *side;
                    *side += before + after;
                }
                draw(&all)?.narrow(dim, before, length)
            }
            (Lie::Plain | Lie::ChannelsLast, shape) => draw(shape),
        }
    }
}

/// The one result.
pub(super) fn one(result: Result<Tensor>) -> Result<Vec<Tensor>> {
    result.map(|tensor| vec![tensor])
}

/// Both results.
pub(super) fn two(result: Result<(Tensor, Tensor)>) -> Result<Vec<Tensor>> {
    result.map(|(first, second)| vec![first, second])
}

/// Numbers in a tensor of this shape.
pub(super) fn count(shape: &[usize]) -> usize {
    shape.iter().product()
}

/// A shape as people write it.
pub(super) fn text(shape: &[usize]) -> String {
    let sides: Vec<String> = shape.iter().map(usize::to_string).collect();
    format!("({})", sides.join(", "))
}
