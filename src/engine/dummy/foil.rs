//! A phrase as an inflated metal-foil object.
//!
//! The glyphs are blown up like a membrane under even pressure (Poisson's equation with the outline held down), which
//! gives a cushion without ridges at any stroke width; its normals mirror a procedural studio, tinted by the material. Depth
//! is the outline drawn downwards. All in f32 sums, products and square roots: the same bits on every machine.

use image::{GrayImage, RgbaImage};

use super::noise::{Noise, lerp, lerp3, smoothstep};
use crate::imaging::blur::Plane;
use crate::imaging::masks::bounds;
use crate::imaging::resample::{Filter, resize_gray};
use crate::imaging::srgb::Srgb;
use crate::imaging::typeset::Typeset;

/// Colour of a metal in linear light, and how it mirrors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Material {
    /// Reflectance seen head on.
    tint: [f32; 3],
    /// Share of light scattered rather than mirrored: 0 chrome, 1 matt.
    softness: f32,
}

impl Material {
    /// The first material that the prompt names; gold without one.
    pub fn from_prompt(prompt: &str) -> Self {
        const METALS: &[(&[&str], [f32; 3], f32)] = &[
            (&["silver", "chrome", "steel", "platinum", "은색", "실버", "크롬"], [0.88, 0.90, 0.93], 0.06),
            (&["rose gold", "rosegold", "로즈골드"], [0.96, 0.56, 0.44], 0.10),
            (&["copper", "bronze", "구리", "브론즈"], [0.92, 0.42, 0.20], 0.10),
            (&["pink", "rose", "핑크", "분홍"], [0.96, 0.22, 0.42], 0.28),
            (&["red", "ruby", "빨간", "빨강"], [0.84, 0.035, 0.05], 0.28),
            (&["blue", "sapphire", "ice", "파란", "파랑"], [0.06, 0.26, 0.88], 0.28),
            (&["green", "emerald", "초록"], [0.04, 0.52, 0.20], 0.28),
            (&["purple", "violet", "보라"], [0.34, 0.09, 0.70], 0.28),
            (&["orange", "coral", "주황"], [0.95, 0.25, 0.04], 0.28),
            (&["black", "obsidian", "검은", "블랙"], [0.07, 0.07, 0.085], 0.05),
            (&["white", "pearl", "ivory", "milk", "흰", "화이트"], [0.94, 0.92, 0.88], 0.55),
        ];
        let prompt = prompt.to_lowercase();
        // Prompts say "isolated on black": what follows `on` is the ground.
        let prompt = prompt.replace("on black", "").replace("on white", "").replace("black background", "");
        let words: Vec<&str> = prompt.split(|c: char| !c.is_alphanumeric()).collect();
        let named = |name: &&str| {
            if name.is_ascii() && !name.contains(' ') { words.contains(name) } else { prompt.contains(name) }
        };
        if ["gold", "golden", "금색", "골드"].iter().any(named)
            && !["rose gold", "로즈골드"].iter().any(named)
        {
            return Self::GOLD;
        }
        let found = METALS.iter().find(|(names, ..)| names.iter().any(named));
        found.map_or(Self::GOLD, |&(_, tint, softness)| Self { tint, softness })
    }

    const GOLD: Self = Self { tint: [1.0, 0.66, 0.20], softness: 0.10 };
}

/// Depth of the object as a share of the type size.
const DEPTH: f32 = 0.085;
/// Type size on the grid where the membrane is solved: strokes are then about ten cells wide and sweeps few.
const SOLVER_SIZE: f32 = 72.0;
const SWEEPS: usize = 40;
/// Over-relaxation, near the best factor for strokes of this width on that grid.
const RELAXATION: f32 = 1.66;

