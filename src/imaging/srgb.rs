//! sRGB bytes to linear light and back, by table.
//!
//! The tables come from `libm`, not the platform's, so that every machine holds the same bits. Called by whatever mixes
//! light: compositing and the procedural scenes.

use std::sync::OnceLock;

/// Steps of the inverse table. At 1/16384 the darkest sRGB bytes, 1/3300 apart in linear light, stay distinct.
const INVERSE_STEPS: usize = 16_384;

struct Tables {
    linear: [f32; 256],
    encoded: Box<[u8]>,
}

/// IEC 61966-2-1, `value` in 0..=1.
fn decode(value: f64) -> f64 {
    if value <= 0.040_45 { value / 12.92 } else { libm::pow((value + 0.055) / 1.055, 2.4) }
}

fn encode(value: f64) -> f64 {
    if value <= 0.003_130_8 { value * 12.92 } else { 1.055 * libm::pow(value, 1.0 / 2.4) - 0.055 }
}

fn tables() -> &'static Tables {
    static TABLES: OnceLock<Tables> = OnceLock::new();
    TABLES.get_or_init(|| Tables {
        linear: std::array::from_fn(|byte| decode(byte as f64 / 255.0) as f32),
        encoded: (0..=INVERSE_STEPS)
            .map(|step| (encode(step as f64 / INVERSE_STEPS as f64) * 255.0 + 0.5) as u8)
            .collect(),
    })
}

/// Both directions, borrowed once per image so that the loops index plain tables.
#[derive(Clone, Copy)]
pub struct Srgb(&'static Tables);

impl Srgb {
    /// Builds the tables on first use.
    pub fn new() -> Self {
        Self(tables())
    }

    /// Linear light of an sRGB byte, 0..=1.
    pub fn linear(self, byte: u8) -> f32 {
        self.0.linear[usize::from(byte)]
    }

    /// Linear light of an sRGB pixel.
    pub fn linear3(self, [r, g, b]: [u8; 3]) -> [f32; 3] {
        [self.linear(r), self.linear(g), self.linear(b)]
    }

    /// The sRGB byte of a linear value; what lies outside 0..=1 is clipped. Within one step of exact rounding.
    pub fn byte(self, linear: f32) -> u8 {
        let step = (linear.clamp(0.0, 1.0) * INVERSE_STEPS as f32 + 0.5) as usize;
        self.0.encoded[step.min(INVERSE_STEPS)]
    }

    /// The sRGB pixel of linear light.
    pub fn bytes3(self, linear: [f32; 3]) -> [u8; 3] {
        linear.map(|value| self.byte(value))
    }
}

impl Default for Srgb {
    fn default() -> Self {
        Self::new()
    }
}
