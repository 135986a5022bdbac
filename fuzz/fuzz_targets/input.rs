//! Any bytes that are JSON become a plan or errors that name their place; never a panic.
//! `cargo +nightly fuzz run input -- -max_len=4096`
#![no_main]

use libfuzzer_sys::fuzz_target;
use marquee::input::plan::AutoUnload;
use marquee::input::{InputLimits, plan};
use serde_json::Value;

const LIMITS: InputLimits = InputLimits {
    max_image_bytes: 1 << 16,
    max_image_pixels: 1 << 14,
    max_prompt_chars: 1000,
    auto_unload_default: AutoUnload::Yes,
};

fuzz_target!(|data: &[u8]| {
    let Ok(raw) = serde_json::from_slice::<Value>(data) else { return };
    match plan(&raw, &LIMITS, || 1) {
        Ok(plan) => {
            assert!(plan.start <= plan.stop);
            assert!((256..=2048).contains(&plan.width) && plan.width % 16 == 0);
            assert!((256..=2048).contains(&plan.height) && plan.height % 16 == 0);
            assert!(plan.background.is_some() || plan.step1_image.is_some());
        }
        Err(errors) => assert!(errors.0.iter().all(|error| error.path.starts_with('$'))),
    }
});
