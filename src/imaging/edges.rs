//! The edge map that ControlNet is conditioned on.
//!
//! Equals Pillow's `ImageFilter.FIND_EDGES` on mode `L`: a 3x3 kernel of -1 around 8, clipped to a byte; the outermost
//! rows and columns are copied unfiltered, as Pillow does.

use image::GrayImage;

/// Strength above which an edge counts (pipeline, step 2).
pub const EDGE_THRESHOLD: u8 = 30;

/// `FIND_EDGES` of a grey image.
pub fn find_edges(image: &GrayImage) -> GrayImage {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let mut out = image.clone();
    if width < 3 || height < 3 {
        return out;
    }
    let source = image.as_raw();
    for y in 1..height - 1 {
        let [above, row, below] = [y - 1, y, y + 1].map(|y| &source[y * width..(y + 1) * width]);
        let target = &mut out.as_mut()[y * width + 1..(y + 1) * width - 1];
        let columns = |row: &'_ [u8], x: usize| -> i32 { row[x..x + 3].iter().map(|&v| i32::from(v)).sum() };
        for (x, value) in target.iter_mut().enumerate() {
            let sum = columns(above, x) + columns(row, x) + columns(below, x);
            *value = (9 * i32::from(row[x + 1]) - sum).clamp(0, 255) as u8;
        }
    }
    out
}

/// White where `find_edges` exceeds [`EDGE_THRESHOLD`], black elsewhere.
pub fn edge_map(image: &GrayImage) -> GrayImage {
    let mut edges = find_edges(image);
    for value in edges.iter_mut() {
        *value = if *value > EDGE_THRESHOLD { 255 } else { 0 };
    }
    edges
}
