//! What the text encoders made of prompts that were read before.
//!
//! Half of a job's prompts are the pipeline's own, and an advertiser who tries another seed sends the same words again. What
//! T5 and CLIP make of a prompt is four megabytes; T5 itself is seven gigabytes on the bus. Where all of a job's prompts are
//! known, it does not visit the encoders ([`super::itinerary::stops`]). Kept in main memory; what comes back is what was
//! computed, bit for bit. Must not know what prompts are for.

use candle_core::{Device, Result};

use crate::models::device::send;
use crate::models::flux::pipeline::Prompt;

/// Prompts that are kept: 4.2 MB each for FLUX.1-dev in 16 bits.
const MOST: usize = 32;

/// The last prompts that were read.
#[derive(Debug, Default)]
pub struct KnownPrompts {
    /// In main memory, the one that was asked for last at the end.
    kept: Vec<(String, Prompt)>,
}

impl KnownPrompts {
    /// Whether none of `texts` has to be read.
    pub fn all<'a>(&self, mut texts: impl Iterator<Item = &'a str>) -> bool {
        texts.all(|text| self.position(text).is_some())
    }

    /// Those of `texts` that have to be read, each once. The others count as asked for: what is kept for a job does not push
    /// out what the same job needs, as long as it needs no more than [`MOST`].
    pub fn unknown<'a>(&mut self, texts: &[&'a str]) -> Vec<&'a str> {
        let mut unknown = Vec::new();
        for &text in texts {
            if let Some(at) = self.position(text) {
                let found = self.kept.remove(at);
                self.kept.push(found);
            } else if !unknown.contains(&text) {
                unknown.push(text);
            }
        }
        unknown
    }

    /// What was made of `text`, on `device`.
    ///
    /// # Errors
    /// No room on the device.
    pub fn get(&self, text: &str, device: &Device) -> Result<Option<Prompt>> {
        let Some((_, kept)) = self.position(text).and_then(|at| self.kept.get(at)) else { return Ok(None) };
        Ok(Some(Prompt { embeds: send(&kept.embeds, device)?, pooled: send(&kept.pooled, device)? }))
    }

    /// Keeps `prompt`, and forgets the one that was not asked for longest if there are too many. Waits for the device.
    ///
    /// # Errors
    /// The device is lost.
    pub fn keep(&mut self, text: &str, prompt: &Prompt) -> Result<()> {
        let host = Device::Cpu;
        let copy =
            Prompt { embeds: prompt.embeds.to_device(&host)?, pooled: prompt.pooled.to_device(&host)? };
        self.kept.retain(|(known, _)| known != text);
        if self.kept.len() >= MOST {
            self.kept.remove(0);
        }
        self.kept.push((text.to_owned(), copy));
        Ok(())
    }

    fn position(&self, text: &str) -> Option<usize> {
        self.kept.iter().position(|(known, _)| known == text)
    }
}
