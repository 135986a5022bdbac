//! BiRefNet: which pixels of a picture belong to its subject. Equal to the original repository's inference graph.
//!
//! [`BiRefNet::logits`] is the net, [`BiRefNet::segment`] and [`BiRefNet::cut_out`] are the published model's recipe
//! around it. Keys are the original's; candle-transformers has neither Swin nor deformable convolutions. Must not know
//! jobs, plans or memory policy. Callers: the engine's cut-out step, the command line.

pub mod aspp;
pub mod conv;
pub mod deform_conv;
pub mod patches;
pub mod resize;

mod config;
mod decoder;
mod foreground;
mod picture;
mod random;
mod swin;

use candle_core::{DType, Device, Result, Tensor};
use image::{GrayImage, RgbImage, RgbaImage};

use crate::models::ops;
use crate::models::weights::Weights;
use decoder::{Block, Decoder};
use resize::resize;
use swin::Swin;

pub use config::{BiRefNetConfig, PatchOrder, SwinConfig};
pub use foreground::refine_foreground;
pub use picture::{mask_of_logits, picture_to_tensor};
pub use random::write_random_checkpoint;
pub use swin::{Windows, window_attention};

/// What is about to run. Each comes once (or once a block), in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// A block of the encoder on the picture (`half: false`) or on the picture at half its size.
    Encode {
        /// Which of the two views.
        half: bool,
        /// Block, counted over all stages.
        block: usize,
    },
    /// The deepest features are mixed.
    Squeeze,
    /// One level of the decoder, from 3 up to 0.
    Decode {
        /// Level.
        level: usize,
    },
    /// The last convolutions, at full size.
    Logits,
}

/// The net.
#[derive(Debug, Clone)]
pub struct BiRefNet {
    config: BiRefNetConfig,
    backbone: Swin,
    squeeze: Block,
    decoder: Decoder,
    dtype: DType,
    device: Device,
}

impl BiRefNet {
    /// Reads from the root of a checkpoint. The compute dtype is the view's: f32 (weights may lie in f16) or f16.
    ///
    /// # Errors
    /// The configuration does not fit together; a tensor is missing or has another shape.
    pub fn new(config: &BiRefNetConfig, w: &Weights) -> Result<Self> {
        config.check()?;
        Ok(Self {
            backbone: Swin::new(&config.backbone, &w.pp("bb"))?,
            squeeze: Block::new(config.context(), config.features(3), &w.pp("squeeze_module.0"))?,
            decoder: Decoder::new(config, &w.pp("decoder"))?,
            config: config.clone(),
            dtype: w.dtype(),
            device: w.device().clone(),
        })
    }

    /// Whether a checkpoint may have `key` though the net does not ask for it: heads of training, counters, and tables
    /// that follow from the sizes.
    pub fn ignores(key: &str) -> bool {
        key.ends_with(".num_batches_tracked")
            || key.ends_with(".relative_position_index")
            || key.starts_with("decoder.conv_ms_spvn_")
            || key.starts_with("decoder.gdt_convs_pred_")
    }

    /// Sizes.
    pub fn config(&self) -> &BiRefNetConfig {
        &self.config
    }

    /// How many times a run calls `before`.
    pub fn stages(&self) -> usize {
        // Both views, squeeze, four levels, logits.
        2 * self.config.backbone.blocks() + 6
    }

    /// `x` (batch, 3, height, width), normalised, sides multiples of 32, in the compute dtype: logits
    /// (batch, 1, height, width), f32. `before` is called [`BiRefNet::stages`] times and may stop the run.
    ///
    /// # Errors
    /// Sides that do not fit, no room on the device, or what `before` returns.
    pub fn logits(&self, x: &Tensor, before: &mut dyn FnMut(Stage) -> Result<()>) -> Result<Tensor> {
        let [x1, x2, x3, context] = self.features(x, before)?;
        before(Stage::Squeeze)?;
        let deepest = self.squeeze.forward(&context)?;
        drop(context);
        self.decoder.forward(x, &[x1, x2, x3, deepest], before)
    }

    /// The encoder's features of both views side by side, from a quarter of the size down to a 32nd; the last one has the other
    /// three beside it.
    ///
    /// # Errors
    /// As [`BiRefNet::logits`].
    pub fn features(&self, x: &Tensor, before: &mut dyn FnMut(Stage) -> Result<()>) -> Result<[Tensor; 4]> {
        let (_, _, height, width) = x.dims4()?;
        let fits = |side: usize| side > 0 && side.is_multiple_of(BiRefNetConfig::MULTIPLE);
        if !fits(height) || !fits(width) {
            let multiple = BiRefNetConfig::MULTIPLE;
            candle_core::bail!("BiRefNet input of {height} x {width}: sides must be multiples of {multiple}");
        }
        let mut view = |x: &Tensor, half: bool| {
            let mut block = 0;
            self.backbone.forward(x, &mut || {
                block += 1;
                before(Stage::Encode { half, block: block - 1 })
            })
        };
        let whole = view(x, false)?;
        let half = view(&resize(x, height / 2, width / 2)?, true)?;
        let both = |(whole, half): (&Tensor, &Tensor)| {
            let (_, _, height, width) = whole.dims4()?;
            ops::cat_channels(&[whole, &resize(half, height, width)?])
        };
        let both = whole.iter().zip(&half).map(both).collect::<Result<Vec<_>>>()?;
        let Ok([x1, x2, x3, x4]) = <[Tensor; 4]>::try_from(both) else {
            candle_core::bail!("the encoder has other than four stages");
        };
        let (_, _, height, width) = x4.dims4()?;
        let small = |x: &Tensor| resize(x, height, width);
        let context = ops::cat_channels(&[&small(&x1)?, &small(&x2)?, &small(&x3)?, &x4])?;
        Ok([x1, x2, x3, context])
    }

    /// How much each pixel of `picture` belongs to the subject: 0 to 255, the picture's size.
    ///
    /// # Errors
    /// A picture without pixels; logits that are no numbers (f16 overflowed); as [`BiRefNet::logits`].
    pub fn segment(
        &self,
        picture: &RgbImage,
        before: &mut dyn FnMut(Stage) -> Result<()>,
    ) -> Result<GrayImage> {
        let x = picture_to_tensor(picture, self.config.size, &self.device)?.to_dtype(self.dtype)?;
        mask_of_logits(&self.logits(&x, before)?, picture.width(), picture.height())
    }

    /// `picture` with [`BiRefNet::segment`] as alpha. With `refine`, colours at soft edges lose what shone through of the
    /// background ([`refine_foreground`]).
    ///
    /// # Errors
    /// As [`BiRefNet::segment`].
    pub fn cut_out(
        &self,
        picture: &RgbImage,
        refine: bool,
        before: &mut dyn FnMut(Stage) -> Result<()>,
    ) -> Result<RgbaImage> {
        let mask = self.segment(picture, before)?;
        let refined = if refine { Some(refine_foreground(picture, &mask)?) } else { None };
        let colours = refined.as_ref().unwrap_or(picture);
        let mut out = RgbaImage::new(picture.width(), picture.height());
        for ((out, colour), alpha) in out.pixels_mut().zip(colours.pixels()).zip(mask.pixels()) {
            let ([red, green, blue], [alpha]) = (colour.0, alpha.0);
            out.0 = [red, green, blue, alpha];
        }
        Ok(out)
    }
}
