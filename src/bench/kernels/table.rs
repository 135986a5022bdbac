//! Every kernel by name: its random shapes, and the shapes that nets ask for. The one list of what is measured and checked.
//!
//! A new kernel is an entry in a file of `families/`, one a file of formulas; a test compares them with the sources in
//! `src/cuda/kernels`.

use candle_core::DType;

use super::case::Case;
use super::dice::Dice;
use super::families;

/// What kernels of real numbers take.
pub(super) const FLOATS: &[DType] = &[DType::F32, DType::F16, DType::BF16];
/// What those on tensor cores take.
pub(super) const HALVES: &[DType] = &[DType::F16, DType::BF16];

/// A kernel.
pub struct Kernel {
    /// On the command line and in reports.
    pub name: &'static str,
    /// The source in `src/cuda/kernels` or `src/cuda/shim`, without its ending.
    pub family: &'static str,
    /// Formats that it takes.
    pub dtypes: &'static [DType],
    /// How far it may be from its twin.
    pub bound: Bound,
    /// A shape that it ought to be able to do, small enough for its twin.
    pub(super) draw: fn(&mut Dice) -> Case,
    /// What nets ask for.
    pub(super) rows: fn() -> Vec<Row>,
}

impl Kernel {
    /// The random shape of `seed`.
    pub fn random(&self, seed: u64) -> Case {
        (self.draw)(&mut Dice::new(seed, self.name))
    }

    /// What nets at 1024 x 1024 ask for.
    pub fn rows(&self) -> Vec<Row> {
        (self.rows)()
    }

    fn is_meant_by(&self, filter: &str) -> bool {
        self.family == filter || self.name.contains(filter)
    }
}

/// The largest error that passes, as a share of the largest magnitude among the exact results.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// Roundings to the compute dtype between input and result, as torch has them.
    roundings: u32,
    /// In f32, where sums in another order matter.
    f32: f64,
    /// Of roundings to 8 bits, on top.
    further: f64,
}

impl Bound {
    /// What is only moved.
    pub(super) const EXACT: Self = Self { roundings: 0, f32: 0.0, further: 0.0 };

    pub(super) const fn roundings(roundings: u32) -> Self {
        Self { roundings, f32: 1e-5, further: 0.0 }
    }

    pub(super) const fn in_f32(self, bound: f64) -> Self {
        Self { f32: bound, ..self }
    }

    pub(super) const fn and(self, further: f64) -> Self {
        Self { further, ..self }
    }

    /// In `dtype`. A rounding moves a number by at most 2⁻¹¹ of it in f16 and 2⁻⁸ in bf16; half a rounding is allowed for sums
    /// in f32 and roundings of results below the largest.
    pub fn of(self, dtype: DType) -> f64 {
        let rounded = match dtype {
            DType::F16 => 2f64.powi(-11),
            DType::BF16 => 2f64.powi(-8),
            _ => return self.f32 + self.further,
        };
        if self.roundings == 0 {
            return self.further;
        }
        (f64::from(self.roundings) + 0.5) * rounded + self.further
    }
}

/// A case that a net asks for.
pub struct Row {
    /// Which net.
    pub net: &'static str,
    /// The net's dtype.
    pub dtype: DType,
    /// The shape.
    pub case: Case,
}

impl Row {
    /// FLUX.1-dev, 4096 tokens of picture and 512 of text, bf16.
    pub(super) fn flux(case: Case) -> Self {
        Self { net: "flux", dtype: DType::BF16, case }
    }

    /// SDXL, with and without the prompt in one batch, f16.
    pub(super) fn sdxl(case: Case) -> Self {
        Self { net: "sdxl", dtype: DType::F16, case }
    }

    /// FLUX's autoencoder, bf16.
    pub(super) fn vae(case: Case) -> Self {
        Self { net: "vae", dtype: DType::BF16, case }
    }

    /// T5-XXL, 512 words, bf16.
    pub(super) fn t5(case: Case) -> Self {
        Self { net: "t5", dtype: DType::BF16, case }
    }

    /// CLIP-L beside FLUX, bf16.
    pub(super) fn clip(case: Case) -> Self {
        Self { net: "clip", dtype: DType::BF16, case }
    }

    /// BiRefNet, f16.
    pub(super) fn birefnet(case: Case) -> Self {
        Self { net: "birefnet", dtype: DType::F16, case }
    }
}

/// Every kernel, family by family.
pub fn all() -> impl Iterator<Item = &'static Kernel> {
    families::ALL.into_iter().flatten()
}

/// Those whose family a filter names, or whose name has one in it; all if there are no filters.
pub fn meant_by(filters: &[String]) -> impl Iterator<Item = &'static Kernel> {
    all().filter(move |kernel| filters.is_empty() || filters.iter().any(|filter| kernel.is_meant_by(filter)))
}

/// A filter that means some kernel, for the command line.
///
/// # Errors
/// A filter that means none; names all there are.
pub fn filter(text: &str) -> Result<String, String> {
    if all().any(|kernel| kernel.is_meant_by(text)) {
        return Ok(text.to_owned());
    }
    let names: Vec<&str> = all().map(|kernel| kernel.name).collect();
    Err(format!("no kernel is called so; there are {}", names.join(", ")))
}