/// The object on a transparent ground, the size of the canvas.
///
/// `edges` is the canvas's edge map: as for the net, it says where the outline runs, and the seam is drawn there.
pub fn render(set: &Typeset, edges: &GrayImage, material: Material, seed: u64) -> RgbaImage {
    let canvas = &set.canvas;
    let mut out = RgbaImage::new(canvas.width(), canvas.height());
    let Some(ink) = bounds(canvas, 1) else { return out };
    let depth = ((set.size * DEPTH).round() as u32).max(1);
    let pad = 3;
    let (x0, y0) = (ink.x0.saturating_sub(pad), ink.y0.saturating_sub(pad));
    let (x1, y1) = ((ink.x1 + pad).min(canvas.width()), (ink.y1 + pad + depth).min(canvas.height()));
    let crop = |image: &GrayImage| image::imageops::crop_imm(image, x0, y0, x1 - x0, y1 - y0).to_image();
    let face = crop(canvas);
    let seam = Plane::from_gray(&crop(edges)).blurred(set.size * 0.008);
    let (width, height) = (face.width() as usize, face.height() as usize);

    let reduction = (set.size / SOLVER_SIZE).max(1.0);
    let membrane = inflate(&face, reduction);
    let noise = Noise::new(seed, 21);
    let light = Studio { material, noise };
    let srgb = Srgb::new();
    let side = sides(&face, depth as usize);
    let crease_scale = 9.0 / set.size;

    for y in 0..height {
        for x in 0..width {
            let at = y * width + x;
            let cover = f32::from(face.as_raw()[at]) / 255.0;
            let (side_cover, fall) = side[at];
            if cover <= 0.0 && side_cover <= 0.0 {
                continue;
            }
            let mut colour = [0.0; 3];
            if cover > 0.0 {
                let (normal, height) = membrane.normal(x as f32, y as f32);
                let place = [x as f32 * crease_scale, y as f32 * crease_scale];
                let seam = seam.values[at] * smoothstep(0.9, 0.2, height);
                colour = light.face(normal, place, seam);
            }
            if cover < 1.0 {
                let along = x as f32 * crease_scale;
                let wall = light.wall(fall, along);
                colour = lerp3(wall, colour, cover);
            }
            let alpha = cover + (1.0 - cover) * side_cover;
            let [r, g, b] = srgb.bytes3(colour);
            out.put_pixel(x0 + x as u32, y0 + y as u32, image::Rgba([r, g, b, (alpha * 255.0 + 0.5) as u8]));
        }
    }
    out
}

/// Coverage of the drawn-down outline at each pixel, and how far below the face it lies (0 at the face, 1 at the back).
fn sides(face: &GrayImage, depth: usize) -> Vec<(f32, f32)> {
    let (width, height) = (face.width() as usize, face.height() as usize);
    let pixels = face.as_raw();
    let mut out = vec![(0.0, 0.0); width * height];
    for x in 0..width {
        for y in 0..height {
            let mut best = 0;
            let mut nearest = depth;
            // The nearest covered pixel above decides the shade, the strongest the coverage.
            for step in 0..=depth.min(y) {
                let value = pixels[(y - step) * width + x];
                if value > best {
                    if best < 128 {
                        nearest = step;
                    }
                    best = value;
                    if best == 255 {
                        break;
                    }
                }
            }
            out[y * width + x] = (f32::from(best) / 255.0, nearest as f32 / depth as f32);
        }
    }
    out
}

/// A solved membrane on a reduced grid.
struct Membrane {
    plane: Plane,
    reduction: f32,
    /// Height of the fullest stroke, to tell seam from crown.
    crown: f32,
}

/// Solves lap(u) = -1 inside the glyphs, u = 0 outside, by over-relaxed sweeps in chequerboard order. Across a stroke of
/// half width r this is (r² - x²)/2, so sqrt(2u) is a half circle.
fn inflate(face: &GrayImage, reduction: f32) -> Membrane {
    let reduce = |length: u32| ((length as f32 / reduction).round() as u32).max(3);
    let (width, height) = (reduce(face.width()), reduce(face.height()));
    let small = resize_gray(face, width, height, Filter::Bilinear);
    let (columns, rows) = (width as usize, height as usize);
    let inside: Vec<bool> = small.iter().map(|&v| v > 96).collect();
    let mut u = vec![0.0_f32; columns * rows];
    for sweep in 0..SWEEPS * 2 {
        for y in 1..rows - 1 {
            let first = 1 + (y + sweep) % 2;
            for x in (first..columns - 1).step_by(2) {
                let at = y * columns + x;
                if inside[at] {
                    let around = u[at - 1] + u[at + 1] + u[at - columns] + u[at + columns];
                    u[at] += RELAXATION * ((around + 1.0) * 0.25 - u[at]);
                }
            }
        }
    }
    let plane = Plane { width: columns, height: rows, values: u }.blurred(0.8);
    let crown = plane.values.iter().fold(0.0_f32, |a, &b| a.max(b));
    Membrane { plane, reduction, crown: (2.0 * crown).sqrt().max(0.5) }
}

impl Membrane {
    /// The membrane between grid points, by bilinear weights.
    fn sample(&self, x: f32, y: f32) -> f32 {
        let (fx, fy) = (x.floor(), y.floor());
        let (tx, ty) = (x - fx, y - fy);
        let (ix, iy) = (fx as i64, fy as i64);
        let top = lerp(self.plane.at(ix, iy), self.plane.at(ix + 1, iy), tx);
        let bottom = lerp(self.plane.at(ix, iy + 1), self.plane.at(ix + 1, iy + 1), tx);
        lerp(top, bottom, ty)
    }

