//! `unet/config.json` and a ControlNet's `config.json`.

use candle_core::{Error, Result};
use serde::Deserialize;
use serde_json::Value;

/// One number for all levels, or one a level.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum PerLevel {
    /// For all.
    All(usize),
    /// From the outermost inwards.
    Each(Vec<usize>),
}

impl PerLevel {
    fn spread(&self, field: &str, levels: usize) -> Result<Vec<usize>> {
        match self {
            Self::All(value) => Ok(vec![*value; levels]),
            Self::Each(values) if values.len() == levels => Ok(values.clone()),
            Self::Each(values) => {
                Err(invalid(field, &format!("{levels} numbers, one a level"), &format!("{}", values.len())))
            }
        }
    }
}

/// The fields that a UNet and a ControlNet share; diffusers' defaults. Fields below the blank line are read to refuse
/// nets that compute something else.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct TrunkConfig {
    /// Channels of a latent.
    pub in_channels: usize,
    /// Channels of each level, from the outermost inwards; every level but the last halves the size.
    pub block_out_channels: Vec<usize>,
    /// `DownBlock2D` or `CrossAttnDownBlock2D` for each level.
    pub down_block_types: Vec<String>,
    /// Residual blocks of a level on the way down; one more on the way up.
    pub layers_per_block: usize,
    /// Transformer layers after each residual block of a level with attention.
    pub transformer_layers_per_block: PerLevel,
    /// Number of heads, whatever the name says, where `num_attention_heads` is absent.
    pub attention_head_dim: PerLevel,
    /// Number of heads.
    pub num_attention_heads: Option<PerLevel>,
    /// Channels of a text token.
    pub cross_attention_dim: usize,
    /// Groups of the norms.
    pub norm_num_groups: usize,
    /// Of the residual blocks' norms.
    pub norm_eps: f64,
    /// Channels of each time id's sinusoid.
    pub addition_time_embed_dim: Option<usize>,
    /// Channels of the pooled text and of all time ids' sinusoids.
    pub projection_class_embeddings_input_dim: Option<usize>,

    /// `text_time`.
    pub addition_embed_type: Option<String>,
    /// True: tokens are projected by linear layers, not 1x1 convolutions.
    pub use_linear_projection: bool,
    /// True: cosines first.
    pub flip_sin_to_cos: bool,
    /// 0.
    pub freq_shift: f64,
    /// Absent.
    pub class_embed_type: Option<String>,
    /// Absent.
    pub encoder_hid_dim_type: Option<String>,
    /// `silu`.
    pub act_fn: String,
    /// `default`.
    pub resnet_time_scale_shift: String,
    /// False, or false for each level.
    pub only_cross_attention: Value,
}

impl Default for TrunkConfig {
    fn default() -> Self {
        Self {
            in_channels: 4,
            block_out_channels: vec![320, 640, 1280, 1280],
            down_block_types: ["CrossAttnDownBlock2D"; 3]
                .map(str::to_owned)
                .into_iter()
                .chain(["DownBlock2D".to_owned()])
                .collect(),
            layers_per_block: 2,
            transformer_layers_per_block: PerLevel::All(1),
            attention_head_dim: PerLevel::All(8),
            num_attention_heads: None,
            cross_attention_dim: 1280,
            norm_num_groups: 32,
            norm_eps: 1e-5,
            addition_time_embed_dim: None,
            projection_class_embeddings_input_dim: None,
            addition_embed_type: None,
            use_linear_projection: false,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            class_embed_type: None,
            encoder_hid_dim_type: None,
            act_fn: "silu".to_owned(),
            resnet_time_scale_shift: "default".to_owned(),
            only_cross_attention: Value::Null,
        }
    }
}

/// A level's sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Level {
    pub(super) channels: usize,
    /// Attention after each residual block: transformer layers and heads.
    pub(super) attention: Option<(usize, usize)>,
}

/// A checked configuration.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub(super) levels: Vec<Level>,
    /// Transformer layers and heads of the middle.
    pub(super) middle: (usize, usize),
    pub(super) outermost: usize,
    pub(super) innermost: usize,
    pub(super) layers: usize,
    pub(super) text: usize,
    pub(super) groups: usize,
    pub(super) eps: f64,
}

