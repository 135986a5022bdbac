//! Sea, sky and sand.

use super::super::noise::{Noise, lerp, lerp3, smoothstep};
use super::{Hour, Painter, Point, colour};

const HORIZON: f32 = 0.52;
const SAND: f32 = 0.80;

pub struct Shore {
    clouds: Noise,
    waves: Noise,
    sand: Noise,
    /// Zenith, horizon, cloud, deep water, shallow water, sand.
    palette: [[f32; 3]; 6],
    sun: [f32; 3],
    sun_at: (f32, f32),
}

impl Shore {
    pub fn new(seed: u64, hour: Hour) -> Self {
        let (palette, sun, height) = match hour {
            Hour::Day => (
                [
                    [46, 132, 214],
                    [196, 232, 246],
                    [255, 255, 255],
                    [16, 104, 160],
                    [92, 206, 210],
                    [242, 218, 178],
                ],
                [255, 250, 232],
                -0.38,
            ),
            Hour::Dusk => (
                [
                    [84, 84, 156],
                    [255, 172, 108],
                    [255, 196, 176],
                    [70, 62, 112],
                    [232, 142, 116],
                    [196, 138, 112],
                ],
                [255, 226, 160],
                -0.06,
            ),
            Hour::Night => (
                [[10, 16, 42], [44, 62, 110], [70, 84, 128], [8, 18, 44], [34, 66, 104], [74, 76, 96]],
                [226, 234, 255],
                -0.3,
            ),
        };
        let side = Noise::new(seed, 4).cell(0, 0) - 0.5;
        Self {
            clouds: Noise::new(seed, 5),
            waves: Noise::new(seed, 6),
            sand: Noise::new(seed, 7),
            palette: palette.map(colour),
            sun: colour(sun),
            sun_at: (side * 0.56, height),
        }
    }

    fn sky(&self, at: Point) -> [f32; 3] {
        let rise = (1.0 - at.down / HORIZON).clamp(0.0, 1.0);
        let mut light = lerp3(self.palette[1], self.palette[0], rise * (2.0 - rise) * 0.94);
        let (dx, dy) = (at.u - self.sun_at.0, at.v - self.sun_at.1);
        let distance = dx * dx + dy * dy;
        let glow = 0.0035 / (distance + 0.006) + 0.05 / (distance + 0.22);
        // Flat clouds, thinner towards the zenith.
        let stretch = 1.6 + 3.0 * (1.0 - rise);
        // Bent, or the noise's lattice shows as upright edges where the clouds are wide.
        let bend = self.waves.layered(at.u * 3.1 + 7.0, at.v * 3.7 + 2.0, 3) - 0.5;
        let (u, v) = (at.u + 0.34 * bend, at.v + 0.22 * bend);
        let cover = self.clouds.layered(u * 2.2 + 3.0, v * 2.2 * stretch, 4);
        let cloud = smoothstep(0.53, 0.78, cover) * 0.75 * (1.0 - 0.55 * rise);
        light = lerp3(light, self.palette[2], cloud);
        std::array::from_fn(|c| light[c] + self.sun[c] * glow)
    }

    fn water(&self, at: Point) -> [f32; 3] {
        let below = ((at.down - HORIZON) / (SAND - HORIZON)).clamp(0.0, 1.2);
        let depth = 1.0 / (0.05 + below);
        let swell = self.waves.layered(at.u * depth * 1.5, depth * 5.2, 3);
        let ripple = self.waves.at(at.u * depth * 7.0 + 9.0, depth * 21.0);
        let mut light = lerp3(self.palette[3], self.palette[4], below * below * 0.9);
        light = light.map(|value| value * lerp(0.72, 1.25, swell));
        // Sky in the flat far water, sun on the crests below it.
        let mirror = (1.0 - below).max(0.0);
        light = lerp3(light, self.palette[1], mirror * mirror * 0.45);
        let column = 1.0 / (1.0 + 26.0 * (at.u - self.sun_at.0) * (at.u - self.sun_at.0) / (0.3 + below));
        let glint = smoothstep(0.60, 0.86, ripple * 0.6 + swell * 0.5) * column;
        std::array::from_fn(|c| light[c] + self.sun[c] * glint * 0.85)
    }

    fn beach(&self, at: Point) -> [f32; 3] {
        let below = (at.down - SAND) / (1.0 - SAND);
        let depth = 1.0 / (0.35 + below);
        let dunes = self.sand.layered(at.u * depth * 2.2, depth * 4.0, 3);
        let grains = self.sand.at(at.u * 260.0, at.v * 260.0);
        let tone = lerp(0.74, 1.12, dunes) * lerp(0.93, 1.07, grains);
        self.palette[5].map(|value| value * tone)
    }
}

impl Painter for Shore {
    fn light(&self, at: Point) -> [f32; 3] {
        if at.down < HORIZON - 0.002 {
            return self.sky(at);
        }
        // The water's edge wanders; foam rides on it, wet sand lies below.
        let edge = SAND + (self.waves.layered(at.u * 2.6, 0.4, 3) - 0.5) * 0.10;
        let from_edge = at.down - edge;
        if from_edge < -0.03 {
            return self.water(at);
        }
        let wet = 1.0 - 0.38 * smoothstep(0.085, 0.015, from_edge);
        let shore =
            lerp3(self.water(at), self.beach(at).map(|v| v * wet), smoothstep(-0.012, 0.004, from_edge));
        let froth = self.waves.layered(at.u * 16.0, at.v * 44.0, 3);
        let foam = smoothstep(0.024, 0.0, from_edge.abs()) * smoothstep(0.30, 0.62, froth);
        lerp3(shore, self.palette[2].map(|v| v * 0.95), foam * 0.9)
    }
}
