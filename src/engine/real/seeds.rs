//! One seed a job, one seed a draw.
//!
//! Each denoising of a job draws from a generator of its own, so that its noise depends on the job's seed and on nothing
//! else: not on which steps ran before it, which nets were loaded, or what was retried. Step 3 alone (`start_step` 3) draws
//! what step 3 of the whole job draws. The background's generator starts from the job's seed itself: the picture is then the
//! one that diffusers, or `marquee generate`, makes from that seed.

use crate::progress::SubStep;

/// The seed of the generator that `sub_step` draws from.
///
/// torch's generator reads 32 bits. A job's seed has 64: its upper half is mixed in, and changes nothing where it is zero.
pub fn seed_of(job: u64, sub_step: SubStep) -> u64 {
    let own = match sub_step {
        SubStep::BackgroundGeneration => 0,
        SubStep::FeatureInjection => 1,
        SubStep::TextGeneration => 2,
        SubStep::Composition => 3,
        // These draw nothing; a number of their own costs nothing.
        SubStep::Segmentation => 4,
        SubStep::TextCanvas => 5,
        SubStep::TextSegmentation => 6,
    };
    let folded = (job ^ mixed(job >> 32)) & u64::from(u32::MAX);
    (folded ^ mixed(own)) & u64::from(u32::MAX)
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every bit of the input changes half of the output's; 0 stays 0.
fn mixed(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
