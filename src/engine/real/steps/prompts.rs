//! What the composition asks FLUX for: a phrase for each mode and place, the quality that is expected, the user's words.
//!
//! Pure. Called when a job's prompts are gathered.

use crate::imaging::placement::Band;
use crate::input::plan::CompositionMode;

/// Closes every built prompt.
const QUALITY: &str = "photorealistic advertising photograph, one coherent light, crisp legible lettering, \
                       fine material detail, natural colour grading";

/// Acts only with classifier-free guidance.
const NEGATIVE: &str = "flat pasted sticker, halo around the letters, mismatched light, missing shadow, \
                        misspelled or distorted letters, blur, noise";

/// What the picture should show where the text is.
fn scene(mode: CompositionMode, band: Band) -> &'static str {
    match (mode, band) {
        (CompositionMode::Overlay, Band::Top) => {
            "bold three-dimensional lettering floats in front of the scene near the upper edge, lit from above, \
             its soft shadow falling onto what lies below"
        }
        (CompositionMode::Overlay, Band::Center) => {
            "bold three-dimensional lettering stands in front of the middle of the scene, taking its key light and \
             reflections from the surroundings, a soft contact shadow behind it"
        }
        (CompositionMode::Overlay, Band::Bottom) => {
            "bold three-dimensional lettering rests on the ground in the foreground of the scene, grounded by a contact \
             shadow and a faint reflection beneath it"
        }
        (CompositionMode::Blend, Band::Top) => {
            "lettering dissolves into the light of the upper part of the scene, sky and glow shining through its edges"
        }
        (CompositionMode::Blend, Band::Center) => {
            "lettering woven into the middle of the scene, its surface tinted by the surrounding colours and crossed by \
             the same light and haze"
        }
        (CompositionMode::Blend, Band::Bottom) => {
            "lettering grown into the lower part of the scene, sharing the texture, moisture and light of the ground that \
             it touches"
        }
        (CompositionMode::Behind, Band::Top) => {
            "large lettering stands far behind the main subject in the upper background, partly covered by it, softened by \
             depth and air"
        }
        (CompositionMode::Behind, Band::Center) => {
            "large lettering stands right behind the main subject, which overlaps and shades it, with real depth between \
             the two"
        }
        (CompositionMode::Behind, Band::Bottom) => {
            "lettering stands low behind the main subject, its lower edge hidden by the foreground and darkened by the \
             subject's shadow"
        }
    }
}

/// The prompt of a composition with its text in `band`.
pub fn composition(mode: CompositionMode, band: Band, user: Option<&str>) -> String {
    joined(&[Some(scene(mode, band)), user, Some(QUALITY)])
}

/// What a composition should avoid.
pub fn composition_negative(user: Option<&str>) -> String {
    joined(&[user, Some(NEGATIVE)])
}

fn joined(parts: &[Option<&str>]) -> String {
    let parts: Vec<_> =
        parts.iter().flatten().map(|part| part.trim()).filter(|part| !part.is_empty()).collect();
    parts.join(", ")
}
