//! Pictures: what is accepted, what is refused, and that refusing costs nothing.

use image::{DynamicImage, ImageBuffer, ImageFormat, Luma, LumaA, Rgb};
use marquee::input::ErrorCode;
use marquee::input::images::{ImageCaps, Opened};
use serde_json::json;

use super::files::*;
use super::{accepted, plan, refused};

const CAPS: ImageCaps = ImageCaps { bytes: 1 << 20, pixels: 1_000_000 };

fn decoded(file: Vec<u8>) -> DynamicImage {
    Opened::from_bytes(file, CAPS).unwrap().decode().unwrap()
}

fn near(found: [u8; 3], wanted: [u8; 3]) -> bool {
    found.iter().zip(wanted).all(|(a, b)| a.abs_diff(b) <= 3)
}

#[test]
fn every_way_to_write_base64_is_read() {
    let plain = png(3, 5);
    let url_safe = plain.replace('+', "-").replace('/', "_");
    let broken = plain
        .as_bytes()
        .chunks(60)
        .map(|line| str::from_utf8(line).unwrap())
        .collect::<Vec<_>>()
        .join("\r\n");
    for text in [
        plain.clone(),
        plain.trim_end_matches('=').to_owned(),
        url_safe,
        broken,
        format!("data:image/png;base64,{plain}"),
        format!("  DATA:image/png;charset=utf-8;BASE64,{plain}\n"),
    ] {
        let made = accepted(&json!({ "product_image": text }));
        assert_eq!(made.parameters["product_image"], json!({ "width": 3, "height": 5, "format": "png" }));
        let image = made.background.unwrap().product.unwrap().image;
        assert_eq!(image, two_halves(3, 5));
    }
}

#[test]
fn text_that_is_no_picture_is_named() {
    let plain = png(3, 5);
    for (text, code, part) in [
        (String::new(), ErrorCode::BadBase64, "empty"),
        ("not base64!".to_owned(), ErrorCode::BadBase64, "base64"),
        ("https://example.com/a.png".to_owned(), ErrorCode::BadBase64, "not fetched"),
        (format!("data:image/png,{plain}"), ErrorCode::BadBase64, ";base64,"),
        ("data:".to_owned(), ErrorCode::BadBase64, ";base64,"),
        (base64(b"GIF89a...."), ErrorCode::UnsupportedImage, "GIF"),
        (base64(b"BM........"), ErrorCode::UnsupportedImage, "BMP"),
        (base64(b"II*\0......"), ErrorCode::UnsupportedImage, "TIFF"),
        (base64(b"\0\0\0\x18ftypheic"), ErrorCode::UnsupportedImage, "HEIC"),
        (base64(b"\0\0\0\x18ftypavif"), ErrorCode::UnsupportedImage, "AVIF"),
        (base64(b"<svg xmlns=''/>"), ErrorCode::UnsupportedImage, "SVG"),
        (base64(b"?"), ErrorCode::UnsupportedImage, "something else"),
        (base64(b"\x89PNG\r\n\x1a\n"), ErrorCode::BadImage, "truncated"),
        (base64(b"\xff\xd8\xff"), ErrorCode::BadImage, "JPEG"),
        (base64(b"RIFF\0\0\0\0WEBP"), ErrorCode::BadImage, "WebP"),
    ] {
        let (path, found, message) = refused(&json!({ "input_image": text }));
        assert_eq!((path.as_str(), found), ("$.input_image", code), "{text}: {message}");
        assert!(message.contains(part), "{text}: {message}");
    }
}

#[test]
fn caps_are_exact() {
    let file = written(&two_halves(40, 25), ImageFormat::Png);
    let caps = |bytes, pixels| ImageCaps { bytes, pixels };
    assert!(Opened::new(&base64(&file), caps(file.len(), 1000)).is_ok());
    let bytes = Opened::new(&base64(&file), caps(file.len() - 1, 1000)).unwrap_err();
    assert_eq!(bytes.code, ErrorCode::ImageTooLarge);
    assert!(bytes.message.contains(&file.len().to_string()), "{bytes}");
    let pixels = Opened::new(&base64(&file), caps(file.len(), 999)).unwrap_err();
    assert_eq!(pixels.code, ErrorCode::ImageTooLarge);
    assert!(pixels.message.contains("40 x 25 = 1000"), "{pixels}");
    // The length alone decides, before anything is decoded.
    let undecodable = format!("{}!!!!", "A".repeat(4000));
    assert_eq!(Opened::new(&undecodable, caps(3002, 1000)).unwrap_err().code, ErrorCode::ImageTooLarge);
    assert_eq!(Opened::new(&undecodable, caps(3003, 1000)).unwrap_err().code, ErrorCode::BadBase64);
    // Line breaks do not count.
    assert!(Opened::new(&base64(&file).replace('A', "\nA"), caps(file.len(), 1000)).is_ok());
}

#[test]
fn decompression_bomb_is_refused_by_its_header() {
    let bomb = raw_png(50_000, 50_000, 8, 2, &[], &[0; 900]);
    assert!(bomb.len() < 1024);
    // Without pixels in the file, an attempt to decode would be another error than this one.
    let (path, code, message) = refused(&json!({ "product_image": base64(&bomb) }));
    assert_eq!((path.as_str(), code), ("$.product_image", ErrorCode::ImageTooLarge));
    assert!(message.contains("50000 x 50000"), "{message}");
}