    /// Unit normal (x right, y down, z to the viewer) and height relative to the crown at a full-size pixel.
    fn normal(&self, x: f32, y: f32) -> ([f32; 3], f32) {
        let (gx, gy) = ((x + 0.5) / self.reduction - 0.5, (y + 0.5) / self.reduction - 0.5);
        let dx = (self.sample(gx + 0.75, gy) - self.sample(gx - 0.75, gy)) / 1.5;
        let dy = (self.sample(gx, gy + 0.75) - self.sample(gx, gy - 0.75)) / 1.5;
        let height = (2.0 * self.sample(gx, gy) + 0.35).sqrt();
        // d sqrt(2u) = du / sqrt(2u); the constant keeps the rim from standing upright.
        let normal = unit([-dx / height, -dy / height, 0.72]);
        (normal, (height / self.crown).min(1.0))
    }
}

fn unit(v: [f32; 3]) -> [f32; 3] {
    let length = (v[0] * v[0] + v[1] * v[1] + v[2] * v[2]).sqrt();
    v.map(|value| value / length)
}

fn dot(a: [f32; 3], b: [f32; 3]) -> f32 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

/// Mirrored light from a direction: a softbox above, a strip at each side, a bright floor, darkness between.
fn environment([x, y, z]: [f32; 3]) -> f32 {
    let up = -y;
    let softbox = smoothstep(0.22, 0.42, up) * smoothstep(1.02, 0.80, up) * smoothstep(-0.5, 0.2, z + 0.35);
    let strips =
        smoothstep(0.62, 0.80, x.abs()) * smoothstep(0.99, 0.90, x.abs()) * smoothstep(-0.4, 0.1, up + 0.3);
    let floor = smoothstep(-0.10, -0.62, up) * (0.55 + 0.45 * smoothstep(-0.95, -0.6, up));
    let horizon = smoothstep(0.26, 0.02, (up - 0.06).abs());
    // 0.30: straight back to the camera, the dim room itself.
    0.30 + 1.25 * softbox + 0.75 * strips + 0.34 * floor - 0.17 * horizon
}

/// The room that the metal mirrors.
struct Studio {
    material: Material,
    noise: Noise,
}

impl Studio {
    fn face(&self, normal: [f32; 3], place: [f32; 2], seam: f32) -> [f32; 3] {
        // Foil is never quite smooth: shallow dents, and puckers that fade from the seam inwards.
        let dent = |dx: f32, dy: f32| {
            self.noise.at(place[0] * 0.55 + dx, place[1] * 0.55 + dy) - 0.5
                + (self.noise.at(place[0] * 1.7 + dx + 40.0, place[1] * 1.7 + dy) - 0.5) * 0.35
        };
        let pucker = (self.noise.at(place[0] * 3.4, place[1] * 3.4 + 80.0) - 0.5) * (1.0 - normal[2]);
        let normal = unit([
            normal[0] + dent(0.0, 0.0) * 0.20 + pucker * 0.34,
            normal[1] + dent(19.0, 7.0) * 0.20 - pucker * 0.26,
            normal[2],
        ]);
        let facing = normal[2].max(0.0);
        let mirror = [2.0 * facing * normal[0], 2.0 * facing * normal[1], 2.0 * facing * facing - 1.0];
        let sharp = environment(mirror);
        // Diffuse light from above left, for the matt share.
        let key = unit([-0.45, -0.72, 0.62]);
        let soft = 0.16 + 0.95 * dot(normal, key).max(0.0);
        let light = lerp(sharp, soft, self.material.softness);
        let half = dot(mirror, key).max(0.0);
        let glint = {
            let p2 = half * half;
            let p4 = p2 * p2;
            let p8 = p4 * p4;
            p8 * p8 * p8 * p4
        };
        let grazing = {
            let edge = 1.0 - facing;
            edge * edge * edge * edge * edge
        };
        // The rim sees its own surroundings less.
        let open = lerp(0.50, 1.0, smoothstep(0.10, 0.62, facing)) * (1.0 - 0.30 * seam);
        std::array::from_fn(|c| {
            let tint = lerp(self.material.tint[c], 1.0, grazing * 0.5);
            let lit = light * tint * open + glint * lerp(tint, 1.0, 0.75) * 1.5;
            shoulder(lit)
        })
    }

    /// The side of the object, `fall` 0 at the face and 1 at the back.
    fn wall(&self, fall: f32, along: f32) -> [f32; 3] {
        let ripple = 0.82 + 0.36 * self.noise.at(along * 1.2, 200.0);
        let bounce = smoothstep(0.55, 1.0, fall) * 0.16;
        let light = (lerp(0.26, 0.10, smoothstep(0.0, 0.6, fall)) + bounce) * ripple;
        self.material.tint.map(|tint| light * tint * lerp(tint, 1.0, 0.35))
    }
}

/// Highlights approach white instead of clipping hard.
fn shoulder(value: f32) -> f32 {
    if value < 0.7 { value } else { 0.7 + 0.3 * ((value - 0.7) / (value - 0.7 + 0.42)) }
}
