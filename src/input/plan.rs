//! What a request means: typed, checked, complete, and without a trace of JSON. The engine reads nothing else.

use image::{DynamicImage, RgbImage, RgbaImage};
use serde_json::{Map, Value};

use crate::progress::{Step, SubStep};

/// One request, ready to run. Pure data; images are decoded and within the caps.
#[derive(Debug, Clone)]
pub struct Plan {
    /// First step to run.
    pub start: Step,
    /// Last step to run. Already lowered to [`Step::Background`] if there is no phrase.
    pub stop: Step,
    /// Output width in pixels, a multiple of 16 in 256..=2048.
    pub width: u32,
    /// Output height in pixels, likewise.
    pub height: u32,
    /// Seed of every random draw; chosen by the validator when the request named none.
    pub seed: u64,
    /// No model is touched.
    pub test_mode: bool,
    /// Step 1; `Some` if it runs.
    pub background: Option<BackgroundPlan>,
    /// Step 2; `Some` if it runs.
    pub text: Option<TextPlan>,
    /// Step 3; `Some` if it runs.
    pub composition: Option<CompositionPlan>,
    /// Result of an earlier step 1, scaled to the output size; `Some` if `start` is past step 1.
    pub step1_image: Option<RgbImage>,
    /// Result of an earlier step 2, scaled to the output size; `Some` if `start` is step 3.
    pub step2_image: Option<RgbaImage>,
    /// Which models leave the device when, by step (index 0 is step 1).
    pub auto_unload: [AutoUnload; 3],
    /// Encoding and extent of the answer.
    pub output: OutputPlan,
    /// Remarks for the customer: unknown fields, ignored values.
    pub warnings: Vec<String>,
    /// Every parameter with the value that is used, images replaced by their size; echoed in the answer.
    pub parameters: Map<String, Value>,
}

/// Step 1.
#[derive(Debug, Clone)]
pub struct BackgroundPlan {
    /// Which model paints.
    pub model: BackgroundModel,
    /// The scene.
    pub prompt: String,
    /// Acts with `true_cfg_scale` > 1 or on SDXL.
    pub negative_prompt: String,
    /// Denoise steps, 1..=50.
    pub steps: u32,
    /// 1..=20.
    pub guidance_scale: f64,
    /// 1..=10; 1 is off.
    pub true_cfg_scale: f64,
    /// The product to place, if any.
    pub product: Option<ProductPlan>,
}

/// The product photo and how it is merged.
#[derive(Debug, Clone)]
pub struct ProductPlan {
    /// The photo, EXIF orientation applied, alpha kept (RGB8 or RGBA8).
    pub image: DynamicImage,
    /// Size relative to the smaller side of the background, 0.05..=1.
    pub scale: f64,
    /// Where its box goes.
    pub position: ProductPosition,
    /// Injection prompt.
    pub prompt: String,
    /// Injection negative prompt.
    pub negative_prompt: String,
    /// Injection strength, 0..=1.
    pub strength: f64,
}

/// `bg_model`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackgroundModel {
    /// FLUX.1.
    Flux,
    /// SDXL base.
    Sdxl,
}

/// `product_position`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ProductPosition {
    /// Horizontally centred, top at 55 % of the height: on a table in front.
    Default,
    /// One of the nine places: -1, 0 or 1 on each axis (left/top, centre, right/bottom).
    Anchor {
        /// -1 left, 0 centre, 1 right.
        horizontal: i8,
        /// -1 top, 0 centre, 1 bottom.
        vertical: i8,
    },
    /// Top left corner in output pixels.
    At {
        /// From the left.
        x: i32,
        /// From the top.
        y: i32,
    },
}

/// Step 2.
#[derive(Debug, Clone)]
pub struct TextPlan {
    /// The phrase; never blank.
    pub content: String,
    /// Material and look.
    pub prompt: String,
    /// What to avoid.
    pub negative_prompt: String,
    /// Denoise steps, 1..=50.
    pub steps: u32,
    /// ControlNet scale, 0..=2.
    pub controlnet_conditioning_scale: f64,
    /// Relative path or file name of a font below the font folders; `None` is the first font found.
    pub font_name: Option<String>,
}

/// Step 3.
#[derive(Debug, Clone)]
pub struct CompositionPlan {
    /// How text and scene meet.
    pub mode: CompositionMode,
    /// Where the text goes.
    pub position: TextPosition,
    /// The user's words, added to the built prompt.
    pub prompt: Option<String>,
    /// Likewise.
    pub negative_prompt: Option<String>,
    /// 0..=1.
    pub strength: f64,
    /// 10..=50.
    pub steps: u32,
    /// 1..=7.
    pub guidance_scale: f64,
    /// 1..=10; 1 is off. The job's, as step 1 has it.
    pub true_cfg_scale: f64,
}

/// `composition_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CompositionMode {
    /// The text stands in front of the scene.
    Overlay,
    /// The scene's light shines through the text.
    Blend,
    /// The salient foreground stays in front of the text.
    Behind,
}

/// `text_position`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TextPosition {
    /// 100 px margin at 1024.
    Top,
    /// The middle.
    Center,
    /// 100 px margin at 1024.
    Bottom,
    /// The emptiest band of the background.
    Auto,
}

/// `auto_unload` of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoUnload {
    /// Gone by the timetable.
    Yes,
    /// Stays for the next request.
    No,
    /// Stays while the budget allows.
    Auto,
}

/// How the answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputPlan {
    /// Image format.
    pub format: OutputFormat,
    /// Whether step 1 and 2 images are part of the answer.
    pub return_intermediate: bool,
}

/// `output_format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputFormat {
    /// Lossless.
    Png,
    /// Quality 95; transparent images are written as PNG with a warning.
    Jpeg,
    /// Lossless.
    WebP,
}

impl Plan {
    /// The sub-steps that will run, with the units of each, in order: what progress and its forecast are built on.
    pub fn sub_steps(&self) -> Vec<(SubStep, u32)> {
        let mut all = Vec::new();
        if let Some(background) = &self.background {
            if background.product.is_some() {
                all.push((SubStep::Segmentation, 1));
            }
            all.push((SubStep::BackgroundGeneration, background.steps));
            if let Some(product) = &background.product {
                all.push((SubStep::FeatureInjection, denoise_steps(INJECTION_STEPS, product.strength)));
            }
        }
        if let Some(text) = &self.text {
            all.push((SubStep::TextCanvas, 1));
            all.push((SubStep::TextGeneration, text.steps));
            all.push((SubStep::TextSegmentation, 1));
        }
        if let Some(composition) = &self.composition {
            all.push((SubStep::Composition, denoise_steps(composition.steps, composition.strength)));
        }
        all
    }
}

/// Schedule length of product injection (the request has no field for it).
pub const INJECTION_STEPS: u32 = 28;

/// Denoise steps that an image-to-image run of `steps` at `strength` takes, at least 1.
/// diffusers: `steps - int(max(steps - min(steps * strength, steps), 0))`.
pub fn denoise_steps(steps: u32, strength: f64) -> u32 {
    let init = (f64::from(steps) * strength).min(f64::from(steps));
    let skipped = (f64::from(steps) - init).max(0.0) as u32;
    (steps - skipped).max(1)
}