impl Shape {
    /// Channels of the embedded timestep.
    pub(super) fn time(&self) -> usize {
        4 * self.outermost
    }
}

impl TrunkConfig {
    /// SDXL's base model and its ControlNets.
    pub fn sdxl() -> Self {
        Self {
            block_out_channels: vec![320, 640, 1280],
            down_block_types: ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"]
                .map(str::to_owned)
                .to_vec(),
            transformer_layers_per_block: PerLevel::Each(vec![1, 2, 10]),
            attention_head_dim: PerLevel::Each(vec![5, 10, 20]),
            cross_attention_dim: 2048,
            addition_time_embed_dim: Some(256),
            projection_class_embeddings_input_dim: Some(2816),
            addition_embed_type: Some("text_time".to_owned()),
            use_linear_projection: true,
            ..Self::default()
        }
    }

    /// Channels of the pooled text, and of one time id's sinusoid.
    pub(super) fn additions(&self) -> Result<(usize, usize)> {
        let dim = self.addition_time_embed_dim.unwrap_or(0);
        let all = self.projection_class_embeddings_input_dim.unwrap_or(0);
        match all.checked_sub(super::TIME_IDS * dim) {
            Some(pooled) if pooled > 0 && dim > 0 => Ok((pooled, dim)),
            _ => Err(invalid(
                "projection_class_embeddings_input_dim",
                &format!("more than {} x addition_time_embed_dim", super::TIME_IDS),
                &format!("{all}, and addition_time_embed_dim {dim}"),
            )),
        }
    }

    pub(super) fn shape(&self) -> Result<Shape> {
        let count = self.block_out_channels.len();
        let (Some(&outermost), Some(&innermost)) =
            (self.block_out_channels.first(), self.block_out_channels.last())
        else {
            return Err(invalid("block_out_channels", "at least one level", "none"));
        };
        self.known()?;
        let layers = self.transformer_layers_per_block.spread("transformer_layers_per_block", count)?;
        let heads = self.num_attention_heads.as_ref().unwrap_or(&self.attention_head_dim);
        let heads = heads.spread("attention_head_dim", count)?;
        if self.down_block_types.len() != count {
            let found = self.down_block_types.len().to_string();
            return Err(invalid("down_block_types", &format!("{count} classes, one a level"), &found));
        }
        let mut levels = Vec::with_capacity(count);
        for (((&channels, &layers), &heads), class) in
            self.block_out_channels.iter().zip(&layers).zip(&heads).zip(&self.down_block_types)
        {
            if self.norm_num_groups == 0 || !channels.is_multiple_of(self.norm_num_groups) {
                return Err(invalid(
                    "norm_num_groups",
                    &format!("a divisor of {channels}"),
                    &self.norm_num_groups.to_string(),
                ));
            }
            if heads == 0 || !channels.is_multiple_of(heads) {
                return Err(invalid(
                    "attention_head_dim",
                    &format!("a divisor of {channels}"),
                    &heads.to_string(),
                ));
            }
            let attention = match class.as_str() {
                "DownBlock2D" => None,
                "CrossAttnDownBlock2D" => Some((layers, heads)),
                other => {
                    return Err(invalid("down_block_types", "DownBlock2D or CrossAttnDownBlock2D", other));
                }
            };
            levels.push(Level { channels, attention });
        }
        let last = |list: &[usize]| list.last().copied().unwrap_or(1);
        Ok(Shape {
            levels,
            middle: (last(&layers), last(&heads)),
            outermost,
            innermost,
            layers: self.layers_per_block,
            text: self.cross_attention_dim,
            groups: self.norm_num_groups,
            eps: self.norm_eps,
        })
    }

