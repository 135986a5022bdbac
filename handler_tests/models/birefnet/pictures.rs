//! The steps around the net against Pillow and torch.

use candle_core::{DType, Device, Tensor};
use image::{GrayImage, RgbImage};
use marquee::models::birefnet::{BiRefNet, mask_of_logits, picture_to_tensor, refine_foreground};

use super::{Golden, close};

fn bytes(tensor: &Tensor) -> Vec<u8> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn picture(golden: &Golden) -> RgbImage {
    let (height, width, _) = golden.tensor("picture.in.picture").dims3().unwrap();
    RgbImage::from_raw(width as u32, height as u32, bytes(golden.tensor("picture.in.picture"))).unwrap()
}

#[test]
fn a_picture_becomes_torchs_tensor() {
    let golden = Golden::open();
    let found = picture_to_tensor(&picture(&golden), 64, &Device::Cpu).unwrap();
    close("tensor", &found, golden.tensor("picture.out.tensor"), 1e-7);
    let message = picture_to_tensor(&RgbImage::new(0, 3), 64, &Device::Cpu).unwrap_err().to_string();
    assert!(message.contains("0 x 3"), "{message}");
}

#[test]
fn logits_become_pillows_mask() {
    let golden = Golden::open();
    let mask = mask_of_logits(golden.tensor("mask.in.logits"), 101, 67).unwrap();
    let expected = bytes(golden.tensor("mask.out.image"));
    let apart = mask.iter().zip(&expected).filter(|(a, b)| a != b).count();
    let most = mask.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    // A sigmoid one bit off may fall to the next lower byte; resizing spreads it over 16 pixels at most.
    assert!(most <= 1 && apart <= 16, "{apart} bytes differ, by up to {most}");
}

#[test]
fn logits_that_are_no_numbers_are_refused() {
    let mut values = vec![0f32; 64];
    values[40] = f32::NAN;
    let logits = Tensor::from_vec(values, (1, 1, 8, 8), &Device::Cpu).unwrap();
    assert!(mask_of_logits(&logits, 8, 8).unwrap_err().to_string().contains("not numbers"));
    assert!(mask_of_logits(&logits.reshape((1, 2, 4, 8)).unwrap(), 8, 8).is_err());
}

#[test]
fn refined_colours_equal_the_originals() {
    let golden = Golden::open();
    let picture = picture(&golden);
    let soft = GrayImage::from_raw(101, 67, bytes(golden.tensor("refined.in.alpha"))).unwrap();
    let refined = refine_foreground(&picture, &soft).unwrap();
    let expected = bytes(golden.tensor("refined.out.image"));
    let most = refined.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    let apart = refined.iter().zip(&expected).filter(|(a, b)| a != b).count();
    // Where rounding meets the truncation to bytes.
    assert!(most <= 1 && apart * 200 <= expected.len(), "{apart} of {} bytes, up to {most}", expected.len());
    let changed = refined.iter().zip(picture.iter()).filter(|(a, b)| a.abs_diff(**b) > 3).count();
    assert!(changed > 1000, "only {changed} bytes changed");
    assert!(refine_foreground(&picture, &GrayImage::new(101, 66)).is_err());
}

/// Mean over a square of `edge`, summed anew for each number.
fn mean(values: &[f64], (width, height): (usize, usize), edge: usize) -> Vec<f64> {
    let reach = |at: usize, most: usize| {
        let first = at as i64 - (edge as i64 - 1) / 2;
        (first..first + edge as i64).map(move |at| at.clamp(0, most as i64 - 1) as usize)
    };
    let mean = |numbers: &mut dyn Iterator<Item = f64>| numbers.sum::<f64>() / edge as f64;
    let pixels = || (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    let across: Vec<f64> =
        pixels().map(|(x, y)| mean(&mut reach(x, width).map(|x| values[y * width + x]))).collect();
    pixels().map(|(x, y)| mean(&mut reach(y, height).map(|y| across[y * width + x]))).collect()
}

/// One channel, in f64, by the paper's formulas.
fn fused(image: &[f64], alpha: &[f64], size: (usize, usize)) -> Vec<f64> {
    let (mut fore, mut back) = (image.to_vec(), image.to_vec());
    for edge in [90, 6] {
        let weighted = |values: &[f64], weight: fn(f64) -> f64| {
            mean(&values.iter().zip(alpha).map(|(v, &a)| v * weight(a)).collect::<Vec<_>>(), size, edge)
        };
        let (blurred, f, b) = (mean(alpha, size, edge), weighted(&fore, |a| a), weighted(&back, |a| 1.0 - a));
        for at in 0..image.len() {
            let f = f[at] / (blurred[at] + 1e-5);
            back[at] = b[at] / (1.0 - blurred[at] + 1e-5);
            fore[at] =
                (f + alpha[at] * (image[at] - alpha[at] * f - (1.0 - alpha[at]) * back[at])).clamp(0.0, 1.0);
        }
    }
    fore
}

#[test]
fn soft_edges_are_the_papers_whatever_the_number_of_cores() {
    // More rows than a band, and neither side a multiple of anything.
    let (width, height) = (61, 301);
    let colour = |x: u32, y: u32| [(x * 4) as u8, (y * 7 % 256) as u8, ((x * y) % 251) as u8];
    let picture = RgbImage::from_fn(width, height, |x, y| image::Rgb(colour(x, y)));
    let alpha = GrayImage::from_fn(width, height, |x, y| image::Luma([((x * 3 + y) % 256) as u8]));
    let with = |cores: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(cores).build().unwrap();
        pool.install(|| refine_foreground(&picture, &alpha).unwrap())
    };
    let found = with(1);
    assert_eq!(found, with(3));
    let unit = |value: u8| f64::from(value) / 255.0;
    let opaque: Vec<f64> = alpha.iter().map(|&value| unit(value)).collect();
    for channel in 0..3 {
        let image: Vec<f64> = picture.pixels().map(|pixel| unit(pixel.0[channel])).collect();
        let expected = fused(&image, &opaque, (width as usize, height as usize));
        for (pixel, expected) in found.pixels().zip(expected) {
            let apart = (f64::from(pixel.0[channel]) - (expected * 255.0).floor()).abs();
            assert!(apart <= 1.0, "{pixel:?}, channel {channel}: {expected}");
        }
    }
}

#[test]
fn a_cut_out_is_the_picture_with_the_mask_as_alpha() {
    let golden = Golden::open();
    let net = BiRefNet::new(&golden.config, &golden.weights(DType::F32)).unwrap();
    let picture = picture(&golden);
    let mask = net.segment(&picture, &mut |_| Ok(())).unwrap();
    assert_eq!(mask.dimensions(), picture.dimensions());
    let (least, most) = (mask.iter().min().unwrap(), mask.iter().max().unwrap());
    assert!(most - least > 20, "a flat mask: {least} to {most}");

    let plain = net.cut_out(&picture, false, &mut |_| Ok(())).unwrap();
    let refined = net.cut_out(&picture, true, &mut |_| Ok(())).unwrap();
    let colours = refine_foreground(&picture, &mask).unwrap();
    assert_ne!(colours, picture);
    for (x, y, alpha) in mask.enumerate_pixels() {
        let [r, g, b] = picture.get_pixel(x, y).0;
        assert_eq!(plain.get_pixel(x, y).0, [r, g, b, alpha.0[0]]);
        let [r, g, b] = colours.get_pixel(x, y).0;
        assert_eq!(refined.get_pixel(x, y).0, [r, g, b, alpha.0[0]]);
    }
}
