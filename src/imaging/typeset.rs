//! A phrase set in white: shaped, wrapped, shrunk until all of it is on the canvas.
//!
//! The rule (pipeline, step 2): 160 px type at 1024, scaled with the canvas's smaller side, ink from 100 px down,
//! horizontally centred. Lines break at words while type stays readable, then anywhere. No ink is ever cut off: the ink's
//! true box is measured, not the line box. Called by both engines for the text canvas; knows no look.

use std::sync::Arc;

use cosmic_text::fontdb::{Database, Weight};
use cosmic_text::{
    Align, Attrs, Buffer, CacheKey, CacheKeyFlags, Family, FontSystem, Metrics, Shaping, SwashCache,
    SwashContent, SwashImage, Wrap,
};
use image::GrayImage;
use unicode_normalization::UnicodeNormalization;
use unicode_segmentation::UnicodeSegmentation;

use super::fonts::{Face, FontError, FontLibrary, is_invisible};

/// Type size at 1024 px.
pub const TYPE_SIZE: f32 = 160.0;
/// Distance of the ink from the top at 1024 px; also kept free at the bottom.
pub const TOP_MARGIN: f32 = 100.0;
/// Free at each side at 1024 px: room for depth and glow.
const SIDE_MARGIN: f32 = 56.0;
/// Below this size at 1024 px, breaking words is better than shrinking on.
const READABLE_SIZE: f32 = 44.0;
const LINE_HEIGHT: f32 = 1.16;
/// A phrase that needs smaller type than this is not a phrase.
const SMALLEST_SIZE: f32 = 1.5;

/// Why a phrase cannot be set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TypesetError {
    /// No font for it.
    #[error(transparent)]
    Font(#[from] FontError),
    /// Too much of it.
    #[error(
        "text_content has {characters} characters on {lines} lines, which does not fit a {width} x {height} image at any size: shorten it"
    )]
    TooLong {
        /// User-perceived characters.
        characters: usize,
        /// Line breaks in the phrase, plus one.
        lines: usize,
        /// Canvas.
        width: u32,
        /// Canvas.
        height: u32,
    },
    /// Nothing to draw.
    #[error("text_content has no visible character")]
    Invisible,
}

/// A phrase on its canvas.
#[derive(Debug, Clone)]
pub struct Typeset {
    /// White on black, the size of the canvas; the value is the coverage.
    pub canvas: GrayImage,
    /// Type size in pixels.
    pub size: f32,
    /// Lines after wrapping.
    pub lines: usize,
    /// Sum of the coverage of every glyph before it met the canvas; what is cut off is missing from the canvas.
    pub ink: u64,
    /// Families used, the first for the first character.
    pub families: Vec<String>,
    /// What the customer should know: a font that lacked glyphs.
    pub warnings: Vec<String>,
}

/// Sets `text` in the font named `font_name` on a canvas.
///
/// # Errors
/// [`TypesetError`]; nothing is ever drawn incompletely.
pub fn typeset(
    fonts: &FontLibrary,
    text: &str,
    font_name: Option<&str>,
    width: u32,
    height: u32,
) -> Result<Typeset, TypesetError> {
    let text = clean(text);
    let clusters: Vec<&str> = text.graphemes(true).collect();
    if clusters.iter().all(|cluster| cluster.chars().all(is_invisible)) {
        return Err(TypesetError::Invisible);
    }
    let (faces, owners) = fonts.assign(&clusters, font_name)?;
    let mut setter = Setter::new(&faces, &clusters, &owners);
    let unit = width.min(height) as f32 / 1024.0;
    let room = Room {
        width: width as f32 - 2.0 * SIDE_MARGIN * unit,
        height: height as f32 - 2.0 * TOP_MARGIN * unit,
        top: (TOP_MARGIN * unit).round() as i32,
    };
    let too_long = || TypesetError::TooLong {
        characters: clusters.len(),
        lines: text.split('\n').count(),
        width,
        height,
    };
    let mut size = setter.largest_fit(&room, TYPE_SIZE * unit, READABLE_SIZE * unit).ok_or_else(too_long)?;
    // Ink can be wider or taller than its line box (swashes, stacked marks): shrink until the ink itself fits.
    let block = loop {
        setter.balance(&room, size);
        let block = setter.draw();
        if block.width as f32 <= room.width + SIDE_MARGIN * unit && block.height as f32 <= room.height {
            break block;
        }
        size *= 0.94;
        if size < SMALLEST_SIZE {
            return Err(too_long());
        }
    };
    let left = (width as i32 - block.width as i32) / 2;
    let mut canvas = GrayImage::new(width, height);
    for (y, row) in block.rows().enumerate() {
        let start = (room.top as usize + y) * width as usize + left as usize;
        canvas.as_mut()[start..start + row.len()].copy_from_slice(row);
    }
    let mut warnings = Vec::new();
    if let (Some(asked), true) = (font_name, faces.len() > 1) {
        let others: Vec<&str> = faces[1..].iter().map(|face| face.family.as_str()).collect();
        warnings.push(format!(
            "font {asked:?} lacks some characters of the phrase; they are set in {}",
            others.join(", ")
        ));
    }
    Ok(Typeset {
        canvas,
        size,
        lines: setter.lines(),
        ink: block.ink,
        families: faces.iter().map(|face| face.family.clone()).collect(),
        warnings,
    })
}

