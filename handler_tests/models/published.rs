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
    // Counted over the published files' headers.
    let flux = parameters(|w| {
        Conditioner::new(&published::flux_dev(), w)?;
        Transformer::new(&published::flux_dev(), w).map(drop)
    });
    assert_eq!(flux, 11_901_408_320);
    assert_eq!(parameters(|w| T5Encoder::new(&published::t5_xxl(), w).map(drop)), 4_762_310_656);
    assert_eq!(parameters(|w| ClipText::new(&published::clip_l(), w).map(drop)), 123_060_480);
    assert_eq!(parameters(|w| ClipText::new(&published::clip_big_g(), w).map(drop)), 694_659_840);
    assert_eq!(parameters(|w| Vae::new(&published::flux_vae(), w).map(drop)), 83_819_683);
    assert_eq!(parameters(|w| Vae::new(&published::sdxl_vae(), w).map(drop)), 83_653_863);
    assert_eq!(parameters(|w| Unet::new(&published::sdxl_unet(), w).map(drop)), 2_567_463_684);
    assert_eq!(parameters(|w| ControlNet::new(&published::sdxl_controlnet(), w).map(drop)), 1_251_014_160);
    // Without the heads that only training uses.
    assert_eq!(parameters(|w| BiRefNet::new(&published::birefnet(), w).map(drop)), 220_199_836);
}

/// Counts by hand from the architectures, rounded: 74.4 of FLUX are named in the literature on its speed.
#[test]
fn a_stage_takes_the_arithmetic_of_its_products() {
    let close = |work: Work, teraflops: f64| {
        let found = work.flops / 1e12;
        assert!((found / teraflops - 1.0).abs() < 0.01, "{found} TFLOP for {teraflops}");
    };
    close(work::flux(&published::flux_dev(), 4096, 512).unwrap(), 74.4);
    // 24 layers of 193 million weights on 512 tokens, and their attention.
    close(work::t5(&published::t5_xxl(), 512).unwrap(), 4.85);
    close(work::vae_decode(&published::sdxl_vae(), (128, 128)).unwrap(), 10.47);
    close(work::vae_encode(&published::flux_vae(), (128, 128)).unwrap(), 4.88);
    close(work::sdxl(&published::sdxl_unet(), None, 1, (128, 128), 77).unwrap(), 6.76);
    let both = work::sdxl(&published::sdxl_unet(), Some(&published::sdxl_controlnet()), 2, (128, 128), 77);
    close(both.unwrap(), 19.4);
}
