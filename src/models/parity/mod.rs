//! Runs the nets on a golden folder and says how far they are from the original, stage by stage.
//!
//! The folder's format is documented in `handler_tests/goldens/README.md`. Everything runs in f32. Caller: the command line's
//! `parity`.

mod cut_out;
mod golden;
mod nets;
mod pictures;
mod sdxl;

use std::fmt;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use golden::Golden;

/// Largest relative error of a stage.
const RELATIVE: f64 = 1e-5;
/// That of BiRefNet's logits: sums over thousands of features of both signs, which cancel.
const RELATIVE_LOGITS: f64 = 1e-4;
/// Largest difference of a byte of a finished picture.
const BYTES: f64 = 1.0;

/// Why a folder cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ParityError {
    /// The folder is not one, or not of this format.
    #[error("{}: expected {expected}, found {found}", path.display())]
    Folder {
        /// File or folder.
        path: PathBuf,
        /// What belongs there.
        expected: String,
        /// What is there.
        found: String,
    },
}

/// One comparison.
#[derive(Debug, Clone)]
pub struct Row {
    /// The case's name in the manifest.
    pub case: String,
    /// The stage's name there; empty if the case could not be run.
    pub stage: String,
    /// How it went.
    pub outcome: Outcome,
}

/// How a comparison went.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Both tensors exist and have one shape.
    Compared {
        /// Largest difference.
        max_abs: f64,
        /// Euclidean norm of the difference over that of the golden.
        relative: f64,
        /// Whether that is within the stage's bound.
        passed: bool,
    },
    /// No comparison was possible, which is a miss.
    Failed(String),
}

impl Row {
    /// Whether the stage equals the original.
    pub fn passed(&self) -> bool {
        matches!(self.outcome, Outcome::Compared { passed: true, .. })
    }
}

/// All comparisons of a folder, in the manifest's order.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// At least one, or the folder proves nothing.
    pub rows: Vec<Row>,
}

impl Table {
    /// Whether every stage equals the original, and there was one.
    pub fn passed(&self) -> bool {
        !self.rows.is_empty() && self.rows.iter().all(Row::passed)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let label = |row: &Row| format!("{} {}", row.case, row.stage);
        let width = self.rows.iter().map(|row| label(row).len()).max().unwrap_or(0).max(5);
        writeln!(f, "{:width$}  {:>10}  {:>10}  verdict", "stage", "max abs", "relative")?;
        for row in &self.rows {
            match &row.outcome {
                Outcome::Compared { max_abs, relative, passed } => {
                    let verdict = if *passed { "equal" } else { "MISS" };
                    writeln!(f, "{:width$}  {max_abs:>10.2e}  {relative:>10.2e}  {verdict}", label(row))?;
                }
                Outcome::Failed(reason) => {
                    writeln!(f, "{:width$}  {:>10}  {:>10}  MISS: {reason}", label(row), "-", "-")?;
                }
            }
        }
        let passed = self.rows.iter().filter(|row| row.passed()).count();
        write!(f, "{passed} of {} stages equal the original", self.rows.len())
    }
}

/// Runs every case of `folder` on `device`. A case that cannot be run is a row that failed, not an error.
///
/// # Errors
/// The folder has no readable manifest or tensors.
pub fn run(folder: &Path, device: &Device) -> Result<Table, ParityError> {
    let golden = Golden::open(folder, device)?;
    let mut table = Table::default();
    for case in golden.cases() {
        let found = match case.kind.as_str() {
            "clip" => nets::clip(&golden, case),
            "t5" => nets::t5(&golden, case),
            "transformer" => nets::transformer(&golden, case),
            "vae" => nets::vae(&golden, case),
            "image" => nets::image(&golden, case),
            "flow_match" => nets::flow_match(&golden, case),
            "euler" => nets::euler(&golden, case),
            "text_to_image" | "image_to_image" | "inpaint" => pictures::picture(&golden, case),
            "sdxl_unet" => sdxl::nets(&golden, case),
            "sdxl_text_to_image" | "sdxl_controlnet" => sdxl::picture(&golden, case),
            "birefnet" => cut_out::net(&golden, case),
            "deformable_convolution" => cut_out::deformable(&golden, case),
            "aligned_resize" => cut_out::aligned_resize(&golden, case),
            "birefnet_input" => cut_out::input(&golden, case),
            "birefnet_mask" => cut_out::mask(&golden, case),
            "birefnet_mask_of_logits" => cut_out::of_logits(&golden, case),
            "foreground" => cut_out::foreground(&golden, case),
            other => Err(golden::miss(format!("unknown kind {other:?}"))),
        };
        match found {
            Ok(found) => {
                for (stage, key) in &case.expected {
                    let outcome = match found.iter().find(|(name, _)| name == stage) {
                        Some((_, tensor)) => {
                            golden.tensor(key).and_then(|golden| compare(tensor, golden, Bound::of(stage)))
                        }
                        None => Err(golden::miss("not computed here")),
                    };
                    let outcome = outcome.unwrap_or_else(|error| Outcome::Failed(error.to_string()));
                    table.rows.push(Row { case: case.name.clone(), stage: stage.clone(), outcome });
                }
            }
            Err(error) => table.rows.push(Row {
                case: case.name.clone(),
                stage: String::new(),
                outcome: Outcome::Failed(error.to_string()),
            }),
        }
    }
    Ok(table)
}

/// How far a stage may be off.
#[derive(Clone, Copy)]
enum Bound {
    /// Euclidean norm of the difference over that of the golden.
    Relative(f64),
    /// Every byte.
    Bytes(f64),
}

impl Bound {
    fn of(stage: &str) -> Self {
        match stage {
            // A case's `picture` and `mask` are inputs of nets; `image` is what a user sees.
            "image" => Self::Bytes(BYTES),
            "logits" => Self::Relative(RELATIVE_LOGITS),
            _ => Self::Relative(RELATIVE),
        }
    }
}

fn compare(found: &Tensor, golden: &Tensor, bound: Bound) -> candle_core::Result<Outcome> {
    if found.dims() != golden.dims() {
        return Err(golden::miss(format!("shape {:?}, expected {:?}", found.dims(), golden.dims())));
    }
    let flat = |tensor: &Tensor| {
        tensor.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()
    };
    let (found, golden) = (flat(found)?, flat(golden)?);
    let (mut max_abs, mut miss, mut size) = (0f64, 0f64, 0f64);
    for (found, golden) in found.iter().zip(&golden) {
        let off = (found - golden).abs();
        // Not `max`, which would swallow a NaN.
        if off > max_abs || off.is_nan() {
            max_abs = off;
        }
        miss += off * off;
        size += golden * golden;
    }
    let relative = if miss == 0.0 { 0.0 } else { (miss / size).sqrt() };
    let passed = match bound {
        Bound::Relative(most) => relative <= most,
        Bound::Bytes(most) => max_abs <= most,
    };
    Ok(Outcome::Compared { max_abs, relative, passed })
}
