//! A wooden table in soft window light, a defocused room behind it.

use super::super::noise::{Noise, lerp, lerp3, smoothstep};
use super::{Hour, Painter, Point, colour};

/// The table's far edge, as a share of the height.
const EDGE: f32 = 0.6;
/// Width of a board where depth is 1.
const PLANK: f32 = 0.62;

pub struct Table {
    planks: Noise,
    grain: Noise,
    room: Noise,
    wood: [[f32; 3]; 3],
    wall: [[f32; 3]; 2],
    light: [f32; 3],
    /// Where the window is, from the middle.
    window: f32,
}

impl Table {
    pub fn new(seed: u64, hour: Hour) -> Self {
        let (wall, light) = match hour {
            Hour::Day => ([[236, 222, 200], [150, 126, 102]], [255, 238, 208]),
            Hour::Dusk => ([[238, 178, 124], [112, 70, 56]], [255, 196, 128]),
            Hour::Night => ([[72, 70, 92], [22, 20, 32]], [255, 190, 120]),
        };
        let dim = if hour == Hour::Night { 0.45 } else { 1.0 };
        Self {
            planks: Noise::new(seed, 1),
            grain: Noise::new(seed, 2),
            room: Noise::new(seed, 3),
            wood: [[96, 58, 34], [168, 112, 68], [206, 154, 102]].map(|c| colour(c).map(|v| v * dim)),
            wall: wall.map(colour),
            light: colour(light),
            window: if seed & 1 == 0 { -0.42 } else { 0.42 },
        }
    }

    /// The room: a wall lit from the window's side, with a few large soft shapes.
    fn room(&self, at: Point) -> [f32; 3] {
        let dx = at.u - self.window;
        let dy = at.v + 0.34;
        let glow = 1.0 / (1.0 + 5.0 * (dx * dx + 0.8 * dy * dy));
        let mut light = lerp3(self.wall[1], self.wall[0], glow);
        let shapes = self.room.layered(at.u * 2.6 + 4.0, at.v * 1.9, 2);
        light = light.map(|value| value * lerp(0.78, 1.16, shapes));
        // Two window bars' worth of light across the wall.
        let slant = at.u * 0.9 + at.v * 0.5 - self.window * 0.9;
        let beam =
            smoothstep(0.16, 0.02, (slant - 0.28).abs()) + 0.7 * smoothstep(0.12, 0.0, (slant + 0.12).abs());
        std::array::from_fn(|c| light[c] + self.light[c] * beam * 0.10 * glow)
    }

    fn wood(&self, at: Point) -> [f32; 3] {
        // Perspective: rows recede towards the edge.
        let below = (at.down - EDGE) / (1.0 - EDGE);
        let depth = 1.0 / (0.26 + below);
        let across = at.u * depth;
        let plank = (across / PLANK + 50.0).floor();
        let inside = across / PLANK + 50.0 - plank;
        let tone = self.planks.cell(plank as i32, 7);
        let shift = plank * 13.7;
        let warp = self.grain.at(across * 5.0 + shift, depth * 1.6) * 2.4;
        let rings = self.grain.layered(across * 34.0 + warp * 3.0 + shift, depth * 2.1 + shift, 2);
        let fibre = self.grain.at(across * 150.0 + shift, depth * 7.0);
        let shade = (0.25 + 0.42 * rings + 0.14 * fibre + 0.30 * tone).clamp(0.0, 1.0);
        let mut light = if shade < 0.5 {
            lerp3(self.wood[0], self.wood[1], shade * 2.0)
        } else {
            lerp3(self.wood[1], self.wood[2], shade * 2.0 - 1.0)
        };
        // Gaps between the boards narrow with distance, as everything does.
        let gap = inside.min(1.0 - inside);
        light = light.map(|value| value * lerp(0.28, 1.0, smoothstep(0.004, 0.022, gap)));
        // The window's reflection: strongest at the far edge, where the view is flat.
        let dx = at.u - self.window * 0.8;
        let sheen = (1.0 - below).max(0.0) * (1.0 / (1.0 + 4.5 * dx * dx));
        let lit = 0.5 + 0.75 / (1.0 + 2.2 * dx * dx);
        std::array::from_fn(|c| light[c] * lit + self.light[c] * sheen * sheen * 0.34)
    }
}

impl Painter for Table {
    fn light(&self, at: Point) -> [f32; 3] {
        let wood_share = smoothstep(EDGE - 0.004, EDGE + 0.006, at.down);
        if wood_share <= 0.0 {
            // The table shades the foot of the wall a little.
            let foot = 1.0 - 0.35 * smoothstep(EDGE - 0.2, EDGE, at.down);
            return self.room(at).map(|value| value * foot);
        }
        if wood_share >= 1.0 {
            return self.wood(at);
        }
        lerp3(self.room(at).map(|value| value * 0.65), self.wood(at), wood_share)
    }
}
