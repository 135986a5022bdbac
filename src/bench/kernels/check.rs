//! Every kernel on random shapes against its CPU twin on the same numbers, widened to f32.
//!
//! A seed gives a kernel one shape and its numbers, so a shape that fails is asked for again by its seed and name.

use std::fmt;

use candle_core::{DType, Device, Result, Tensor};

use super::case::Case;
use super::table::{self, Kernel};

/// What to check.
#[derive(Debug, Clone)]
pub struct Checks {
    /// Kernels, as [`table::meant_by`]; all if empty.
    pub filters: Vec<String>,
    /// Of the first shape; each further one has the next seed.
    pub seed: u64,
    /// Random shapes of each kernel.
    pub shapes: usize,
}

/// A shape at which a kernel is not what it ought to be.
#[derive(Debug, Clone)]
pub struct Miss {
    /// Asks for the same again.
    pub seed: u64,
    /// Compute dtype.
    pub dtype: DType,
    /// In the words of the kernel's callers.
    pub shape: String,
    /// What is wrong.
    pub reason: String,
}

/// The shape where a kernel is furthest from its twin in a dtype.
#[derive(Debug, Clone)]
pub struct Worst {
    /// Compute dtype.
    pub dtype: DType,
    /// Largest difference, as a share of the largest magnitude among the exact results.
    pub error: f64,
    /// What passes.
    pub bound: f64,
    /// In the words of the kernel's callers.
    pub shape: String,
}

/// A kernel's result, a line on paper, and one more for each miss.
#[derive(Debug, Clone)]
pub struct Checked {
    /// Which.
    pub name: &'static str,
    /// Comparisons: shapes times dtypes.
    pub compared: usize,
    /// One a dtype.
    pub worst: Vec<Worst>,
    /// What failed.
    pub misses: Vec<Miss>,
}

impl Checked {
    /// Whether nothing failed.
    pub fn passed(&self) -> bool {
        self.misses.is_empty()
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.passed() { "ok" } else { "MISS" };
        write!(f, "{:<26} {verdict:<4} {:>3} compared", self.name, self.compared)?;
        for worst in &self.worst {
            write!(f, "  {} {:.2e} of {:.2e}", worst.dtype.as_str(), worst.error, worst.bound)?;
        }
        // The one that came nearest to its bound.
        let share = |worst: &&Worst| worst.error / worst.bound.max(f64::MIN_POSITIVE);
        if let Some(worst) = self.worst.iter().max_by(|a, b| share(a).total_cmp(&share(b))) {
            write!(f, "  worst {} {}", worst.dtype.as_str(), worst.shape)?;
        }
        for Miss { seed, dtype, shape, reason } in &self.misses {
            write!(f, "\n  MISS seed {seed} {} {shape}: {reason}", dtype.as_str())?;
        }
        Ok(())
    }
}

/// Checks kernel by kernel on `device`; `done` sees each as it comes. Whether all passed. On a CPU the twins are held
/// against themselves in f32, which shows that shapes and bounds make sense.
pub fn check(checks: &Checks, device: &Device, done: &mut dyn FnMut(&Checked)) -> bool {
    let mut passed = true;
    for kernel in table::meant_by(&checks.filters) {
        let checked = one(kernel, checks, device);
        passed &= checked.passed();
        done(&checked);
    }
    passed
}

fn one(kernel: &Kernel, checks: &Checks, device: &Device) -> Checked {
    let mut checked = Checked { name: kernel.name, compared: 0, worst: Vec::new(), misses: Vec::new() };
    for &dtype in kernel.dtypes {
        let bound = kernel.bound.of(dtype);
        let mut worst: Option<Worst> = None;
        for offset in 0..checks.shapes {
            let seed = checks.seed.wrapping_add(offset as u64);
            let case = kernel.random(seed);
            let shape = case.shape().to_owned();
            let miss = |reason: String| Miss { seed, dtype, shape: shape.clone(), reason };
            checked.compared += 1;
            match distance(&case, seed, dtype, device) {
                Ok(error) => {
                    // A result that is no number is further than any bound.
                    if error.is_nan() || error > bound {
                        checked.misses.push(miss(format!("{error:.3e} off, {bound:.3e} allowed")));
                    }
                    if worst.as_ref().is_none_or(|worst| error > worst.error) {
                        worst = Some(Worst { dtype, error, bound, shape });
                    }
                }
                Err(error) => checked.misses.push(miss(error.to_string())),
            }
        }
        checked.worst.extend(worst);
    }
    checked
}

/// The largest of all results' distances from the exact ones.
fn distance(case: &Case, seed: u64, dtype: DType, device: &Device) -> Result<f64> {
    let found = case.found(seed, dtype, device)?;
    let expected = case.expected(seed, dtype)?;
    if found.len() != expected.len() {
        candle_core::bail!("{} results, {} expected", found.len(), expected.len());
    }
    let mut furthest = 0f64;
    for (found, expected) in found.iter().zip(&expected) {
        if found.dims() != expected.dims() {
            candle_core::bail!("a result of {:?}, expected {:?}", found.shape(), expected.shape());
        }
        furthest = furthest.max(apart(&numbers(found)?, &numbers(expected)?));
    }
    Ok(furthest)
}

/// In the order of the shape.
fn numbers(x: &Tensor) -> Result<Vec<f32>> {
    x.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}

/// The largest difference over the largest magnitude among `expected`; infinite where only one of two is finite.
pub fn apart(found: &[f32], expected: &[f32]) -> f64 {
    let mut largest = 0f64;
    let mut furthest = 0f64;
    for (&found, &expected) in found.iter().zip(expected) {
        let difference = (f64::from(found) - f64::from(expected)).abs();
        // Equal infinities differ by no number.
        let difference = if found.to_bits() == expected.to_bits() { 0.0 } else { difference };
        furthest = furthest.max(if difference.is_finite() { difference } else { f64::INFINITY });
        if expected.is_finite() {
            largest = largest.max(f64::from(expected).abs());
        }
    }
    if furthest > 0.0 { furthest / largest.max(f64::MIN_POSITIVE) } else { 0.0 }
}