/// Composed, with tabs as spaces, one kind of line break, and no other control characters; outer blank lines and blanks go.
fn clean(text: &str) -> String {
    let text: String = text
        .replace("\r\n", "\n")
        .nfc()
        .map(|c| match c {
            '\r' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}' => '\n',
            '\t' => ' ',
            other => other,
        })
        .filter(|&c| c == '\n' || !c.is_control())
        .collect();
    let lines: Vec<&str> = text.trim().lines().map(str::trim_end).collect();
    lines.join("\n")
}

struct Room {
    width: f32,
    height: f32,
    top: i32,
}

/// The ink of all glyphs in a box just large enough.
struct Block {
    width: usize,
    height: usize,
    coverage: Vec<u8>,
    ink: u64,
}

impl Block {
    fn rows(&self) -> impl Iterator<Item = &[u8]> {
        self.coverage.chunks_exact(self.width.max(1))
    }
}

/// A shaped phrase that can be laid out at any size.
struct Setter {
    fonts: FontSystem,
    buffer: Buffer,
}

impl Setter {
    fn new(faces: &[Arc<Face>], clusters: &[&str], owners: &[usize]) -> Self {
        // Fixed fonts ignore the weight asked for; variable ones become bold.
        let weight = Weight::BOLD;
        let family = |index: usize| format!("face {index}");
        let mut database = Database::new();
        for (index, face) in faces.iter().enumerate() {
            database.push_face_info(face.info_as(&family(index), weight));
        }
        // Only the assigned faces exist in this database, so that the shaper cannot fall back to any other; it and its
        // caches end with the phrase.
        let mut fonts = FontSystem::new_with_locale_and_db("en-US".to_owned(), database);
        let mut buffer = Buffer::new(&mut fonts, Metrics::new(100.0, 100.0 * LINE_HEIGHT));
        let names: Vec<String> = (0..faces.len()).map(family).collect();
        let attrs: Vec<Attrs> = names
            .iter()
            .map(|name| {
                Attrs::new()
                    .family(Family::Name(name))
                    .weight(weight)
                    .cache_key_flags(CacheKeyFlags::DISABLE_HINTING)
            })
            .collect();
        let mut spans: Vec<(String, usize)> = Vec::new();
        for (cluster, &owner) in clusters.iter().zip(owners) {
            match spans.last_mut() {
                Some((text, last)) if *last == owner => text.push_str(cluster),
                _ => spans.push(((*cluster).to_owned(), owner)),
            }
        }
        buffer.set_rich_text(
            spans.iter().map(|(text, owner)| (text.as_str(), attrs[*owner].clone())),
            &attrs[0],
            Shaping::Advanced,
            Some(Align::Center),
        );
        Self { fonts, buffer }
    }

    /// Lays out and tells width and height in pixels and the number of lines.
    fn measure(&mut self, size: f32, width: f32, wrap: Wrap) -> (f32, f32, usize) {
        self.buffer.set_wrap(wrap);
        self.buffer.set_metrics_and_size(Metrics::new(size, size * LINE_HEIGHT), Some(width), None);
        self.buffer.shape_until_scroll(&mut self.fonts, false);
        let widest = self.buffer.layout_runs().map(|run| run.line_w).fold(0.0, f32::max);
        let lines = self.lines();
        (widest, lines as f32 * size * LINE_HEIGHT, lines)
    }

