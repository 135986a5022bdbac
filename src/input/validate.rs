//! What it means: defaults, rules between fields, pictures, and the plan that comes of them.
//!
//! Reads through [`super::wire`], takes every limit of a single field from [`super::fields`]. Synchronous and heavy on
//! the CPU (pictures are decoded): the worker calls [`plan`] on a blocking thread.

use image::{DynamicImage, RgbImage, RgbaImage};
use serde_json::{Value, json};

use super::effects;
use super::errors::{ErrorCode, InputErrors};
use super::fields as f;
use super::images::{ImageCaps, Opened, fit_to, on_white};
use super::kinds::{ByModel, Choice, Picture, Text};
use super::plan::{AutoUnload, BackgroundModel, BackgroundPlan, CompositionPlan, OutputPlan, Plan};
use super::plan::{ProductPlan, ProductPosition, TextPlan};
use super::wire::Wire;
use crate::config::EngineConfig;
use crate::progress::Step;

/// Limits that the operator sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InputLimits {
    /// Largest image file in bytes, after base64.
    pub max_image_bytes: usize,
    /// Largest image in pixels.
    pub max_image_pixels: u64,
    /// Longest text in characters.
    pub max_prompt_chars: usize,
    /// `auto_unload` of requests that do not say.
    pub auto_unload_default: AutoUnload,
}

impl From<&EngineConfig> for InputLimits {
    fn from(config: &EngineConfig) -> Self {
        Self {
            max_image_bytes: config.max_image_bytes,
            max_image_pixels: config.max_image_pixels,
            max_prompt_chars: config.max_prompt_chars,
            auto_unload_default: config.auto_unload_default,
        }
    }
}

/// Turns a job's `input` into a plan. `random_seed` is asked only if the request names no seed.
///
/// # Errors
/// Everything that is wrong with the request, together.
pub fn plan(
    raw: &Value,
    limits: &InputLimits,
    random_seed: impl FnOnce() -> u64,
) -> Result<Plan, InputErrors> {
    let wire = Wire::new(raw, limits.max_prompt_chars)?;
    let caps = ImageCaps { bytes: limits.max_image_bytes, pixels: limits.max_image_pixels };
    Reading { wire, caps, model: BackgroundModel::Flux }.finish(limits, random_seed)
}

/// Shorter than the phrase "nothing to draw": white space and characters without a shape.
fn is_blank(text: &str) -> bool {
    text.chars().all(|c| {
        c.is_whitespace() || c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}')
    })
}

fn unload_value(policy: AutoUnload) -> Value {
    match policy {
        AutoUnload::Yes => true.into(),
        AutoUnload::No => false.into(),
        AutoUnload::Auto => "auto".into(),
    }
}

/// The steps that will run, and why others do not.
struct Span {
    start: Step,
    stop: Step,
}

impl Span {
    fn runs(&self, step: Step) -> bool {
        (self.start..=self.stop).contains(&step)
    }
}

struct Reading<'a> {
    wire: Wire<'a>,
    caps: ImageCaps,
    model: BackgroundModel,
}

