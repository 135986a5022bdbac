//! Pictures and masks against diffusers' image processor on Pillow.

use candle_core::{DType, Device, Tensor};
use image::{DynamicImage, GrayImage, RgbImage, RgbaImage};
use marquee::models::image_processor::{mask_to_tensor, picture_to_tensor, tensor_to_pictures};

use super::golden::Goldens;

fn decoded(raw: &Tensor) -> DynamicImage {
    let (height, width, channels) = raw.dims3().unwrap();
    let (w, h) = (width as u32, height as u32);
    let bytes = raw.flatten_all().unwrap().to_vec1::<u8>().unwrap();
    match channels {
        1 => GrayImage::from_raw(w, h, bytes).unwrap().into(),
        3 => RgbImage::from_raw(w, h, bytes).unwrap().into(),
        _ => RgbaImage::from_raw(w, h, bytes).unwrap().into(),
    }
}

#[test]
fn every_mode_is_resized_and_converted_as_by_pillow() {
    let goldens = Goldens::open("stages");
    for case in goldens.cases("image") {
        let image = decoded(&goldens.input(&case, "image"));
        let side = |name: &str| case.parameters[name].as_u64().unwrap() as u32;
        let (width, height) = (side("width"), side("height"));
        let picture = picture_to_tensor(&image, width, height, &Device::Cpu).unwrap();
        goldens.close(&case, "picture", &picture, 0.0);
        let mask = mask_to_tensor(&image, width, height, &Device::Cpu).unwrap();
        goldens.close(&case, "mask", &mask, 0.0);
    }
}

#[test]
fn a_mask_is_on_from_the_middle_up() {
    let mask = GrayImage::from_raw(4, 1, vec![0, 127, 128, 255]).unwrap();
    let on = mask_to_tensor(&mask.into(), 4, 1, &Device::Cpu).unwrap();
    assert_eq!(on.flatten_all().unwrap().to_vec1::<f32>().unwrap(), [0.0, 0.0, 1.0, 1.0]);
}

#[test]
fn bytes_come_from_halves_rounded_to_even_and_clamped() {
    // 0.5 / 255 and 1.5 / 255 above -1: halves that go to 0 and 2.
    let value = |byte: f32| byte / 255.0 * 2.0 - 1.0;
    let pixels = [value(127.5), -3.0, 3.0, value(10.4), value(10.6), 1.0];
    let picture = Tensor::from_slice(&pixels, (1, 3, 1, 2), &Device::Cpu).unwrap();
    let bytes = tensor_to_pictures(&picture).unwrap().remove(0).into_raw();
    // Channels first in, last out.
    assert_eq!(bytes, [128, 255, 11, 0, 10, 255]);
    // -1/255 .. in bf16: -0.5 shifted is 0.25 exactly, 63.75 rounds to 64.
    let picture = Tensor::full(-0.5f32, (1, 3, 1, 1), &Device::Cpu).unwrap().to_dtype(DType::BF16).unwrap();
    assert_eq!(tensor_to_pictures(&picture).unwrap()[0].as_raw(), &[64, 64, 64]);
}

#[test]
fn impossible_sizes_and_channels_are_refused() {
    let image = DynamicImage::from(RgbImage::new(4, 4));
    let error = picture_to_tensor(&image, 0, 16, &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("0 x 16"), "{error}");
    let grey = Tensor::zeros((1, 1, 2, 2), DType::F32, &Device::Cpu).unwrap();
    assert!(tensor_to_pictures(&grey).unwrap_err().to_string().contains("1 channels"));
}
