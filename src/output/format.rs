//! What the rest of the output needs to know of a picture's format. The encoders are [`crate::imaging::codecs`].

use image::DynamicImage;

use crate::input::plan::OutputFormat;

/// File extension and name in the answer.
pub fn extension(format: OutputFormat) -> &'static str {
    match format {
        OutputFormat::Png => "png",
        OutputFormat::Jpeg => "jpeg",
        OutputFormat::WebP => "webp",
    }
}

/// Media type of a file.
pub fn media_type(format: OutputFormat) -> &'static str {
    match format {
        OutputFormat::Png => "image/png",
        OutputFormat::Jpeg => "image/jpeg",
        OutputFormat::WebP => "image/webp",
    }
}

/// The format that can hold `image`: `wanted`, or PNG where something would be lost.
pub fn holding(image: &DynamicImage, wanted: OutputFormat) -> OutputFormat {
    if wanted == OutputFormat::Jpeg && is_transparent(image) { OutputFormat::Png } else { wanted }
}

/// Whether any pixel lets something shine through.
pub fn is_transparent(image: &DynamicImage) -> bool {
    match image {
        DynamicImage::ImageRgba8(rgba) => rgba.pixels().any(|pixel| pixel.0[3] < 255),
        other => other.color().has_alpha() && other.to_rgba8().pixels().any(|pixel| pixel.0[3] < 255),
    }
}
