//! Any bytes become a picture within the caps or an error; never a panic, never more pixels than allowed.
//! `cargo +nightly fuzz run image -- -max_len=65536 -rss_limit_mb=512`
#![no_main]

use libfuzzer_sys::fuzz_target;
use marquee::input::images::{ImageCaps, Opened};

const CAPS: ImageCaps = ImageCaps { bytes: 1 << 16, pixels: 1 << 16 };

fuzz_target!(|data: &[u8]| {
    let Ok(opened) = Opened::from_bytes(data.to_vec(), CAPS) else { return };
    let announced = (opened.width, opened.height);
    let Ok(image) = opened.decode() else { return };
    assert_eq!((image.width(), image.height()), announced);
    assert!(u64::from(image.width()) * u64::from(image.height()) <= CAPS.pixels);
});
