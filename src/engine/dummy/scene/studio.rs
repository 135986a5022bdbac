//! A seamless studio backdrop with a spot, a floor and a low round stand.

use super::super::noise::{Noise, lerp, lerp3, smoothstep};
use super::{Hue, Painter, Point};

const FLOOR: f32 = 0.66;

pub struct Studio {
    hue: Hue,
    spot: f32,
    dust: Noise,
}

impl Studio {
    pub fn new(seed: u64, hue: Hue) -> Self {
        let dust = Noise::new(seed, 13);
        Self { hue, spot: (dust.cell(0, 0) - 0.5) * 0.5, dust }
    }
}

impl Painter for Studio {
    fn light(&self, at: Point) -> [f32; 3] {
        let dx = at.u - self.spot;
        let spot = 1.0 / (1.0 + 3.2 * (dx * dx + (at.v + 0.12) * (at.v + 0.12)));
        let dark = self.hue.main.map(|value| value * 0.42);
        let wall = lerp3(dark, lerp3(self.hue.main, self.hue.accent, 0.55), spot);
        // The sweep from wall to floor has no edge, only a change of light.
        let below = smoothstep(FLOOR - 0.07, FLOOR + 0.13, at.down);
        let pool = 1.0 / (1.0 + 2.6 * at.u * at.u + 20.0 * (at.down - 0.88) * (at.down - 0.88));
        let floor = lerp3(self.hue.main.map(|v| v * 0.55), self.hue.accent, pool * 0.75);
        let mut light = lerp3(wall, floor, below);
        // The stand: its top an ellipse, its side shaded as a cylinder.
        let (radius, top, height) = (0.36, 0.80, 0.085);
        let across = at.u / radius;
        if across.abs() < 1.0 {
            let arc = (1.0 - across * across).sqrt();
            let (front, back) = (top + 0.036 * arc, top - 0.036 * arc);
            let side = smoothstep(front - 0.001, front + 0.001, at.down)
                * smoothstep(front + height + 0.001, front + height - 0.001, at.down);
            let lid = smoothstep(back - 0.001, back + 0.001, at.down)
                * smoothstep(front + 0.001, front - 0.001, at.down);
            let turn = 0.52 + 0.42 * (0.55 - across * 0.7 - self.spot).clamp(-0.9, 1.0);
            light = lerp3(light, lerp3(self.hue.main, self.hue.accent, 0.30).map(|v| v * turn), side);
            light = lerp3(light, lerp3(self.hue.main, self.hue.accent, 0.72), lid);
        }
        let shade = smoothstep(1.45, 0.85, across.abs()) * smoothstep(0.085, 0.0, (at.down - 0.905).abs());
        if at.down > top + height + 0.036 * (1.0 - across * across).max(0.0).sqrt() {
            light = light.map(|value| value * (1.0 - 0.5 * shade));
        }
        let dust = self.dust.layered(at.u * 3.0, at.v * 3.0, 2);
        light.map(|value| value * lerp(0.95, 1.05, dust))
    }
}
