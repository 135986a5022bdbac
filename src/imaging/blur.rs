//! Separable smoothing and growing of single-channel maps: shadows, soft margins, glows.
//!
//! A Gaussian is approximated by three box blurs (its cost does not depend on the radius); borders repeat their last pixel.

use image::GrayImage;

/// A float plane, row by row, for maps whose steps would show at 8 bit.
#[derive(Debug, Clone, PartialEq)]
pub struct Plane {
    /// Pixels a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `width * height` values.
    pub values: Vec<f32>,
}

impl Plane {
    /// All `value`.
    pub fn filled(width: usize, height: usize, value: f32) -> Self {
        Self { width, height, values: vec![value; width * height] }
    }

    /// 0..=1 from bytes.
    pub fn from_gray(image: &GrayImage) -> Self {
        let values = image.iter().map(|&v| f32::from(v) / 255.0).collect();
        Self { width: image.width() as usize, height: image.height() as usize, values }
    }

    /// Bytes from 0..=1, rounded and clipped.
    pub fn to_gray(&self) -> GrayImage {
        let bytes = self.values.iter().map(|v| (v.clamp(0.0, 1.0) * 255.0 + 0.5) as u8).collect();
        GrayImage::from_raw(self.width as u32, self.height as u32, bytes).unwrap_or_default()
    }

    /// The value at a point, borders repeated.
    pub fn at(&self, x: i64, y: i64) -> f32 {
        let x = x.clamp(0, self.width as i64 - 1) as usize;
        let y = y.clamp(0, self.height as i64 - 1) as usize;
        self.values[y * self.width + x]
    }

    /// Blurs with about the given standard deviation in pixels.
    #[must_use]
    pub fn blurred(mut self, sigma: f32) -> Self {
        if self.values.is_empty() {
            return self;
        }
        for radius in box_radii(sigma) {
            self.box_rows(radius);
            self.box_columns(radius);
        }
        self
    }

    fn box_rows(&mut self, radius: usize) {
        if radius == 0 {
            return;
        }
        let scale = 1.0 / (2 * radius + 1) as f32;
        let width = self.width;
        let mut padded = vec![0.0; width + 2 * radius + 1];
        for row in self.values.chunks_exact_mut(width) {
            padded[..=radius].fill(row[0]);
            padded[radius + 1..=radius + width].copy_from_slice(row);
            padded[radius + width + 1..].fill(row[width - 1]);
            let mut sum: f32 = padded[..=2 * radius].iter().sum();
            for (x, value) in row.iter_mut().enumerate() {
                sum += padded[x + 2 * radius + 1] - padded[x];
                *value = sum * scale;
            }
        }
    }

    fn box_columns(&mut self, radius: usize) {
        if radius == 0 {
            return;
        }
        let (width, height) = (self.width, self.height);
        let scale = 1.0 / (2 * radius + 1) as f32;
        let source = self.values.clone();
        let row = |y: i64| {
            let y = y.clamp(0, height as i64 - 1) as usize;
            &source[y * width..(y + 1) * width]
        };
        let radius = radius as i64;
        let mut sums = vec![0.0; width];
        for y in -radius - 1..radius {
            for (sum, value) in sums.iter_mut().zip(row(y)) {
                *sum += value;
            }
        }
        for (y, out) in self.values.chunks_exact_mut(width).enumerate() {
            let (entering, leaving) = (row(y as i64 + radius), row(y as i64 - radius - 1));
            for (((sum, value), entering), leaving) in sums.iter_mut().zip(out).zip(entering).zip(leaving) {
                *sum += entering - leaving;
                *value = *sum * scale;
            }
        }
    }
}

/// Radii of three boxes whose variances add up to `sigma` squared, as near as whole pixels allow.
fn box_radii(sigma: f32) -> [usize; 3] {
    let ideal = (4.0 * sigma * sigma + 1.0).sqrt();
    let small = (((ideal - 1.0) / 2.0).floor() as usize).min(4096);
    let width = (2 * small + 1) as f32;
    let wide =
        ((12.0 * sigma * sigma - 3.0 * width * width - 12.0 * width - 9.0) / (-4.0 * width - 4.0)).round();
    std::array::from_fn(|i| if (i as f32) < wide { small } else { small + 1 })
}

/// Blurs a byte map.
pub fn blur(image: &GrayImage, sigma: f32) -> GrayImage {
    Plane::from_gray(image).blurred(sigma).to_gray()
}

/// Each pixel becomes the greatest within a square of `radius` pixels around it.
pub fn dilate(image: &GrayImage, radius: u32) -> GrayImage {
    let (width, height) = (image.width() as usize, image.height() as usize);
    if radius == 0 || width == 0 || height == 0 {
        return image.clone();
    }
    let radius = radius as usize;
    let mut out = image.as_raw().clone();
    let mut scratch = vec![0; width.max(height)];
    for row in out.chunks_exact_mut(width) {
        scratch[..width].copy_from_slice(row);
        sliding_max(&scratch[..width], radius, row);
    }
    // Columns by doubling whole rows: the window of 2^k rows from two of 2^(k-1).
    let mut span = 1;
    let full = 2 * radius + 1;
    // `rows[y]` covers y - radius .. y + radius once the window is complete and shifted back.
    let mut rows = vec![0; width * (height + 2 * radius)];
    rows[radius * width..(radius + height) * width].copy_from_slice(&out);
    while span < full {
        let step = span.min(full - span);
        for y in 0..height + 2 * radius {
            let (head, tail) = rows.split_at_mut((y + 1) * width);
            let Some(other) = tail.get((step - 1) * width..step * width) else { break };
            for (value, &other) in head[y * width..].iter_mut().zip(other) {
                *value = (*value).max(other);
            }
        }
        span += step;
    }
    rows.truncate(width * height);
    GrayImage::from_raw(image.width(), image.height(), rows).unwrap_or_default()
}

/// Greatest of the `2 * radius + 1` neighbours, by doubling.
fn sliding_max(source: &[u8], radius: usize, out: &mut [u8]) {
    let mut padded = vec![0; source.len() + 2 * radius];
    padded[radius..radius + source.len()].copy_from_slice(source);
    let (mut span, full) = (1, 2 * radius + 1);
    while span < full {
        let step = span.min(full - span);
        for x in 0..padded.len() - step {
            padded[x] = padded[x].max(padded[x + step]);
        }
        span += step;
    }
    out.copy_from_slice(&padded[..out.len()]);
}
