//! The table of fields: every name, alias, range, default and meaning, written once.
//!
//! Order is the order of the schema and of the echo in the answer. Rules between fields are in [`super::validate`].

use super::kinds::{
    ByModel, Choice, Field, Flag, FlagOrAuto, Head, Integer, Number, Picture, Position, Seed,
};
use super::kinds::{Text, TextShape};
use super::plan::{BackgroundModel, CompositionMode, OutputFormat, ProductPosition, TextPosition};

const fn head(name: &'static str, doc: &'static str) -> Head {
    Head { name, alias: None, doc }
}

const fn aliased(name: &'static str, alias: &'static str, doc: &'static str) -> Head {
    Head { name, alias: Some(alias), doc }
}

const fn both<T: Copy>(value: T) -> ByModel<T> {
    ByModel { flux: value, sdxl: value }
}

const fn integer(head: Head, min: u32, max: u32, default: ByModel<u32>) -> Integer {
    Integer { head, min, max, step: 1, default }
}

const fn number(head: Head, min: f64, max: f64, default: ByModel<f64>) -> Number {
    Number { head, min, max, default }
}

const fn prompt(head: Head, default: Option<&'static str>) -> Text {
    Text { head, shape: TextShape::Prompt, default }
}

/// First step to run.
pub static START_STEP: Integer = integer(
    head(
        "start_step",
        "First step to run: 1 the whole pipeline; 2 from the text, needs step1_image; 3 only the merge, needs \
         step1_image and step2_image.",
    ),
    1,
    3,
    both(1),
);
/// Last step to run.
pub static STOP_STEP: Integer =
    integer(head("stop_step", "Last step to run; not before start_step."), 1, 3, both(3));
/// The phrase.
pub static TEXT_CONTENT: Text = Text {
    head: head(
        "text_content",
        "The phrase. Missing or blank: steps 2 and 3 are skipped and step 1's image is the final image.",
    ),
    shape: TextShape::Phrase,
    default: None,
};
/// The product photo.
pub static PRODUCT_IMAGE: Picture = Picture {
    head: aliased(
        "product_image",
        "input_image",
        "Photo of the product: PNG, JPEG or WebP in base64, with or without a data-URL prefix. Without it there is \
         only a background.",
    ),
};
/// The scene.
pub static BG_PROMPT: Text = prompt(
    head("bg_prompt", "The scene of the background."),
    Some(
        "an old wooden table in the foreground, soft morning light from a window, softly blurred surroundings, product photography",
    ),
);
/// What the scene must not be.
pub static BG_NEGATIVE_PROMPT: Text = prompt(
    head(
        "bg_negative_prompt",
        "What to keep out of the background. Acts with true_cfg_scale above 1 (flux) or with bg_model sdxl.",
    ),
    Some("blurred, low quality, noisy, poor lighting, distorted, watermark"),
);
/// Which model paints.
pub static BG_MODEL: Choice<BackgroundModel> = Choice {
    head: head("bg_model", "Which model paints the background."),
    choices: &[("flux", BackgroundModel::Flux), ("sdxl", BackgroundModel::Sdxl)],
};
/// Denoise steps of the background.
pub static BG_STEPS: Integer = integer(
    head("bg_steps", "Denoise steps of the background; 30 unless given with bg_model sdxl."),
    1,
    50,
    ByModel { flux: 25, sdxl: 30 },
);
/// Injection prompt.
pub static BG_COMPOSITION_PROMPT: Text = prompt(
    head("bg_composition_prompt", "How the product sits in the scene."),
    Some(
        "the product stands firmly in the scene, natural contact shadow, ambient occlusion, matching light and reflections, photorealistic",
    ),
);
/// Injection negative prompt.
pub static BG_COMPOSITION_NEGATIVE_PROMPT: Text = prompt(
    head("bg_composition_negative_prompt", "What to keep out while the product is merged into the scene."),
    Some("floating object, cut-out edges, missing shadow, wrong scale, changed label"),
);
/// Product size.
pub static PRODUCT_SCALE: Number = number(
    head("product_scale", "Size of the product relative to the smaller side of the background."),
    0.05,
    1.0,
    both(0.4),
);
/// Product place.
pub static PRODUCT_POSITION: Position = Position {
    head: head(
        "product_position",
        "Where the product goes: a place (either of - and _ joins the words) or the top left corner [x, y] in output \
         pixels. Default: horizontally centred, top at 55 % of the height.",
    ),
    places: PLACES,
    reach: 4096,
};
/// Injection strength.
pub static STRENGTH: Number =
    number(head("strength", "How strongly the product is redrawn to fit the scene."), 0.0, 1.0, both(0.5));
