//! Backgrounds from words: a scene chosen by the prompt, coloured and varied by prompt and seed.
//!
//! Each scene is a function from a point to linear light; rows are independent, so that the engine can paint a few, report,
//! and look at its stop signal. Knows nothing of text or products but leaves room for both: quiet above, a stand below.

mod bokeh;
mod ridges;
mod shore;
mod studio;
mod table;

use std::ops::Range;

use image::RgbImage;

use super::noise::{Noise, hash_text, mix64};
use crate::imaging::srgb::Srgb;

/// Light of a scene.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hour {
    Day,
    Dusk,
    Night,
}

/// A point: `u` from the left and `v` from the top in units of the smaller side, centred so that the middle of the picture
/// is (0, 0); `down` is 0 at the top and 1 at the bottom.
#[derive(Debug, Clone, Copy)]
struct Point {
    u: f32,
    v: f32,
    down: f32,
}

/// Linear light of a point.
trait Painter: Send {
    fn light(&self, at: Point) -> [f32; 3];
}

/// A picture that can be painted row by row.
pub struct Scene {
    painter: Box<dyn Painter>,
    grain: Noise,
    srgb: Srgb,
    width: u32,
    height: u32,
}

/// Words (English and Korean) that call a scene or an hour, anywhere in the lower-case prompt.
const TABLE: &str = "table wood kitchen cafe café desk 테이블 식탁 나무 카페 주방";
const SHORE: &str = "sea beach ocean shore coast summer wave island 바다 해변 여름 파도 해안";
const RIDGES: &str = "mountain hill desert dune valley landscape snow winter 산 사막 언덕 겨울 눈";
const STUDIO: &str = "studio minimal luxury podium clean backdrop plain 스튜디오 럭셔리";
const BOKEH: &str = "city party christmas light neon forest garden flower spring bokeh street 도시 파티 크리스마스 숲 정원 꽃 봄 거리";
const DUSK: &str = "sunset dusk evening golden sunrise dawn autumn 노을 저녁 석양 가을";
const NIGHT: &str = "night dark midnight moon neon black 밤 야경 어두운";

impl Scene {
    /// Chooses and prepares the scene.
    pub fn new(prompt: &str, seed: u64, (width, height): (u32, u32)) -> Self {
        let prompt = prompt.to_lowercase();
        // How early a word of the list appears; the first thing named is what the picture is of.
        let first = |words: &str| words.split(' ').filter_map(|word| find_word(&prompt, word)).min();
        let seed = mix64(seed ^ hash_text(&prompt));
        let hour = if first(NIGHT).is_some() {
            Hour::Night
        } else if first(DUSK).is_some() {
            Hour::Dusk
        } else {
            Hour::Day
        };
        let named = [TABLE, SHORE, RIDGES, STUDIO, BOKEH]
            .iter()
            .enumerate()
            .filter_map(|(index, words)| first(words).map(|place| (place, index)))
            .min()
            .map(|(_, index)| index);
        let hue = Hue::of(&prompt, seed);
        let painter: Box<dyn Painter> =
            match named.unwrap_or(if hour == Hour::Night { 4 } else { (seed >> 40) as usize % 5 }) {
                0 => Box::new(table::Table::new(seed, hour)),
                1 => Box::new(shore::Shore::new(seed, hour)),
                2 => Box::new(ridges::Ridges::new(seed, hour, &prompt)),
                3 => Box::new(studio::Studio::new(seed, hue)),
                _ => Box::new(bokeh::Bokeh::new(seed, hour, hue, &prompt)),
            };
        Self { painter, grain: Noise::new(seed, 99), srgb: Srgb::new(), width, height }
    }

    /// Paints `rows` of `image`, which has the scene's size.
    pub fn paint_rows(&self, rows: Range<u32>, image: &mut RgbImage) {
        let side = self.width.min(self.height) as f32;
        let width = self.width as usize;
        for y in rows {
            let start = y as usize * width * 3;
            let Some(row) = image.as_mut().get_mut(start..start + width * 3) else { return };
            let v = (y as f32 + 0.5 - self.height as f32 / 2.0) / side;
            let down = (y as f32 + 0.5) / self.height as f32;
            for (x, pixel) in row.as_chunks_mut::<3>().0.iter_mut().enumerate() {
                let u = (x as f32 + 0.5 - width as f32 / 2.0) / side;
                let light = self.painter.light(Point { u, v, down });
                // Corners fall off as behind a lens; a breath of grain keeps gradients from banding.
                let fall = 1.0 - 0.22 * (u * u + v * v).min(1.5);
                let grain = 1.0 + (self.grain.cell(x as i32, y as i32) - 0.5) * 0.022;
                *pixel = self.srgb.bytes3(light.map(|value| filmic(value * fall) * grain));
            }
        }
    }
}

/// Where `word` begins in `text`: whole English words with a common ending, Korean anywhere (particles follow the noun).
fn find_word(text: &str, word: &str) -> Option<usize> {
    text.match_indices(word).map(|(index, _)| index).find(|&index| {
        let rest = &text[index + word.len()..];
        let ending = &rest[..rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len())];
        let begins = !text[..index].ends_with(|c: char| c.is_ascii_alphabetic());
        !word.is_ascii() || (begins && ["", "s", "es", "en", "y"].contains(&ending))
    })
}

/// Soft shoulder: highlights roll off instead of clipping; the lower half stays as it is.
fn filmic(value: f32) -> f32 {
    const KNEE: f32 = 0.6;
    if value <= KNEE {
        return value.max(0.0);
    }
    let over = (value - KNEE) / (1.0 - KNEE);
    KNEE + (1.0 - KNEE) * over / (1.0 + over)
}

/// A leading colour in linear light.
#[derive(Debug, Clone, Copy)]
struct Hue {
    /// Full.
    main: [f32; 3],
    /// A companion for contrast.
    accent: [f32; 3],
}

impl Hue {
    /// The colour that the prompt names, else one of the palette by hash.
    fn of(prompt: &str, seed: u64) -> Self {
        const PALETTE: &[(&[&str], [u8; 3], [u8; 3])] = &[
            (&["pink", "rose", "분홍", "핑크"], [232, 120, 148], [255, 214, 190]),
            (&["blue", "navy", "파란", "파랑"], [52, 108, 188], [170, 216, 246]),
            (&["green", "mint", "초록", "녹색"], [46, 128, 92], [196, 226, 150]),
            (&["red", "crimson", "빨간", "빨강"], [190, 44, 52], [255, 176, 120]),
            (&["purple", "violet", "보라"], [104, 66, 168], [236, 160, 214]),
            (&["yellow", "gold", "노란", "금색"], [222, 160, 44], [255, 232, 170]),
            (&["orange", "coral", "주황"], [232, 108, 60], [255, 208, 140]),
            (&["teal", "turquoise", "aqua", "청록"], [24, 128, 138], [160, 228, 214]),
        ];
        let named =
            PALETTE.iter().find(|(words, ..)| words.iter().any(|word| find_word(prompt, word).is_some()));
        let (_, main, accent) = named.unwrap_or(&PALETTE[(seed >> 20) as usize % PALETTE.len()]);
        let srgb = Srgb::new();
        Self { main: srgb.linear3(*main), accent: srgb.linear3(*accent) }
    }
}

/// Linear light of an sRGB colour, for palettes.
fn colour(rgb: [u8; 3]) -> [f32; 3] {
    Srgb::new().linear3(rgb)
}
