//! The line that says what is on the device.

const GIB: f64 = (1u64 << 30) as f64;

/// `[Before Step1 models unload] GPU Memory: allocated=21.75GB, reserved=22.00GB`, GB meaning GiB, and the same numbers as
/// fields. `allocated` is what tensors take, `reserved` what the driver counts as taken.
pub fn log_gpu_memory(label: &str, allocated: u64, reserved: u64) {
    tracing::info!(
        label,
        allocated_bytes = allocated,
        reserved_bytes = reserved,
        "[{label}] GPU Memory: allocated={:.2}GB, reserved={:.2}GB",
        allocated as f64 / GIB,
        reserved as f64 / GIB,
    );
}
