//! What stands in the middle of every decoder block: four deformable convolutions of different reach and the map's mean,
//! side by side, mixed by one 1 x 1 convolution.

use candle_core::{DType, Result, Tensor};

use super::conv::{BatchNorm, COLUMNS, Conv, conv2d};
use super::deform_conv::modulated_deform_conv2d;
use crate::models::ops;
use crate::models::weights::Weights;

/// Channels of each branch.
const BRANCH: usize = 256;

/// A deformable convolution that finds its own offsets and weights.
#[derive(Debug, Clone)]
pub struct DeformableConv {
    offset: Conv,
    modulator: Conv,
    weight: Tensor,
}

impl DeformableConv {
    /// Reads `offset_conv`, `modulator_conv` and `regular_conv` below `w`; the last has no bias.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn new(inputs: usize, outputs: usize, kernel: usize, w: &Weights) -> Result<Self> {
        let taps = kernel * kernel;
        Ok(Self {
            offset: Conv::new(inputs, 2 * taps, kernel, true, &w.pp("offset_conv"))?,
            modulator: Conv::new(inputs, taps, kernel, true, &w.pp("modulator_conv"))?,
            weight: w.pp("regular_conv").get_kernel((outputs, inputs, kernel, kernel), "weight")?,
        })
    }

    /// `x` (batch, inputs, height, width) -> (batch, outputs, height, width).
    ///
    /// # Errors
    /// Another number of channels.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (offset, modulation) = (self.offset.forward(x)?, self.modulator.forward(x)?);
        modulated_deform_conv2d(x, &offset, &modulation, &self.weight)
    }
}

#[derive(Debug, Clone)]
pub(super) struct Aspp {
    branches: Vec<(DeformableConv, BatchNorm)>,
    mean: (Tensor, BatchNorm),
    /// (channels, 5 · 256, 1, 1).
    mix: Tensor,
    norm: BatchNorm,
}

impl Aspp {
    pub(super) fn new(channels: usize, w: &Weights) -> Result<Self> {
        let branch = |name: &str, kernel: usize| {
            let w = w.pp(name);
            Ok::<_, candle_core::Error>((
                DeformableConv::new(channels, BRANCH, kernel, &w.pp("atrous_conv"))?,
                BatchNorm::new(BRANCH, &w.pp("bn"))?,
            ))
        };
        let mean = w.pp("global_avg_pool");
        Ok(Self {
            branches: vec![
                branch("aspp1", 1)?,
                branch("aspp_deforms.0", 1)?,
                branch("aspp_deforms.1", 3)?,
                branch("aspp_deforms.2", 7)?,
            ],
            mean: (mean.pp(1).get((BRANCH, channels, 1, 1), "weight")?, BatchNorm::new(BRANCH, &mean.pp(2))?),
            mix: w.pp("conv1").get((channels, 5 * BRANCH, 1, 1), "weight")?,
            norm: BatchNorm::new(channels, &w.pp("bn1"))?,
        })
    }

    /// `x` (batch, channels, height, width), same out. Branches are mixed one after the other, summed in f32: side by
    /// side they would take 335 MB at 256 x 256.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (weight, norm) = &self.mean;
        let mean = norm.relu(&conv2d(&ops::pixel_mean(x)?, weight, None, COLUMNS)?)?;
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            return self.side_by_side(x, &mean);
        }
        // All corners equal: the mean needs no resizing, only repeating, and that after the mixing.
        let mut sum = self.mixed(self.branches.len(), &mean)?;
        for (index, (conv, norm)) in self.branches.iter().enumerate() {
            sum = self.mixed(index, &norm.relu(&conv.forward(x)?)?)?.broadcast_add(&sum)?;
        }
        self.norm.relu(&sum.to_dtype(x.dtype())?)
    }

    /// On a card there is room for the branches side by side, 134 MB in 16 bits, and one product rounds once. The mean is
    /// the same for all pixels: a bias.
    #[cfg(feature = "cuda")]
    fn side_by_side(&self, x: &Tensor, mean: &Tensor) -> Result<Tensor> {
        let branch = |(conv, norm): &(DeformableConv, BatchNorm)| norm.relu(&conv.forward(x)?);
        let branches = self.branches.iter().map(branch).collect::<Result<Vec<_>>>()?;
        let all = ops::cat_channels(&branches.iter().collect::<Vec<_>>())?;
        drop(branches);
        let weight = self.mix.narrow(1, 0, self.branches.len() * BRANCH)?;
        let mean = self.mixed(self.branches.len(), mean)?.to_dtype(x.dtype())?;
        let item = |index: usize| {
            let bias = mean.get(index)?.flatten_all()?;
            conv2d(&all.narrow(0, index, 1)?, &weight, Some(&bias), COLUMNS)
        };
        let items = (0..x.dim(0)?).map(item).collect::<Result<Vec<_>>>()?;
        let mixed = match items.as_slice() {
            [one] => one.clone(),
            items => Tensor::cat(items, 0)?,
        };
        self.norm.relu(&mixed)
    }

    fn mixed(&self, branch: usize, x: &Tensor) -> Result<Tensor> {
        let weight = self.mix.narrow(1, branch * BRANCH, BRANCH)?.contiguous()?;
        conv2d(x, &weight, None, COLUMNS)?.to_dtype(DType::F32)
    }
}
