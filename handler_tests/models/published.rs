//! The published sizes: parameters as the published files have them, and arithmetic against figures from elsewhere.

use marquee::bench::work::{self, Work, expected};
use marquee::models::birefnet::BiRefNet;
use marquee::models::flux::{Conditioner, Transformer};
use marquee::models::published;
use marquee::models::sdxl::{ControlNet, Unet};
use marquee::models::text_encoders::clip::ClipText;
use marquee::models::text_encoders::t5::T5Encoder;
use marquee::models::vae::Vae;
use marquee::models::weights::Weights;

fn parameters(build: impl FnOnce(&Weights) -> candle_core::Result<()>) -> usize {
    expected(build).unwrap().iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum()
}

#[test]
fn nets_of_the_published_sizes_have_the_published_number_of_parameters() {
    let flux = parameters(|w| {
        Conditioner::new(&published::flux_dev(), w)?;
        Transformer::new(&published::flux_dev(), w).map(drop)
    });
    println!("{flux}");
    println!("{}", parameters(|w| T5Encoder::new(&published::t5_xxl(), w).map(drop)));
    println!("{}", parameters(|w| ClipText::new(&published::clip_l(), w).map(drop)));
    println!("{}", parameters(|w| ClipText::new(&published::clip_big_g(), w).map(drop)));
    println!("{}", parameters(|w| Vae::new(&published::flux_vae(), w).map(drop)));
    println!("{}", parameters(|w| Vae::new(&published::sdxl_vae(), w).map(drop)));
    println!("{}", parameters(|w| Unet::new(&published::sdxl_unet(), w).map(drop)));
    println!("{}", parameters(|w| ControlNet::new(&published::sdxl_controlnet(), w).map(drop)));
    println!("{}", parameters(|w| BiRefNet::new(&published::birefnet(), w).map(drop)));
}

#[test]
fn arithmetic() {
    let show = |name: &str, work: Work| {
        println!("{name} {:.3} TFLOP {:.1} M", work.flops / 1e12, work.weights / 1e6)
    };
    show("flux", work::flux(&published::flux_dev(), 4096, 512).unwrap());
    show("t5", work::t5(&published::t5_xxl(), 512).unwrap());
    show("clip", work::clip(&published::clip_l(), 77).unwrap());
    show("decode", work::vae_decode(&published::sdxl_vae(), (128, 128)).unwrap());
    show("decode512", work::vae_decode(&published::sdxl_vae(), (64, 64)).unwrap());
    show("encode", work::vae_encode(&published::flux_vae(), (128, 128)).unwrap());
    show("unet", work::sdxl(&published::sdxl_unet(), None, 1, (128, 128), 77).unwrap());
    show(
        "both",
        work::sdxl(&published::sdxl_unet(), Some(&published::sdxl_controlnet()), 2, (128, 128), 77).unwrap(),
    );
    show("birefnet", work::birefnet(&published::birefnet(), (1024, 1024)).unwrap());
}