/// Guidance of the background.
pub static GUIDANCE_SCALE: Number = number(
    head(
        "guidance_scale",
        "How closely the background follows its prompt; 7.5 unless given with bg_model sdxl.",
    ),
    1.0,
    20.0,
    ByModel { flux: 3.5, sdxl: 7.5 },
);
/// Real guidance for FLUX.
pub static TRUE_CFG_SCALE: Number = number(
    head(
        "true_cfg_scale",
        "Classifier-free guidance with the negative prompts for all that flux paints; 1 is off, more doubles its work.",
    ),
    1.0,
    10.0,
    both(1.0),
);
/// Look of the text.
pub static TEXT_PROMPT: Text = prompt(
    aliased("text_prompt", "text_model_prompt", "Material and look of the text."),
    Some(
        "inflated gold foil balloon letters, glossy 3D render, studio light, isolated on a black background",
    ),
);
/// What the text must not be.
pub static TEXT_NEGATIVE_PROMPT: Text = prompt(
    aliased("text_negative_prompt", "negative_prompt", "What to keep out of the text image."),
    Some("floor, ground, scenery, debris, scattered pieces, clutter, extra letters, low quality"),
);
/// Denoise steps of the text.
pub static TEXT_STEPS: Integer = integer(head("text_steps", "Denoise steps of the text."), 1, 50, both(30));
/// ControlNet scale.
pub static CONTROLNET_CONDITIONING_SCALE: Number = number(
    head("controlnet_conditioning_scale", "How strictly the text keeps to its outlines."),
    0.0,
    2.0,
    both(1.0),
);
/// The font.
pub static FONT_NAME: Text = Text {
    head: head(
        "font_name",
        "A font file below the font folders, by relative path or file name. Without it: the first font found.",
    ),
    shape: TextShape::FontName,
    default: None,
};
/// Result of an earlier step 1.
pub static STEP1_IMAGE: Picture =
    Picture { head: head("step1_image", "Result of an earlier step 1, in base64.") };
/// Result of an earlier step 2.
pub static STEP2_IMAGE: Picture = Picture {
    head: head("step2_image", "Result of an earlier step 2, in base64; transparent where there is no text."),
};
/// How text and scene meet.
pub static COMPOSITION_MODE: Choice<CompositionMode> = Choice {
    head: head(
        "composition_mode",
        "How text and scene meet: in front, lit through, or behind the foreground.",
    ),
    choices: &[
        ("overlay", CompositionMode::Overlay),
        ("blend", CompositionMode::Blend),
        ("behind", CompositionMode::Behind),
    ],
};
/// Where the text goes.
pub static TEXT_POSITION: Choice<TextPosition> = Choice {
    head: head("text_position", "Where the text goes; auto is the emptiest band of the background."),
    choices: &[
        ("top", TextPosition::Top),
        ("center", TextPosition::Center),
        ("bottom", TextPosition::Bottom),
        ("auto", TextPosition::Auto),
    ],
};
/// Words added to the built prompt.
pub static COMPOSITION_PROMPT: Text =
    prompt(head("composition_prompt", "Added to the prompt that mode and position give."), None);
/// Likewise, negative.
pub static COMPOSITION_NEGATIVE_PROMPT: Text =
    prompt(head("composition_negative_prompt", "Added to the negative prompt of the merge."), None);
/// Strength of the merge.
pub static COMPOSITION_STRENGTH: Number = number(
    head("composition_strength", "How strongly text and scene are redrawn at their border."),
    0.0,
    1.0,
    both(0.4),
);
/// Denoise steps of the merge.
pub static COMPOSITION_STEPS: Integer =
    integer(head("composition_steps", "Denoise steps of the merge, before strength."), 10, 50, both(28));
