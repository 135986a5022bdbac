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