impl Reading<'_> {
    fn integer(&mut self, field: &super::kinds::Integer) -> u32 {
        let value = self.wire.get(field).unwrap_or(self.by_model(field.default));
        self.wire.echo(field, value);
        value
    }

    fn number(&mut self, field: &super::kinds::Number) -> f64 {
        let value = self.wire.get(field).unwrap_or(self.by_model(field.default));
        self.wire.echo(field, value);
        value
    }

    fn by_model<T>(&self, default: ByModel<T>) -> T {
        match self.model {
            BackgroundModel::Flux => default.flux,
            BackgroundModel::Sdxl => default.sdxl,
        }
    }

    fn text(&mut self, field: &Text) -> Option<String> {
        let value = self.wire.get(field).or_else(|| field.default.map(str::to_owned));
        self.wire.echo(field, value.clone());
        value
    }

    fn choice<T: Copy + PartialEq + Sync>(&mut self, field: &Choice<T>, default: T) -> T {
        let value = self.wire.get(field).unwrap_or(default);
        self.wire.echo(field, field.word(value));
        value
    }

    fn flag(&mut self, field: &super::kinds::Flag) -> bool {
        let value = self.wire.get(field).or(field.default).unwrap_or_default();
        self.wire.echo(field, value);
        value
    }

    /// Opens a picture; its pixels are decoded only if it is used.
    fn picture(&mut self, field: &Picture, used: bool) -> Option<DynamicImage> {
        let opened = self.open(field)?;
        if !used {
            return None;
        }
        if opened.0.animated {
            self.wire.warnings.push(format!("{} is animated; its first frame is used", field.head.name));
        }
        match opened.0.decode() {
            Ok(image) => Some(image),
            Err(problem) => {
                self.wire.errors.add(opened.1, problem.code, problem.message);
                None
            }
        }
    }

    fn open(&mut self, field: &Picture) -> Option<(Opened, String)> {
        self.wire.echo(field, Value::Null);
        let sent = self.wire.sent(field)?;
        let Value::String(text) = sent.value else {
            let message =
                format!("expected a picture in base64, found {}", super::errors::quoted(sent.value));
            self.wire.errors.add(sent.path(), ErrorCode::WrongType, message);
            return None;
        };
        match Opened::new(text, self.caps) {
            Ok(opened) => {
                self.wire.echo(field, opened.summary());
                Some((opened, sent.path()))
            }
            Err(problem) => {
                self.wire.errors.add(sent.path(), problem.code, problem.message);
                None
            }
        }
    }

    /// Steps and phrase; `stop` is lowered where there is nothing to write.
    fn span(&mut self) -> (Span, Option<String>) {
        let step = |number: u32, or: Step| Step::from_number(u64::from(number)).unwrap_or(or);
        let start = self.wire.get(&f::START_STEP);
        let stop = self.wire.get(&f::STOP_STEP);
        if let (Some(start), Some(stop)) = (start, stop)
            && stop < start
        {
            self.wire.errors.add(
                "$.stop_step",
                ErrorCode::Conflict,
                format!("expected at least start_step, which is {start}, found {stop}"),
            );
        }
        let start = step(start.unwrap_or(f::START_STEP.default.flux), Step::Background);
        let mut stop = step(stop.unwrap_or(f::STOP_STEP.default.flux), Step::Composition).max(start);
        // A wrong text_content is already an error; it must not be taken for a missing one as well.
        let errors = self.wire.errors.0.len();
        let content = self.wire.get(&f::TEXT_CONTENT);
        let wrong = self.wire.errors.0.len() > errors;
        let sent_blank = content.as_deref().is_some_and(is_blank);
        let content = content.filter(|text| !is_blank(text));
        if content.is_none() && !wrong {
            match start {
                Step::Background => {
                    if stop > Step::Background && (sent_blank || self.wire.was_given(&f::STOP_STEP)) {
                        let what = if sent_blank { "blank" } else { "missing" };
                        self.wire.warnings.push(format!(
                            "text_content is {what}: steps 2 and 3 are skipped, the background is the final image"
                        ));
                    }
                    stop = Step::Background;
                }
                Step::Text => self.wire.errors.add(
                    "$.text_content",
                    ErrorCode::Missing,
                    "expected a phrase that is not blank, because start_step is 2",
                ),
                // The text is in step2_image already.
                Step::Composition => {}
            }
        }
        self.wire.echo(&f::START_STEP, start.number());
        self.wire.echo(&f::STOP_STEP, stop.number());
        self.wire.echo(&f::TEXT_CONTENT, content.clone());
        (Span { start, stop }, content)
    }

    #[allow(clippy::too_many_lines, reason = "one line a field, in the table's order, which is the echo's")]
    fn finish(
        mut self,
        limits: &InputLimits,
        random_seed: impl FnOnce() -> u64,
    ) -> Result<Plan, InputErrors> {
        let (span, content) = self.span();
        let product_image = self.picture(&f::PRODUCT_IMAGE, span.runs(Step::Background));
        let bg_prompt = self.text(&f::BG_PROMPT).unwrap_or_default();
        let bg_negative = self.text(&f::BG_NEGATIVE_PROMPT).unwrap_or_default();
        self.model = self.choice(&f::BG_MODEL, BackgroundModel::Flux);
        let bg_steps = self.integer(&f::BG_STEPS);
        let injection = self.text(&f::BG_COMPOSITION_PROMPT).unwrap_or_default();
        let injection_negative = self.text(&f::BG_COMPOSITION_NEGATIVE_PROMPT).unwrap_or_default();
        let scale = self.number(&f::PRODUCT_SCALE);
        let position = self.wire.get(&f::PRODUCT_POSITION).unwrap_or(ProductPosition::Default);
        self.wire.echo(&f::PRODUCT_POSITION, position_value(position));
        let strength = self.number(&f::STRENGTH);
        let guidance_scale = self.number(&f::GUIDANCE_SCALE);
        let true_cfg_scale = self.number(&f::TRUE_CFG_SCALE);

        let text_prompt = self.text(&f::TEXT_PROMPT).unwrap_or_default();
        let text_negative = self.text(&f::TEXT_NEGATIVE_PROMPT).unwrap_or_default();
        let text_steps = self.integer(&f::TEXT_STEPS);
        let controlnet_conditioning_scale = self.number(&f::CONTROLNET_CONDITIONING_SCALE);
        let font_name = self.text(&f::FONT_NAME);

        let step1 = self.step_image(&f::STEP1_IMAGE, span.start, Step::Text);
        let step2 = self.step_image(&f::STEP2_IMAGE, span.start, Step::Composition);

        let mode = self.choice(&f::COMPOSITION_MODE, super::plan::CompositionMode::Overlay);
        let text_position = self.choice(&f::TEXT_POSITION, super::plan::TextPosition::Top);
        let composition_prompt = self.text(&f::COMPOSITION_PROMPT);
        let composition_negative = self.text(&f::COMPOSITION_NEGATIVE_PROMPT);
        let composition_strength = self.number(&f::COMPOSITION_STRENGTH);
        let composition_steps = self.integer(&f::COMPOSITION_STEPS);
        let composition_guidance = self.number(&f::COMPOSITION_GUIDANCE_SCALE);

        let width = self.integer(&f::WIDTH);
        let height = self.integer(&f::HEIGHT);
        self.check_inside(position, width, height);
        let seed = match self.wire.get(&f::SEED) {
            Some(seed) => seed,
            None => random_seed(),
        };
        self.wire.echo(&f::SEED, seed);
        let test_mode = self.flag(&f::TEST_MODE);
        let auto_unload = self.auto_unload(limits.auto_unload_default);
        let output = OutputPlan {
            format: self.choice(&f::OUTPUT_FORMAT, super::plan::OutputFormat::Png),
            return_intermediate: self.flag(&f::RETURN_INTERMEDIATE),
        };
        self.wire.note_unknown();
        if !self.wire.errors.0.is_empty() {
            return Err(self.wire.errors);
        }

        effects::note(&mut self.wire, span.start, span.stop, self.model, true_cfg_scale);
        let step1_image = step1.map(|image| self.background_of(image, width, height));
        let step2_image = step2.map(|image| self.text_of(image, width, height));
        let product = product_image.map(|image| ProductPlan {
            image,
            scale,
            position,
            prompt: injection,
            negative_prompt: injection_negative,
            strength,
        });
        Ok(Plan {
            start: span.start,
            stop: span.stop,
            width,
            height,
            seed,
            test_mode,
            background: span.runs(Step::Background).then_some(BackgroundPlan {
                model: self.model,
                prompt: bg_prompt,
                negative_prompt: bg_negative,
                steps: bg_steps,
                guidance_scale,
                true_cfg_scale,
                product,
            }),
            text: content.filter(|_| span.runs(Step::Text)).map(|content| TextPlan {
                content,
                prompt: text_prompt,
                negative_prompt: text_negative,
                steps: text_steps,
                controlnet_conditioning_scale,
                font_name,
            }),
            composition: span.runs(Step::Composition).then_some(CompositionPlan {
                mode,
                position: text_position,
                prompt: composition_prompt,
                negative_prompt: composition_negative,
                strength: composition_strength,
                steps: composition_steps,
                guidance_scale: composition_guidance,
                true_cfg_scale,
            }),
            step1_image,
            step2_image,
            auto_unload,
            output,
            warnings: self.wire.warnings,
            parameters: self.wire.parameters,
        })
    }

    /// The result of an earlier step, needed and used from `needed_from` on.
    fn step_image(&mut self, field: &Picture, start: Step, needed_from: Step) -> Option<DynamicImage> {
        let needed = start >= needed_from;
        let image = self.picture(field, needed);
        if needed && !self.wire.was_given(field) {
            self.wire.errors.add(
                format!("$.{}", field.head.name),
                ErrorCode::Missing,
                format!("expected a picture in base64, because start_step is {}", start.number()),
            );
        }
        image
    }

    fn check_inside(&mut self, position: ProductPosition, width: u32, height: u32) {
        let ProductPosition::At { x, y } = position else { return };
        for (index, (at, size, side)) in [(x, width, "width"), (y, height, "height")].into_iter().enumerate()
        {
            if i64::from(at) >= i64::from(size) {
                self.wire.errors.add(
                    format!("$.product_position[{index}]"),
                    ErrorCode::OutOfRange,
                    format!("expected less than the {side}, which is {size}, found {at}: the product would be outside"),
                );
            }
        }
    }

    fn auto_unload(&mut self, default: AutoUnload) -> [AutoUnload; 3] {
        let all = self.wire.get(&f::AUTO_UNLOAD).unwrap_or(default);
        self.wire.echo(&f::AUTO_UNLOAD, unload_value(all));
        f::AUTO_UNLOAD_STEPS.each_ref().map(|field| {
            let policy = match self.wire.get(field) {
                Some(true) => AutoUnload::Yes,
                Some(false) => AutoUnload::No,
                None => all,
            };
            self.wire.echo(field, unload_value(policy));
            policy
        })
    }

    fn background_of(&mut self, image: DynamicImage, width: u32, height: u32) -> RgbImage {
        let fitted = self.fit("step1_image", image, width, height);
        let (flat, transparent) = on_white(fitted);
        if transparent {
            self.wire.warnings.push("step1_image is partly transparent; it is laid on white".to_owned());
        }
        flat
    }

    fn text_of(&mut self, image: DynamicImage, width: u32, height: u32) -> RgbaImage {
        let rgba = self.fit("step2_image", image, width, height).into_rgba8();
        if rgba.pixels().all(|pixel| pixel.0[3] == 255) {
            self.wire.warnings.push(
                "step2_image has no transparent part: it covers the background as a whole rectangle"
                    .to_owned(),
            );
        }
        rgba
    }

    fn fit(&mut self, name: &str, image: DynamicImage, width: u32, height: u32) -> DynamicImage {
        let (from_w, from_h) = (image.width(), image.height());
        if (from_w, from_h) != (width, height) {
            self.wire.warnings.push(format!(
                "{name} is {from_w} x {from_h} and was scaled to the output's {width} x {height}"
            ));
        }
        fit_to(image, width, height)
    }
}

/// The position as the sender would write it.
fn position_value(position: ProductPosition) -> Value {
    match position {
        ProductPosition::At { x, y } => json!([x, y]),
        place => f::PRODUCT_POSITION
            .places
            .iter()
            .find(|(_, known)| *known == place)
            .map_or(Value::Null, |(word, _)| (*word).into()),
    }
}
