//! From features to logits: four blocks, each one level up, each with the level's feature and the picture beside it.
//!
//! Heads that only training uses (`conv_ms_spvn_*`, `gdt_convs_pred_*`) are left out.

use candle_core::{DType, Result, Tensor};

use super::Stage;
use super::aspp::Aspp;
use super::config::{BiRefNetConfig, PatchOrder};
use super::conv::{BatchNorm, COLUMNS, Conv, conv2d};
use super::patches::picture_to_patches;
use super::resize::resize;
use crate::models::ops;
use crate::models::weights::Weights;

/// Channels between the two convolutions of a block, and of a look at the picture.
const INNER: usize = 64;
/// Channels of the gradient head.
pub(super) const GRADIENT: usize = 16;

/// Two 3 x 3 convolutions around an [`Aspp`].
#[derive(Debug, Clone)]
pub(super) struct Block {
    conv_in: Conv,
    bn_in: BatchNorm,
    aspp: Aspp,
    conv_out: Conv,
    bn_out: BatchNorm,
}

impl Block {
    pub(super) fn new(inputs: usize, outputs: usize, w: &Weights) -> Result<Self> {
        Ok(Self {
            conv_in: Conv::new(inputs, INNER, 3, true, &w.pp("conv_in"))?,
            bn_in: BatchNorm::new(INNER, &w.pp("bn_in"))?,
            aspp: Aspp::new(INNER, &w.pp("dec_att"))?,
            conv_out: Conv::new(INNER, outputs, 3, true, &w.pp("conv_out"))?,
            bn_out: BatchNorm::new(outputs, &w.pp("bn_out"))?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.aspp.forward(&self.bn_in.relu(&self.conv_in.forward(x)?)?)?;
        self.bn_out.forward(&self.conv_out.forward(&x)?)
    }
}

/// A look at the picture: two 3 x 3 convolutions with nothing between.
#[derive(Debug, Clone)]
struct Look {
    conv1: Conv,
    conv_out: Conv,
}

impl Look {
    fn new(inputs: usize, outputs: usize, w: &Weights) -> Result<Self> {
        Ok(Self {
            conv1: Conv::new(inputs, INNER, 3, true, &w.pp("conv1"))?,
            conv_out: Conv::new(INNER, outputs, 3, true, &w.pp("conv_out"))?,
        })
    }

    fn forward(&self, patches: &Tensor) -> Result<Tensor> {
        self.conv_out.forward(&self.conv1.forward(patches)?)
    }
}

/// Weighs a map by where its edges are.
#[derive(Debug, Clone)]
struct EdgeGate {
    conv: Conv,
    norm: BatchNorm,
    attention: Conv,
}

impl EdgeGate {
    fn new(channels: usize, level: usize, w: &Weights) -> Result<Self> {
        let convs = w.pp(format!("gdt_convs_{level}"));
        Ok(Self {
            conv: Conv::new(channels, GRADIENT, 3, true, &convs.pp(0))?,
            norm: BatchNorm::new(GRADIENT, &convs.pp(1))?,
            attention: Conv::new(GRADIENT, 1, 1, true, &w.pp(format!("gdt_convs_attn_{level}")).pp(0))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let edges = self.norm.relu(&self.conv.forward(x)?)?;
        ops::gate(x, &self.attention.forward(&edges)?)
    }
}

/// One level of the way up.
#[derive(Debug, Clone)]
struct Level {
    look: Look,
    block: Block,
    /// Gate of the block's result and convolution of the next feature; the last level has neither.
    up: Option<(EdgeGate, Conv)>,
}

#[derive(Debug, Clone)]
pub(super) struct Decoder {
    levels: Vec<Level>,
    last_look: Look,
    out: Conv,
    order: PatchOrder,
}

impl Decoder {
    pub(super) fn new(config: &BiRefNetConfig, w: &Weights) -> Result<Self> {
        // The deepest look is as wide as the one above it.
        let looked = |level: usize| config.features(level.min(3)) / 8;
        let look = |number: usize, edge: usize, outputs: usize| {
            Look::new(3 * edge * edge, outputs, &w.pp(format!("ipt_blk{number}")))
        };
        let level = |level: usize| {
            let inputs = config.features(level) + looked(level + 1);
            let outputs = if level == 0 { config.features(0) / 2 } else { config.features(level - 1) };
            let number = level + 1;
            Ok(Level {
                look: look(level + 2, 4 << level, looked(level + 1))?,
                block: Block::new(inputs, outputs, &w.pp(format!("decoder_block{number}")))?,
                up: if level == 0 {
                    None
                } else {
                    let lateral = w.pp(format!("lateral_block{number}.conv"));
                    Some((
                        EdgeGate::new(outputs, number, w)?,
                        Conv::new(outputs, outputs, 1, true, &lateral)?,
                    ))
                },
            })
        };
        let last = config.features(0) / 8;
        Ok(Self {
            levels: (0..4).rev().map(level).collect::<Result<_>>()?,
            last_look: look(1, 1, last)?,
            out: Conv::new(config.features(0) / 2 + last, 1, 1, true, &w.pp("conv_out1.0"))?,
            order: config.patch_order,
        })
    }

    /// `x` (batch, 3, height, width), `features` from the shallowest to the deepest (squeezed): logits
    /// (batch, 1, height, width).
    pub(super) fn forward(
        &self,
        x: &Tensor,
        features: &[Tensor; 4],
        before: &mut dyn FnMut(Stage) -> Result<()>,
    ) -> Result<Tensor> {
        let [_, _, _, deepest] = features;
        let mut carried = deepest.clone();
        for (level, feature) in self.levels.iter().zip((0..4).rev()) {
            before(Stage::Decode { level: feature })?;
            let patches = picture_to_patches(x, 4 << feature, self.order)?;
            let (_, _, height, width) = carried.dims4()?;
            let look = resize(&level.look.forward(&patches)?, height, width)?;
            carried = level.block.forward(&ops::cat_channels(&[&carried, &look])?)?;
            if let (Some((gate, lateral)), Some(next)) = (&level.up, feature.checked_sub(1)) {
                let Some(next) = features.get(next) else { continue };
                let (_, _, height, width) = next.dims4()?;
                carried =
                    ops::add(&resize(&gate.forward(&carried)?, height, width)?, &lateral.forward(next)?)?;
            }
        }
        before(Stage::Logits)?;
        self.logits(x, &carried)
    }

    /// The last 1 x 1 convolution reads the resized map and the last look side by side: 240 channels of the full size, 1 GB in
    /// f32. It is linear, and a resize's weights sum to 1; so the map is convolved before it is resized, and the look's own last
    /// convolution is joined with it. Equal up to rounding.
    fn logits(&self, x: &Tensor, carried: &Tensor) -> Result<Tensor> {
        let (_, channels, _, _) = carried.dims4()?;
        let (_, _, height, width) = x.dims4()?;
        let wide = |x: &Tensor| x.to_dtype(DType::F32);
        let weight = self.out.weight();
        let from_map = weight.narrow(1, 0, channels)?.contiguous()?;
        let map = wide(&conv2d(carried, &from_map, self.out.bias(), COLUMNS)?)?;

        let from_look = weight.narrow(1, channels, weight.dim(1)? - channels)?;
        let from_look = wide(&from_look)?.reshape((1, ()))?;
        let last = &self.last_look.conv_out;
        let (outputs, inputs, kernel, _) = last.weight().dims4()?;
        let joined = from_look
            .matmul(&wide(last.weight())?.reshape((outputs, inputs * kernel * kernel))?)?
            .reshape((1, inputs, kernel, kernel))?
            .to_dtype(x.dtype())?;
        let look = self.last_look.conv1.forward(&picture_to_patches(x, 1, self.order)?)?;
        let mut look = wide(&conv2d(&look, &joined, None, COLUMNS)?)?;
        if let Some(bias) = last.bias() {
            let bias = from_look.matmul(&wide(bias)?.reshape((outputs, 1))?)?;
            look = look.broadcast_add(&bias.reshape((1, 1, 1, 1))?)?;
        }
        ops::add(&resize(&map, height, width)?, &look)
    }
}
