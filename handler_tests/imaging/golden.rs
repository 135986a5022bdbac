//! Resizing and edges equal Pillow's, byte for byte (`scripts/make_resize_golden.py`).

use image::{DynamicImage, GrayImage, RgbImage, RgbaImage};
use marquee::imaging::edges::{EDGE_THRESHOLD, edge_map, find_edges};
use marquee::imaging::resample::{Filter, resize};
use serde_json::Value;

/// The generator of the golden script.
fn pattern(count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed as u32;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let value = (state >> 24) as u8;
            match (state >> 8) & 7 {
                0 if value & 1 == 1 => 255,
                0 => 0,
                _ => value,
            }
        })
        .collect()
}

fn crc32(bytes: &[u8]) -> u64 {
    let crc = bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    });
    u64::from(!crc)
}

fn pair(value: &Value) -> (u32, u32) {
    (value[0].as_u64().unwrap() as u32, value[1].as_u64().unwrap() as u32)
}

fn agrees(case: &Value, found: &[u8]) {
    if let Some(hex) = case["bytes"].as_str() {
        let theirs: Vec<u8> =
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
        assert_eq!(found, theirs, "{case}");
    }
    assert_eq!(crc32(found), case["crc32"].as_u64().unwrap(), "{case}");
}

#[test]
fn resizing_equals_pillow_in_every_mode_and_filter() {
    let golden: Value = serde_json::from_str(include_str!("../goldens/imaging/resize.json")).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 90, "three modes, ten sizes, three filters");
    for case in cases {
        let ((w, h), (tw, th)) = (pair(&case["from"]), pair(&case["to"]));
        let seed = case["seed"].as_u64().unwrap();
        let bytes = |channels: u32| pattern((w * h * channels) as usize, seed);
        let image: DynamicImage = match case["mode"].as_str().unwrap() {
            "L" => GrayImage::from_raw(w, h, bytes(1)).unwrap().into(),
            "RGB" => RgbImage::from_raw(w, h, bytes(3)).unwrap().into(),
            _ => RgbaImage::from_raw(w, h, bytes(4)).unwrap().into(),
        };
        let filter = match case["filter"].as_str().unwrap() {
            "bilinear" => Filter::Bilinear,
            "bicubic" => Filter::Bicubic,
            _ => Filter::Lanczos,
        };
        agrees(case, resize(&image, tw, th, filter).as_bytes());
    }
}

#[test]
fn a_side_of_nothing_gives_nothing() {
    let empty = resize(&RgbImage::new(0, 7).into(), 3, 3, Filter::Lanczos);
    assert_eq!((empty.width(), empty.height()), (3, 3));
    assert_eq!(resize(&RgbImage::new(4, 4).into(), 0, 2, Filter::Bicubic).as_bytes().len(), 0);
}

#[test]
fn edges_equal_pillow() {
    let golden: Value = serde_json::from_str(include_str!("../goldens/imaging/edges.json")).unwrap();
    for case in golden["cases"].as_array().unwrap() {
        let (w, h) = pair(&case["size"]);
        let image =
            GrayImage::from_raw(w, h, pattern((w * h) as usize, case["seed"].as_u64().unwrap())).unwrap();
        agrees(case, find_edges(&image).as_raw());
    }
}

#[test]
fn an_edge_counts_above_the_threshold_only() {
    // A lone pixel of value v on black has an edge of 8 v.
    let lone = |value: u8| {
        let mut image = GrayImage::new(5, 5);
        image.put_pixel(2, 2, image::Luma([value]));
        edge_map(&image).get_pixel(2, 2).0[0]
    };
    assert_eq!(lone(EDGE_THRESHOLD / 8), 0, "24 is below 30");
    assert_eq!(lone(EDGE_THRESHOLD / 8 + 1), 255, "32 is above 30");
}
