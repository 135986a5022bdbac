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
            (_, _, true) => [[196, 214, 234], [232, 240, 248]],
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
        for layer in (0..LAYERS).rev() {
            let crest = self.crest(layer, at.u);
            let cover = smoothstep(-0.0012, 0.0012, at.down - crest);
            if cover <= 0.0 {
                continue;
            }
            let near = layer as f32 / (LAYERS - 1) as f32;
            let base = lerp3(self.land[1], self.land[0], near);
            // Slope towards the sun lights a flank; mist lies in the valleys.
            let slope = (self.crest(layer, at.u + 0.006) - crest) / 0.006;
            let facing = (slope * (at.u - self.sun_at.0).signum()).clamp(-1.0, 1.0);
            let depth = (at.down - crest) * (3.0 - 1.4 * near);
            let texture = self.shape.layered(at.u * 22.0, at.v * 30.0 + layer as f32, 2) - 0.5;
            let lit = 1.0 - 0.22 * facing + texture * (0.16 + 0.1 * near) - 0.25 * near * depth.min(1.0);
            let mut light = base.map(|value| value * lit);
            if self.snow {
                let shadow = smoothstep(0.0, 0.7, facing + texture);
                light = lerp3(light, [0.30, 0.42, 0.62], shadow * 0.5 * (0.4 + 0.6 * near));
            }
            let mist = depth.clamp(0.0, 1.0) * (1.0 - near) * 0.55;
            light = lerp3(light, self.sky[1], mist);
            light = std::array::from_fn(|c| light[c] + self.sun[c] * glow * 0.35 * (1.0 - near));
            if cover >= 1.0 || layer == 0 {
                return light;
            }
            return lerp3(self.sky_light(at, glow), light, cover);
        }
        self.sky_light(at, glow)
    }
}

impl Ridges {
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