#[test]
fn truncated_files_are_named() {
    for (format, name) in
        [(ImageFormat::Png, "PNG"), (ImageFormat::Jpeg, "JPEG"), (ImageFormat::WebP, "WebP")]
    {
        let noise = ImageBuffer::from_fn(64, 64, |x, y| {
            Rgb([(x * 37 + y * 91) as u8, (x * y) as u8, (x * x + y * 13) as u8])
        });
        let whole = written(&DynamicImage::ImageRgb8(noise), format);
        let half = &whole[..whole.len() / 2];
        let (_, code, message) = refused(&json!({ "product_image": base64(half) }));
        assert_eq!(code, ErrorCode::BadImage, "{message}");
        assert!(message.contains(name), "{message}");
        assert!(message.contains("truncated") || format == ImageFormat::WebP, "{message}");
        accepted(&json!({ "product_image": base64(&whole) }));
    }
}

#[test]
fn orientation_is_honoured() {
    let upright = decoded(turned_jpeg()).into_rgb8();
    assert_eq!(upright.dimensions(), (16, 32));
    // The left half comes to the top.
    assert!(near(upright.get_pixel(8, 2).0, [254, 0, 0]), "{:?}", upright.get_pixel(8, 2));
    assert!(near(upright.get_pixel(8, 29).0, [0, 0, 254]), "{:?}", upright.get_pixel(8, 29));
    let echoed = accepted(&json!({ "product_image": base64(&turned_jpeg()) }));
    assert_eq!(echoed.parameters["product_image"], json!({ "width": 16, "height": 32, "format": "jpeg" }));
}

#[test]
fn every_pixel_type_becomes_eight_bits() {
    let gray = DynamicImage::ImageLuma8(ImageBuffer::from_pixel(2, 2, Luma([7])));
    assert_eq!(decoded(written(&gray, ImageFormat::Png)).into_rgb8().get_pixel(0, 0).0, [7, 7, 7]);
    let deep = DynamicImage::ImageRgb16(ImageBuffer::from_pixel(2, 2, Rgb([0x8080, 0, 0xffff])));
    assert_eq!(decoded(written(&deep, ImageFormat::Png)).into_rgb8().get_pixel(0, 0).0, [0x80, 0, 0xff]);
    let with_alpha = decoded(written(
        &DynamicImage::ImageLumaA8(ImageBuffer::from_pixel(2, 2, LumaA([9, 100]))),
        ImageFormat::Png,
    ));
    assert_eq!(with_alpha.as_rgba8().expect("alpha is kept").get_pixel(1, 1).0, [9, 9, 9, 100]);
    let palette = decoded(palette_png());
    assert_eq!(palette.as_rgb8().unwrap().get_pixel(1, 0).0, [255, 255, 0]);
    let cmyk = decoded(cmyk_jpeg()).into_rgb8();
    assert!(near(cmyk.get_pixel(4, 4).0, [255, 0, 0]), "{:?}", cmyk.get_pixel(4, 4));
    let webp = decoded(written(&half_transparent(4, 4), ImageFormat::WebP));
    assert_eq!(webp, half_transparent(4, 4));
}

#[test]
fn animations_give_their_first_frame_and_a_warning() {
    for file in [animated_png(), animated_webp()] {
        let made = accepted(&json!({ "product_image": base64(&file) }));
        assert!(made.warnings.iter().any(|w| w.contains("animated")), "{:?}", made.warnings);
        let image = made.background.unwrap().product.unwrap().image.into_rgb8();
        // Blending a frame onto its canvas may round.
        assert!(near(image.get_pixel(0, 0).0, [255, 0, 0]), "{:?}", image.get_pixel(0, 0));
    }
}

#[test]
fn results_of_earlier_steps_are_fitted() {
    let step2 = base64(&written(&half_transparent(64, 32), ImageFormat::Png));
    let made = accepted(
        &json!({ "start_step": 3, "step1_image": png(64, 64), "step2_image": step2, "width": 256, "height": 512 }),
    );
    assert_eq!(made.step1_image.as_ref().unwrap().dimensions(), (256, 512));
    let text = made.step2_image.unwrap();
    assert_eq!(text.dimensions(), (256, 512));
    assert_eq!((text.get_pixel(0, 0).0[3], text.get_pixel(255, 511).0[3]), (0, 255));
    assert_eq!(made.warnings.iter().filter(|w| w.contains("scaled")).count(), 2, "{:?}", made.warnings);
}

#[test]
fn a_transparent_background_is_laid_on_white_and_an_opaque_text_is_remarked_on() {
    let step1 = base64(&written(&half_transparent(256, 256), ImageFormat::Png));
    let made = accepted(&json!({
        "start_step": 3, "step1_image": step1, "step2_image": png(256, 256), "width": 256, "height": 256
    }));
    let background = made.step1_image.unwrap();
    assert_eq!((background.get_pixel(0, 0).0, background.get_pixel(255, 0).0), ([255; 3], [10, 20, 30]));
    assert_eq!(made.warnings.len(), 2, "{:?}", made.warnings);
}

#[test]
fn a_picture_without_use_is_not_decoded_but_still_checked() {
    let mut damaged = written(&two_halves(64, 64), ImageFormat::Png);
    let middle = damaged.len() - 20;
    damaged[middle] ^= 0xff;
    let unused = json!({ "step1_image": base64(&damaged) });
    assert!(accepted(&unused).warnings.iter().any(|w| w.contains("step1_image")));
    assert!(plan(&json!({ "product_image": base64(&damaged) })).is_err());
    assert_eq!(refused(&json!({ "step1_image": "?" })).0, "$.step1_image");
}
