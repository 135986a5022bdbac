//! What a device's error says of the device. The only place that reads drivers' words.

/// How the device is after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// It has no room.
    Full,
    /// Its context is lost: every later call fails too.
    Lost,
    /// It is fine; the operation is not.
    Sound,
}

/// Driver errors after which the context cannot be used (CUDA's documentation: "the process must be terminated and
/// relaunched").
const LOST: [&str; 13] = [
    "CUDA_ERROR_ILLEGAL_ADDRESS",
    "CUDA_ERROR_LAUNCH_FAILED",
    "CUDA_ERROR_LAUNCH_TIMEOUT",
    "CUDA_ERROR_HARDWARE_STACK_ERROR",
    "CUDA_ERROR_ILLEGAL_INSTRUCTION",
    "CUDA_ERROR_MISALIGNED_ADDRESS",
    "CUDA_ERROR_INVALID_ADDRESS_SPACE",
    "CUDA_ERROR_INVALID_PC",
    "CUDA_ERROR_ECC_UNCORRECTABLE",
    "CUDA_ERROR_NVLINK_UNCORRECTABLE",
    "CUDA_ERROR_CONTEXT_IS_DESTROYED",
    "CUDA_ERROR_DEVICE_UNAVAILABLE",
    "CUDA_ERROR_ASSERT",
];

/// Driver and library errors that mean that there is no room.
const FULL: [&str; 3] =
    ["CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"];

/// Reads the driver's name for an error out of candle's words, which is all that candle passes on.
pub fn condition(error: &candle_core::Error) -> Condition {
    let words = format!("{error} {error:?}");
    let named = |names: &[&str]| names.iter().any(|name| words.contains(name));
    if named(&LOST) {
        Condition::Lost
    } else if named(&FULL) {
        Condition::Full
    } else {
        Condition::Sound
    }
}
