//! What a net expects against what a source has.

use std::collections::HashSet;
use std::path::Path;

use candle_core::DType;

use crate::models::weights::{Expected, Format, Problem, Source};

/// Compares name, shape and type of every tensor without reading data. `extra` says which unexpected keys are harmless.
pub fn check(expected: &[Expected], source: &dyn Source, extra: impl Fn(&str) -> bool) -> Vec<Problem> {
    let mut problems = Vec::new();
    for Expected { key, shape } in expected {
        let file = source.origin(key);
        let wanted = format!("{shape:?} of floats or GGML blocks");
        let problem = |found: String| Problem::new(Path::new(&file), key, wanted.clone(), found);
        match source.meta(key) {
            None => problems.push(problem("no such tensor".to_owned())),
            Some(meta) if meta.shape != *shape => problems.push(problem(format!("{:?}", meta.shape))),
            Some(meta) if !is_float(meta.format) => problems.push(problem(meta.format.to_string())),
            Some(_) => {}
        }
    }
    let known: HashSet<&str> = expected.iter().map(|tensor| tensor.key.as_str()).collect();
    let mut left: Vec<String> =
        source.keys().into_iter().filter(|key| !known.contains(key.as_str()) && !extra(key)).collect();
    left.sort();
    problems.extend(left.into_iter().map(|key| {
        let found =
            source.meta(&key).map_or_else(String::new, |meta| format!("{:?} {}", meta.shape, meta.format));
        Problem::new(Path::new(&source.origin(&key)), key, "no such tensor", found)
    }));
    problems
}

fn is_float(format: Format) -> bool {
    match format {
        Format::Dense(dtype) => {
            matches!(dtype, DType::F64 | DType::F32 | DType::F16 | DType::BF16 | DType::F8E4M3)
        }
        Format::Quantised(_) => true,
    }
}

/// Keys that quantisers leave beside the tensors of a net.
pub(super) fn is_scale(key: &str) -> bool {
    ["scale_weight", "weight_scale", "weight.scale", "scale_input", "input_scale", "scaled_fp8"]
        .iter()
        .any(|end| key.ends_with(end))
}
