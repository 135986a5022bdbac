//! The pipeline's steps and sub-steps, with their names on the wire.

use std::fmt;

/// One of the three steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Scene and product.
    Background = 1,
    /// The phrase as a 3D asset.
    Text = 2,
    /// Both in one picture.
    Composition = 3,
}

impl Step {
    /// All, in order.
    pub const ALL: [Self; 3] = [Self::Background, Self::Text, Self::Composition];

    /// The name in progress reports and timings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Background => "step1_background",
            Self::Text => "step2_text",
            Self::Composition => "step3_composite",
        }
    }

    /// 1, 2 or 3.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The step with this number.
    pub fn from_number(number: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|step| u64::from(step.number()) == number)
    }
}

/// A part of a step, in the order in which they can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SubStep {
    /// BiRefNet cuts the product out.
    Segmentation,
    /// FLUX or SDXL paints the scene.
    BackgroundGeneration,
    /// FLUX inpaint merges the product.
    FeatureInjection,
    /// The phrase in white on black.
    TextCanvas,
    /// SDXL + ControlNet make it an object.
    TextGeneration,
    /// BiRefNet makes its ground transparent.
    TextSegmentation,
    /// FLUX inpaint merges text and scene.
    Composition,
}

impl SubStep {
    /// All, in order.
    pub const ALL: [Self; 7] = [
        Self::Segmentation,
        Self::BackgroundGeneration,
        Self::FeatureInjection,
        Self::TextCanvas,
        Self::TextGeneration,
        Self::TextSegmentation,
        Self::Composition,
    ];

    /// The step that it belongs to.
    pub fn step(self) -> Step {
        match self {
            Self::Segmentation | Self::BackgroundGeneration | Self::FeatureInjection => Step::Background,
            Self::TextCanvas | Self::TextGeneration | Self::TextSegmentation => Step::Text,
            Self::Composition => Step::Composition,
        }
    }

    /// The name in timings and statistics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Segmentation => "segmentation",
            Self::BackgroundGeneration => "background_generation",
            Self::FeatureInjection => "feature_injection",
            Self::TextCanvas => "text_canvas",
            Self::TextGeneration => "text_generation",
            Self::TextSegmentation => "text_segmentation",
            Self::Composition => "composition",
        }
    }
}

impl fmt::Display for SubStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
