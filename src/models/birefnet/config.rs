//! Sizes of the net, and the few choices that differ between releases.

use candle_core::Result;
use serde::{Deserialize, Serialize};

/// `config.json` of a BiRefNet checkpoint. The published one states no sizes: every field that is absent has the value of
/// the published model (Swin-v1-L), and fields that are not known are ignored.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct BiRefNetConfig {
    /// The encoder.
    pub backbone: SwinConfig,
    /// In which order a patch's pixels become channels.
    pub patch_order: PatchOrder,
    /// Edge in pixels of the square that pictures are resized to.
    pub size: u32,
}

/// Sizes of a Swin transformer, version 1.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct SwinConfig {
    /// Channels of the first stage; each later one doubles them.
    pub embed_dim: usize,
    /// Blocks of each stage.
    pub depths: [usize; 4],
    /// Heads of each stage.
    pub num_heads: [usize; 4],
    /// Edge of an attention window in tokens.
    pub window_size: usize,
}

/// How the decoder's view of the picture is cut into patches: a pixel `(row, column)` of channel `c` in the patch
/// `(patch row, patch column)` becomes one channel at the pixel's place inside the patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PatchOrder {
    /// `(c, patch row, patch column)`: the repository since November 2024, and today's checkpoints.
    #[default]
    ChannelsFirst,
    /// `(patch column, patch row, c)`: older code, and nets that were trained with it.
    ColumnsFirst,
}

impl Default for BiRefNetConfig {
    fn default() -> Self {
        Self { backbone: SwinConfig::default(), patch_order: PatchOrder::default(), size: 1024 }
    }
}

impl Default for SwinConfig {
    fn default() -> Self {
        Self { embed_dim: 192, depths: [2, 2, 18, 2], num_heads: [6, 12, 24, 48], window_size: 12 }
    }
}

impl SwinConfig {
    /// Channels of stage `stage`, 0 to 3.
    pub fn channels(&self, stage: usize) -> usize {
        self.embed_dim << stage
    }

    /// Blocks of all stages.
    pub fn blocks(&self) -> usize {
        self.depths.iter().sum()
    }
}

impl BiRefNetConfig {
    /// The net's input is cut by 4, three times by 2, and once more by 2 for the half-size view; patches need 32.
    pub const MULTIPLE: usize = 32;

    /// Channels of the encoder's feature `level` (0: a quarter of the size, 3: a 32nd); both views side by side.
    pub fn features(&self, level: usize) -> usize {
        2 * self.backbone.channels(level)
    }

    /// Channels of the deepest feature with the three others beside it.
    pub fn context(&self) -> usize {
        (0..4).map(|level| self.features(level)).sum()
    }

    /// Checks what the arithmetic relies on.
    ///
    /// # Errors
    /// Names the field.
    pub fn check(&self) -> Result<()> {
        let SwinConfig { embed_dim, num_heads, window_size, depths } = &self.backbone;
        for (stage, heads) in num_heads.iter().enumerate() {
            let channels = self.backbone.channels(stage);
            if *heads == 0 || !channels.is_multiple_of(*heads) {
                candle_core::bail!("BiRefNet config: num_heads {heads} does not divide {channels} channels");
            }
        }
        if *window_size < 2 || depths.contains(&0) {
            candle_core::bail!("BiRefNet config: window_size {window_size} or depths {depths:?} too small");
        }
        if !embed_dim.is_multiple_of(4) {
            candle_core::bail!("BiRefNet config: embed_dim {embed_dim} is no multiple of 4");
        }
        if self.size == 0 || !(self.size as usize).is_multiple_of(Self::MULTIPLE) {
            candle_core::bail!("BiRefNet config: size {} is no multiple of {}", self.size, Self::MULTIPLE);
        }
        Ok(())
    }
}
