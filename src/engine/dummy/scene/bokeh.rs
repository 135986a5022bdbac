//! Out-of-focus lights: a town at night, a party, a garden in sunlight.

use super::super::noise::{Noise, lerp3, smoothstep};
use super::{Hour, Hue, Painter, Point, colour, find_word};

struct Disc {
    u: f32,
    v: f32,
    radius: f32,
    light: [f32; 3],
}

pub struct Bokeh {
    ground: [[f32; 3]; 3],
    discs: Vec<Disc>,
    haze: Noise,
}

impl Bokeh {
    pub fn new(seed: u64, hour: Hour, hue: Hue, prompt: &str) -> Self {
        let is = |words: &[&str]| words.iter().any(|word| find_word(prompt, word).is_some());
        let garden = is(&["forest", "garden", "flower", "spring", "숲", "정원", "꽃", "봄"]);
        let draw = Noise::new(seed, 11);
        let (ground, lights): (_, [[f32; 3]; 3]) = if garden && hour != Hour::Night {
            (
                [[214, 232, 170], [112, 164, 84], [44, 88, 52]],
                [colour([246, 250, 200]), colour([190, 224, 120]), colour([255, 214, 226])],
            )
        } else {
            ([[30, 26, 52], [58, 40, 74], [14, 12, 24]], [colour([255, 188, 96]), hue.main, hue.accent])
        };
        let strength = if garden { 0.16 } else { 0.34 };
        let discs = (0..46)
            .map(|i| {
                let random = |k: i32| draw.cell(i, k);
                // Small lights far away crowd about the horizon, large ones float anywhere.
                let size = random(2);
                let spread = 0.25 + 0.75 * size;
                let colour = lights[(random(3) * 2.999) as usize];
                let light = lerp3(colour, [1.0, 0.96, 0.9], random(5) * 0.3);
                let radius = 0.018 + 0.085 * size * size;
                Disc {
                    u: (random(0) - 0.5) * 1.7,
                    v: (random(1) - 0.5) * spread * 0.9 + 0.02,
                    radius,
                    light: light.map(|v| v * strength * (0.35 + random(4)) * (1.15 - 0.55 * size)),
                }
            })
            .collect();
        Self { ground: ground.map(colour), discs, haze: Noise::new(seed, 12) }
    }
}

impl Painter for Bokeh {
    fn light(&self, at: Point) -> [f32; 3] {
        let base = if at.down < 0.55 {
            lerp3(self.ground[0], self.ground[1], at.down / 0.55)
        } else {
            lerp3(self.ground[1], self.ground[2], (at.down - 0.55) / 0.45)
        };
        let haze = self.haze.layered(at.u * 2.3, at.v * 2.3, 2);
        let mut light = base.map(|value| value * (0.65 + 0.7 * haze));
        for disc in &self.discs {
            let (dx, dy) = (at.u - disc.u, at.v - disc.v);
            let square = dx * dx + dy * dy;
            let radius = disc.radius;
            if square > radius * radius * 1.2 {
                continue;
            }
            let distance = square.sqrt() / radius;
            // A lens draws a disc with a slightly brighter rim.
            let rim = 1.0 + 0.7 * smoothstep(0.72, 0.94, distance);
            let share = smoothstep(1.03, 0.95, distance) * rim;
            for (value, disc) in light.iter_mut().zip(disc.light) {
                *value += disc * share;
            }
        }
        // A dim polished ground to stand things on.
        let floor = smoothstep(0.80, 0.86, at.down) * 0.5;
        lerp3(light, self.ground[2].map(|v| v * 1.4), floor)
    }
}
