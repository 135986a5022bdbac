//! Ranges of hills, dunes or mountains, each paler than the one before it.

use super::super::noise::{Noise, lerp3, smoothstep};
use super::{Hour, Painter, Point, colour, find_word};

const LAYERS: usize = 5;

pub struct Ridges {
    shape: Noise,
    clouds: Noise,
    sky: [[f32; 3]; 2],
    /// Nearest and farthest layer.
    land: [[f32; 3]; 2],
    sun: [f32; 3],
    sun_at: (f32, f32),
    roughness: u32,
    snow: bool,
    /// Snow in shadow.
    shade: [f32; 3],
}

impl Ridges {
    pub fn new(seed: u64, hour: Hour, prompt: &str) -> Self {
        let is = |words: &[&str]| words.iter().any(|word| find_word(prompt, word).is_some());
        let desert = is(&["desert", "dune", "사막"]);
        let snow = is(&["snow", "winter", "겨울", "눈"]);
        let (sky, sun) = match hour {
            Hour::Day if desert => ([[96, 160, 214], [250, 226, 190]], [255, 246, 220]),
            Hour::Day => ([[70, 142, 212], [222, 238, 246]], [255, 250, 236]),
            Hour::Dusk => ([[92, 78, 150], [255, 184, 120]], [255, 224, 160]),
            Hour::Night => ([[8, 12, 34], [54, 66, 116]], [220, 230, 255]),
        };
        let land = match (hour, desert, snow) {
            (Hour::Night, ..) => [[10, 14, 28], [48, 60, 104]],
            (_, true, _) => [[176, 98, 48], [246, 206, 156]],
            (Hour::Dusk, _, true) => [[206, 190, 214], [252, 214, 196]],
            (_, _, true) => [[206, 222, 240], [232, 240, 248]],
            (Hour::Dusk, ..) => [[58, 34, 72], [240, 162, 126]],
            _ => [[30, 74, 62], [176, 206, 222]],
        };
        let place = Noise::new(seed, 8);
        Self {
            shape: Noise::new(seed, 9),
            clouds: Noise::new(seed, 10),
            sky: sky.map(colour),
            land: land.map(colour),
            sun: colour(sun),
            sun_at: ((place.cell(1, 0) - 0.5) * 0.6, if hour == Hour::Day { -0.34 } else { -0.02 }),
            roughness: if desert { 2 } else { 5 },
            snow,
            shade: colour(if hour == Hour::Dusk { [128, 112, 168] } else { [132, 160, 206] }),
        }
    }

    /// Height of a layer's crest, as `down`.
    fn crest(&self, layer: usize, u: f32) -> f32 {
        let near = layer as f32 / (LAYERS - 1) as f32;
        let scale = 3.4 - 1.9 * near;
        let height = self.shape.layered(u * scale + layer as f32 * 31.0, layer as f32 * 7.0, self.roughness);
        0.50 + 0.095 * layer as f32 - (height - 0.5) * (0.24 - 0.10 * near)
    }
}

impl Painter for Ridges {
    fn light(&self, at: Point) -> [f32; 3] {
        let (dx, dy) = (at.u - self.sun_at.0, at.v - self.sun_at.1);
        let distance = dx * dx + dy * dy;
        let glow = 0.003 / (distance + 0.006) + 0.06 / (distance + 0.24);
        // Nearest first: a point belongs to the first layer whose crest is above it. Only a crest's own soft edge shows
        // what lies behind.
        let mut in_front: Option<([f32; 3], f32)> = None;
        let mut light = None;
        for layer in (0..LAYERS).rev() {
            let crest = self.crest(layer, at.u);
            let cover = smoothstep(-0.0012, 0.0012, at.down - crest);
            if cover <= 0.0 {
                continue;
            }
            let found = self.land_light(at, layer, crest, glow);
            if cover >= 1.0 || in_front.is_some() {
                light = Some(found);
                break;
            }
            in_front = Some((found, cover));
        }
        let behind = light.unwrap_or_else(|| self.sky_light(at, glow));
        in_front.map_or(behind, |(front, cover)| lerp3(behind, front, cover))
    }
}

impl Ridges {
    fn land_light(&self, at: Point, layer: usize, crest: f32, glow: f32) -> [f32; 3] {
        let near = layer as f32 / (LAYERS - 1) as f32;
        let base = lerp3(self.land[1], self.land[0], near);
        let depth = (at.down - crest) * (3.0 - 1.4 * near);
        // A field of its own for the flanks: the crest's slope would streak straight down. The sun's side is lit; the change
        // of side is gradual, or it would show as a seam.
        let scale = 5.0 + 2.0 * near;
        let shift = layer as f32 * 23.0;
        let field = |du: f32| {
            self.shape.layered((at.u + du) * scale + at.v * 3.0 + shift, at.v * scale * 1.3, self.roughness)
        };
        let slope = (field(0.012) - field(0.0)) * 14.0;
        let towards = ((at.u - self.sun_at.0) * 6.0).clamp(-1.0, 1.0);
        let facing = (slope * towards).clamp(-1.0, 1.0);
        let lit = 1.0 + 0.30 * facing - 0.18 * near * depth.min(1.0);
        let mut light = base.map(|value| value * lit);
        if self.snow {
            let shadow = smoothstep(0.05, -0.6, facing);
            light = lerp3(light, self.shade, shadow * 0.6 * (0.45 + 0.55 * near));
        }
        let mist = depth.clamp(0.0, 1.0) * (1.0 - near) * 0.6;
        light = lerp3(light, self.sky[1], mist);
        std::array::from_fn(|c| light[c] + self.sun[c] * glow * 0.4 * (1.0 - near))
    }

    fn sky_light(&self, at: Point, glow: f32) -> [f32; 3] {
        let rise = (1.0 - at.down / 0.6).clamp(0.0, 1.0);
        let base = lerp3(self.sky[1], self.sky[0], rise);
        let cover = self.clouds.layered(at.u * 2.0 + 11.0, at.v * 5.0, 3);
        let cloud = smoothstep(0.56, 0.82, cover) * 0.5;
        let white = self.sky[1].map(|value| (value * 1.15).min(1.0));
        let light = lerp3(base, white, cloud);
        std::array::from_fn(|c| light[c] + self.sun[c] * glow)
    }
}