    fn lines(&self) -> usize {
        self.buffer.layout_runs().count()
    }

    fn fits(&mut self, room: &Room, size: f32, wrap: Wrap) -> bool {
        let (width, height, _) = self.measure(size, room.width, wrap);
        width <= room.width && height <= room.height
    }

    /// The largest size at which the phrase fits: whole words down to `readable`, then broken ones.
    fn largest_fit(&mut self, room: &Room, largest: f32, readable: f32) -> Option<f32> {
        for (wrap, low, high) in
            [(Wrap::Word, readable, largest), (Wrap::WordOrGlyph, SMALLEST_SIZE, readable)]
        {
            if self.fits(room, high, wrap) {
                return Some(high);
            }
            let (mut low, mut high) = (low, high);
            if low > high || !self.fits(room, low, wrap) {
                continue;
            }
            // To half a per cent: finer differences cannot be seen.
            while high / low > 1.005 {
                let middle = f32::midpoint(low, high);
                if self.fits(room, middle, wrap) {
                    low = middle;
                } else {
                    high = middle;
                }
            }
            // The last measure may have been of a size that does not fit.
            self.fits(room, low, wrap);
            return Some(low);
        }
        None
    }

    /// Narrows the lines as far as their number allows, so that no short last line is left over.
    fn balance(&mut self, room: &Room, size: f32) {
        let wrap = self.buffer.wrap();
        let (_, _, lines) = self.measure(size, room.width, wrap);
        if lines < 2 || wrap != Wrap::Word {
            return;
        }
        let (mut low, mut high) = (0.0, room.width);
        for _ in 0..8 {
            let middle = f32::midpoint(low, high);
            let (widest, _, count) = self.measure(size, middle, wrap);
            if count == lines && widest <= middle {
                high = middle;
            } else {
                low = middle;
            }
        }
        self.measure(size, high, wrap);
    }

    fn draw(&mut self) -> Block {
        let mut cache = SwashCache::new();
        let glyphs: Vec<(CacheKey, i32, i32)> = self
            .buffer
            .layout_runs()
            .flat_map(|run| {
                run.glyphs.iter().map(move |glyph| {
                    let physical = glyph.physical((0.0, run.line_y), 1.0);
                    (physical.cache_key, physical.x, physical.y)
                })
            })
            .collect();
        let mut images: Vec<(SwashImage, i32, i32)> = Vec::with_capacity(glyphs.len());
        for (key, x, y) in glyphs {
            let Some(image) = cache.get_image_uncached(&mut self.fonts, key) else { continue };
            let (left, top) = (x + image.placement.left, y - image.placement.top);
            if image.content == SwashContent::Mask && image.placement.width > 0 && image.placement.height > 0
            {
                images.push((image, left, top));
            }
        }
        let right = |(image, left, _): &(SwashImage, i32, i32)| left + image.placement.width as i32;
        let bottom = |(image, _, top): &(SwashImage, i32, i32)| top + image.placement.height as i32;
        let x0 = images.iter().map(|glyph| glyph.1).min().unwrap_or(0);
        let y0 = images.iter().map(|glyph| glyph.2).min().unwrap_or(0);
        let width = (images.iter().map(right).max().unwrap_or(0) - x0).max(0) as usize;
        let height = (images.iter().map(bottom).max().unwrap_or(0) - y0).max(0) as usize;
        let mut coverage = vec![0_u8; width * height];
        for (image, left, top) in &images {
            let glyph_width = image.placement.width as usize;
            for (row, values) in image.data.chunks_exact(glyph_width).enumerate() {
                let start = ((top - y0) as usize + row) * width + (left - x0) as usize;
                for (out, &value) in coverage[start..start + glyph_width].iter_mut().zip(values) {
                    *out = (*out).max(value);
                }
            }
        }
        let ink = coverage.iter().map(|&v| u64::from(v)).sum();
        Block { width, height, coverage, ink }
    }
}
