//! Picture files made by hand, down to the byte where an encoder would not make them.

use std::io::Cursor;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::{DynamicImage, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage};

pub(super) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

pub(super) fn written(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    image.write_to(&mut file, format).unwrap();
    file.into_inner()
}

/// Red on the left, blue on the right.
pub(super) fn two_halves(width: u32, height: u32) -> DynamicImage {
    RgbImage::from_fn(width, height, |x, _| if x < width / 2 { Rgb([255, 0, 0]) } else { Rgb([0, 0, 255]) })
        .into()
}

pub(super) fn half_transparent(width: u32, height: u32) -> DynamicImage {
    RgbaImage::from_fn(width, height, |x, _| Rgba([10, 20, 30, if x < width / 2 { 0 } else { 255 }])).into()
}

pub(super) fn png(width: u32, height: u32) -> String {
    base64(&written(&two_halves(width, height), ImageFormat::Png))
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { (c >> 1) ^ 0xedb8_8320 } else { c >> 1 })
    })
}

fn chunk(kind: [u8; 4], data: &[u8]) -> Vec<u8> {
    let body = [&kind[..], data].concat();
    [&(data.len() as u32).to_be_bytes(), body.as_slice(), &crc32(&body).to_be_bytes()].concat()
}

/// A zlib stream with one stored block.
fn zlib(raw: &[u8]) -> Vec<u8> {
    let (a, b) = raw.iter().fold((1u32, 0u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65521;
        (a, (b + a) % 65521)
    });
    let length = raw.len() as u16;
    [&[0x78, 1, 1], &length.to_le_bytes()[..], &(!length).to_le_bytes(), raw, &(b << 16 | a).to_be_bytes()]
        .concat()
}

/// A PNG from its parts; `extra` goes between header and data.
pub(super) fn raw_png(width: u32, height: u32, depth: u8, color: u8, extra: &[u8], rows: &[u8]) -> Vec<u8> {
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[depth, color, 0, 0, 0]].concat();
    [
        b"\x89PNG\r\n\x1a\n".to_vec(),
        chunk(*b"IHDR", &header),
        extra.to_vec(),
        chunk(*b"IDAT", &zlib(rows)),
        chunk(*b"IEND", &[]),
    ]
    .concat()
}

/// Palette of green and yellow, two pixels: one each.
pub(super) fn palette_png() -> Vec<u8> {
    raw_png(2, 1, 8, 3, &chunk(*b"PLTE", &[0, 255, 0, 255, 255, 0]), &[0, 0, 1])
}

/// One red frame, announced as two.
pub(super) fn animated_png() -> Vec<u8> {
    let control = [&2u32.to_be_bytes()[..], &0u32.to_be_bytes()].concat();
    let frame =
        [&0u32.to_be_bytes()[..], &1u32.to_be_bytes(), &1u32.to_be_bytes(), &[0; 8], &[0, 1, 0, 10, 0, 0]]
            .concat();
    raw_png(1, 1, 8, 2, &[chunk(*b"acTL", &control), chunk(*b"fcTL", &frame)].concat(), &[0, 255, 0, 0])
}

/// One VP8L frame in the container of an animation.
pub(super) fn animated_webp() -> Vec<u8> {
    let still = written(&two_halves(8, 8), ImageFormat::WebP);
    let chunk = |kind: &[u8; 4], data: &[u8]| {
        let mut all = [kind.as_slice(), &(data.len() as u32).to_le_bytes(), data].concat();
        all.resize(all.len().next_multiple_of(2), 0);
        all
    };
    let extended = [2, 0, 0, 0, 7, 0, 0, 7, 0, 0];
    let frame_header = [0, 0, 0, 0, 0, 0, 7, 0, 0, 7, 0, 0, 100, 0, 0, 0];
    // The still file is RIFF, size, WEBP and then the picture's own chunk.
    let frame = [frame_header.as_slice(), &still[12..]].concat();
    let body = [b"WEBP".to_vec(), chunk(b"VP8X", &extended), chunk(b"ANIM", &[0; 6]), chunk(b"ANMF", &frame)]
        .concat();
    [b"RIFF".as_slice(), &(body.len() as u32).to_le_bytes(), &body].concat()
}

/// A JPEG whose EXIF block says that it must be turned by 90 degrees clockwise.
pub(super) fn turned_jpeg() -> Vec<u8> {
    let plain = written(&two_halves(32, 16), ImageFormat::Jpeg);
    let tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let block = [b"Exif\0\0".as_slice(), tiff].concat();
    let marker = [&[0xff, 0xe1][..], &((block.len() + 2) as u16).to_be_bytes(), &block].concat();
    [&plain[..2], &marker, &plain[2..]].concat()
}

/// 8 x 8 pixels of pure red in Adobe's inverted CMYK: one DC coefficient for each of four components.
pub(super) fn cmyk_jpeg() -> Vec<u8> {
    let adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00";
    let quantisation = [&[0xff, 0xdb, 0, 67, 0][..], &[8; 64]].concat();
    let frame = [0xff, 0xc0, 0, 20, 8, 0, 8, 0, 8, 4, 1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0, 4, 0x11, 0];
    // DC: `00` is category 0, `01` is category 7. AC: `0` ends the block.
    let dc = [&[0xff, 0xc4, 0, 21, 0x00, 0, 2][..], &[0; 14], &[0, 7]].concat();
    let ac = [&[0xff, 0xc4, 0, 20, 0x10, 1][..], &[0; 15], &[0]].concat();
    let scan = [0xff, 0xda, 0, 14, 4, 1, 0, 2, 0, 3, 0, 4, 0, 0, 63, 0];
    // 255, 1, 1, 255: no cyan, full magenta and yellow, no black.
    let data = [0x7f, 0x90, 0x04, 0x01, 0xfe];
    [&[0xff, 0xd8][..], adobe, &quantisation, &frame, &dc, &ac, &scan, &data, &[0xff, 0xd9]].concat()
}