    /// Refuses what would silently give other pictures.
    fn known(&self) -> Result<()> {
        let absent = "nothing".to_owned();
        let some = |value: &Option<String>| value.clone().unwrap_or_else(|| absent.clone());
        let crossed = match &self.only_cross_attention {
            Value::Bool(on) => *on,
            Value::Array(each) => each.iter().any(|on| on == &Value::Bool(true)),
            _ => false,
        };
        for (field, expected, found) in [
            ("addition_embed_type", "text_time", some(&self.addition_embed_type)),
            ("use_linear_projection", "true", self.use_linear_projection.to_string()),
            ("flip_sin_to_cos", "true", self.flip_sin_to_cos.to_string()),
            ("freq_shift", "0", self.freq_shift.to_string()),
            ("class_embed_type", "nothing", some(&self.class_embed_type)),
            ("encoder_hid_dim_type", "nothing", some(&self.encoder_hid_dim_type)),
            ("act_fn", "silu", self.act_fn.clone()),
            ("resnet_time_scale_shift", "default", self.resnet_time_scale_shift.clone()),
            ("only_cross_attention", "false", crossed.to_string()),
        ] {
            if found != expected {
                return Err(invalid(field, expected, &found));
            }
        }
        Ok(())
    }
}

/// `UNet2DConditionModel`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct UnetConfig {
    /// The way down and the middle.
    #[serde(flatten)]
    pub trunk: TrunkConfig,
    /// Channels predicted.
    #[serde(default = "four")]
    pub out_channels: usize,
    /// `UpBlock2D` or `CrossAttnUpBlock2D` for each level, from the innermost outwards: the mirror of the way down.
    #[serde(default)]
    pub up_block_types: Option<Vec<String>>,
    /// Absent: no distilled guidance.
    #[serde(default)]
    pub time_cond_proj_dim: Option<usize>,
}

fn four() -> usize {
    4
}

impl UnetConfig {
    /// SDXL's base model.
    pub fn sdxl() -> Self {
        Self { trunk: TrunkConfig::sdxl(), out_channels: 4, up_block_types: None, time_cond_proj_dim: None }
    }

    pub(super) fn shape(&self) -> Result<Shape> {
        let shape = self.trunk.shape()?;
        if let Some(found) = self.time_cond_proj_dim {
            return Err(invalid("time_cond_proj_dim", "nothing", &found.to_string()));
        }
        if let Some(found) = &self.up_block_types {
            let expected: Vec<String> =
                self.trunk.down_block_types.iter().rev().map(|class| class.replace("Down", "Up")).collect();
            if *found != expected {
                return Err(invalid("up_block_types", &expected.join(", "), &found.join(", ")));
            }
        }
        Ok(shape)
    }
}

/// `ControlNetModel`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ControlNetConfig {
    /// The way down and the middle.
    #[serde(flatten)]
    pub trunk: TrunkConfig,
    /// Channels of the control picture.
    #[serde(default = "three")]
    pub conditioning_channels: usize,
    /// Channels of the control picture's embedding; every one but the first halves the size.
    #[serde(default = "canny")]
    pub conditioning_embedding_out_channels: Vec<usize>,
    /// `rgb`, or `bgr` for a net that wants blue first.
    #[serde(default = "rgb")]
    pub controlnet_conditioning_channel_order: String,
    /// False.
    #[serde(default)]
    pub global_pool_conditions: bool,
}

fn three() -> usize {
    3
}

fn canny() -> Vec<usize> {
    vec![16, 32, 96, 256]
}

fn rgb() -> String {
    "rgb".to_owned()
}

impl ControlNetConfig {
    /// `controlnet-canny-sdxl-1.0`.
    pub fn sdxl() -> Self {
        Self {
            trunk: TrunkConfig::sdxl(),
            conditioning_channels: three(),
            conditioning_embedding_out_channels: canny(),
            controlnet_conditioning_channel_order: rgb(),
            global_pool_conditions: false,
        }
    }

    pub(super) fn shape(&self) -> Result<Shape> {
        if self.global_pool_conditions {
            return Err(invalid("global_pool_conditions", "false", "true"));
        }
        if !matches!(self.controlnet_conditioning_channel_order.as_str(), "rgb" | "bgr") {
            let found = &self.controlnet_conditioning_channel_order;
            return Err(invalid("controlnet_conditioning_channel_order", "rgb or bgr", found));
        }
        self.trunk.shape()
    }
}

fn invalid(field: &str, expected: &str, found: &str) -> Error {
    Error::Msg(format!("SDXL config: {field}: expected {expected}, found {found}"))
}
