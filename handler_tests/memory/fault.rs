//! What drivers' words mean.

use candle_core::Error;
use marquee::memory::fault::{Condition, condition};

#[test]
fn the_drivers_names_tell_a_full_device_from_a_lost_one_and_from_a_wrong_operation() {
    let cases = [
        ("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")", Condition::Full),
        ("CublasError(CUBLAS_STATUS_ALLOC_FAILED)", Condition::Full),
        (
            "DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"an illegal memory access was encountered\")",
            Condition::Lost,
        ),
        ("DriverError(CUDA_ERROR_LAUNCH_FAILED, \"unspecified launch failure\")", Condition::Lost),
        (
            "DriverError(CUDA_ERROR_ECC_UNCORRECTABLE, \"uncorrectable ECC error encountered\")",
            Condition::Lost,
        ),
        ("DriverError(CUDA_ERROR_INVALID_VALUE, \"invalid argument\")", Condition::Sound),
        ("shape mismatch in matmul", Condition::Sound),
    ];
    for (words, expected) in cases {
        assert_eq!(condition(&Error::Msg(words.to_owned())), expected, "{words}");
        assert_eq!(condition(&Error::Msg(words.to_owned()).context("T5")), expected, "{words}, wrapped");
        assert_eq!(condition(&Error::Msg(words.to_owned()).bt()), expected, "{words}, with a backtrace");
    }
}
