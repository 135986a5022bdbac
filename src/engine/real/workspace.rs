//! Bytes that computing takes beside the weights, by net and picture size.
//!
//! Upper bounds for the kernels that a card runs (attention that keeps no score matrix, convolutions without unfolding).
//! They decide what else may stay on the device, so too low is an out-of-memory error and too high an eviction without need.

use super::itinerary::{Act, Net};
use super::runs::flux_runs;
use crate::input::Plan;
use crate::input::plan::denoise_steps;

const MIB: u64 = 1 << 20;

/// T5 tokens of the longest prompt, and of every shorter one: they are padded.
const WORDS: u64 = 512;
/// Values that FLUX's widest moment (a single block) holds for each token, of picture and text: residual, norm, the fused
/// projection (7 x 3072), GELU (4 x 3072), their join (5 x 3072), rotated queries and keys in f32.
const FLUX_TOKEN: u64 = 110_000;
/// Values of FLUX's largest matrix (a single block's last), which int8 weights are widened to before a product.
const FLUX_MATRIX: u64 = 5 * 3072 * 3072;
/// Values of FLUX's modulation tables for one step: 2 x 6 in each of 19 blocks, 3 in each of 38, 2 at the end, of 3072.
const FLUX_TABLE: u64 = 344 * 3072;
/// Values of T5's output for a prompt, which cross-attention reads.
const FLUX_WORDS: u64 = WORDS * 4096;
/// Values for each pixel at a VAE decoder's widest moment: five pictures of 256 channels, and a sixth that does not fit into
/// what smaller ones left of the allocator's pool.
const DECODE_PIXEL: u64 = 1536;
/// Likewise for the encoder, at 128 channels.
const ENCODE_PIXEL: u64 = 640;
/// Values for each pixel that UNet and ControlNet hold for a pair of predictions, one beside the other: skip connections,
/// GEGLU, residuals.
const UNET_PIXEL: u64 = 700;

/// Bytes of a number in each family's compute dtype, and what comes beside them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Precision {
    /// FLUX and its encoders.
    pub flux: u64,
    /// Whether FLUX's matrices are widened to that before each product.
    pub widened: bool,
    /// SDXL and its encoders.
    pub sdxl: u64,
    /// Segmentation.
    pub birefnet: u64,
}

impl Precision {
    /// Two bytes everywhere: what a card computes in unless `DTYPE` says otherwise.
    pub const HALF: Self = Self { flux: 2, widened: false, sdxl: 2, birefnet: 2 };
}

/// The demand of one job.
#[derive(Debug, Clone, Copy)]
pub struct Workspace {
    pixels: u64,
    precision: Precision,
    /// All tables and embeddings that are kept from the conditioner to the last run.
    tables: u64,
}

impl Workspace {
    /// For the plan's size and FLUX runs.
    pub fn new(plan: &Plan, precision: Precision) -> Self {
        let of_run = |run: &super::runs::FluxRun| {
            let prompts = run.prompts.len() as u64 + u64::from(run.negative.is_some());
            let steps = run.strength.map_or(run.steps, |strength| denoise_steps(run.steps, strength));
            prompts * (u64::from(steps) * FLUX_TABLE + FLUX_WORDS)
        };
        let values: u64 = flux_runs(plan).iter().map(of_run).sum();
        Self {
            pixels: u64::from(plan.width) * u64::from(plan.height),
            precision,
            tables: values * precision.flux,
        }
    }

    /// What stays on the device from the tables' stop to the end of the job.
    pub fn tables(&self) -> u64 {
        self.tables
    }

    /// The peak of `act` on `nets`.
    pub fn of(&self, act: Act, nets: &[Net]) -> u64 {
        let flux = nets.first().is_some_and(|net| *net < Net::SdxlClipL);
        let bytes = if flux { self.precision.flux } else { self.precision.sdxl };
        match act {
            Act::ReadPooled | Act::Tables => 64 * MIB,
            // 512 tokens, 64 heads: scores in f32 twice, the feed forward's three matrices.
            Act::ReadWords => 256 * MIB,
            Act::Read => 128 * MIB,
            Act::Encode => self.pixels * ENCODE_PIXEL * bytes,
            Act::Decode => self.pixels * DECODE_PIXEL * bytes,
            Act::Denoise if flux => {
                let matrix = if self.precision.widened { FLUX_MATRIX } else { 0 };
                ((self.pixels / 256 + WORDS) * FLUX_TOKEN + matrix) * bytes
            }
            Act::Denoise => self.pixels * UNET_PIXEL * bytes,
            // Always a square of 1024 pixels.
            Act::Segment => 1024 * MIB * self.precision.birefnet,
        }
    }
}
