//! From raw JSON to a plan.

mod arbitrary;
mod examples;
mod files;
mod images;
mod rules;
mod table;

use marquee::input::plan::AutoUnload;
use marquee::input::{ErrorCode, InputErrors, InputLimits, Plan, plan as make_plan};
use serde_json::Value;

const LIMITS: InputLimits = InputLimits {
    max_image_bytes: 1 << 20,
    max_image_pixels: 1_000_000,
    max_prompt_chars: 10_000,
    auto_unload_default: AutoUnload::Yes,
};

const RANDOM_SEED: u64 = 4711;

fn plan(raw: &Value) -> Result<Plan, InputErrors> {
    make_plan(raw, &LIMITS, || RANDOM_SEED)
}

fn accepted(raw: &Value) -> Plan {
    plan(raw).unwrap_or_else(|errors| panic!("refused: {errors}"))
}

/// Path, code and message of the only error.
fn refused(raw: &Value) -> (String, ErrorCode, String) {
    match plan(raw) {
        Ok(plan) => panic!("accepted: {:?}", plan.parameters),
        Err(errors) => match errors.0.as_slice() {
            [error] => (error.path.clone(), error.code, error.message.clone()),
            _ => panic!("expected one error: {errors:?}"),
        },
    }
}