/// Guidance of the merge.
pub static COMPOSITION_GUIDANCE_SCALE: Number = number(
    head("composition_guidance_scale", "How closely the merge follows its prompt."),
    1.0,
    7.0,
    both(3.5),
);
/// Output width.
pub static WIDTH: Integer = Integer {
    head: head("width", "Width of the output in pixels."),
    min: 256,
    max: 2048,
    step: 16,
    default: both(1024),
};
/// Output height.
pub static HEIGHT: Integer = Integer {
    head: head("height", "Height of the output in pixels."),
    min: 256,
    max: 2048,
    step: 16,
    default: both(1024),
};
/// Seed of every random draw.
pub static SEED: Seed = Seed {
    head: head(
        "seed",
        "Seed of every random draw; random without it, and returned. Same seed and parameters: same bytes. Clients \
         whose numbers are floats should stay at or below 2^53.",
    ),
};
/// No model is touched.
pub static TEST_MODE: Flag = Flag {
    head: head("test_mode", "No model is touched; the pictures are procedural."),
    default: Some(false),
};
/// When models leave the device.
pub static AUTO_UNLOAD: FlagOrAuto = FlagOrAuto {
    head: head(
        "auto_unload",
        "Whether models leave the GPU as soon as the request has no more use for them (true), never (false), or when \
         the memory budget needs it (auto). Default: the worker's AUTO_UNLOAD_DEFAULT.",
    ),
};
/// `auto_unload` of each step.
pub static AUTO_UNLOAD_STEPS: [Flag; 3] = [
    Flag {
        head: head("auto_unload_step1", "auto_unload for step 1 alone. Default: auto_unload."),
        default: None,
    },
    Flag {
        head: head("auto_unload_step2", "auto_unload for step 2 alone. Default: auto_unload."),
        default: None,
    },
    Flag {
        head: head("auto_unload_step3", "auto_unload for step 3 alone. Default: auto_unload."),
        default: None,
    },
];
/// Encoding of the answer.
pub static OUTPUT_FORMAT: Choice<OutputFormat> = Choice {
    head: head(
        "output_format",
        "Encoding of the images: png and webp are lossless, jpeg is quality 95. Transparent images stay png with jpeg.",
    ),
    choices: &[("png", OutputFormat::Png), ("jpeg", OutputFormat::Jpeg), ("webp", OutputFormat::WebP)],
};
/// Whether step 1 and 2 images are part of the answer.
pub static RETURN_INTERMEDIATE: Flag = Flag {
    head: head("return_intermediate", "Whether the images of steps 1 and 2 are part of the answer."),
    default: Some(true),
};

const fn at(horizontal: i8, vertical: i8) -> ProductPosition {
    ProductPosition::Anchor { horizontal, vertical }
}

/// Every accepted spelling of every place; the first spelling of a place is the one that is echoed.
const PLACES: &[(&str, ProductPosition)] = &[
    ("default", ProductPosition::Default),
    ("center", at(0, 0)),
    ("top", at(0, -1)),
    ("bottom", at(0, 1)),
    ("left", at(-1, 0)),
    ("right", at(1, 0)),
    ("top-left", at(-1, -1)),
    ("top-right", at(1, -1)),
    ("bottom-left", at(-1, 1)),
    ("bottom-right", at(1, 1)),
    ("top_left", at(-1, -1)),
    ("top_right", at(1, -1)),
    ("bottom_left", at(-1, 1)),
    ("bottom_right", at(1, 1)),
    ("center-center", at(0, 0)),
    ("top-center", at(0, -1)),
    ("bottom-center", at(0, 1)),
    ("center-left", at(-1, 0)),
    ("center-right", at(1, 0)),
    ("center_center", at(0, 0)),
    ("top_center", at(0, -1)),
    ("bottom_center", at(0, 1)),
    ("center_left", at(-1, 0)),
    ("center_right", at(1, 0)),
];

/// Every field, in order.
pub static ALL: &[&dyn Field] = &[
    &START_STEP,
    &STOP_STEP,
    &TEXT_CONTENT,
    &PRODUCT_IMAGE,
    &BG_PROMPT,
    &BG_NEGATIVE_PROMPT,
    &BG_MODEL,
    &BG_STEPS,
    &BG_COMPOSITION_PROMPT,
    &BG_COMPOSITION_NEGATIVE_PROMPT,
    &PRODUCT_SCALE,
    &PRODUCT_POSITION,
    &STRENGTH,
    &GUIDANCE_SCALE,
    &TRUE_CFG_SCALE,
    &TEXT_PROMPT,
    &TEXT_NEGATIVE_PROMPT,
    &TEXT_STEPS,
    &CONTROLNET_CONDITIONING_SCALE,
    &FONT_NAME,
    &STEP1_IMAGE,
    &STEP2_IMAGE,
    &COMPOSITION_MODE,
    &TEXT_POSITION,
    &COMPOSITION_PROMPT,
    &COMPOSITION_NEGATIVE_PROMPT,
    &COMPOSITION_STRENGTH,
    &COMPOSITION_STEPS,
    &COMPOSITION_GUIDANCE_SCALE,
    &WIDTH,
    &HEIGHT,
    &SEED,
    &TEST_MODE,
    &AUTO_UNLOAD,
    &AUTO_UNLOAD_STEPS[0],
    &AUTO_UNLOAD_STEPS[1],
    &AUTO_UNLOAD_STEPS[2],
    &OUTPUT_FORMAT,
    &RETURN_INTERMEDIATE,
];
