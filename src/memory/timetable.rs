//! `auto_unload`: how long a step's models may stay.

use crate::input::plan::AutoUnload;

/// What happens to the models that a step used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepRule {
    /// The step, as [`super::Visit::step`] has it.
    pub step: u8,
    /// In log lines: `[Before Step1 models unload]`.
    pub label: String,
    /// Whether they leave.
    pub unload: AutoUnload,
    /// With [`AutoUnload::Yes`]: they are gone before the first visit of this step or a later one, at the latest when the
    /// request is done.
    pub gone_before: u8,
}

/// The latest that models may stay: those of step 1 until step 2 is done, those of step 2 until step 3 begins, those of
/// step 3 until it is done.
pub fn timetable(auto_unload: [AutoUnload; 3]) -> Vec<StepRule> {
    let [first, second, third] = auto_unload;
    let rule = |step, label: &str, unload, gone_before| StepRule {
        step,
        label: label.to_owned(),
        unload,
        gone_before,
    };
    vec![
        rule(1, "Step1 models", first, 3),
        rule(2, "Step2 models", second, 3),
        rule(3, "Flux Inpainting", third, 4),
    ]
}
