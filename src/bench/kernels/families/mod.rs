//! The table's entries, one file for the formulas that belong together.

mod activation;
mod attention;
mod conv;
mod deform_conv;
mod eight;
mod group_norm;
mod int8;
mod linear;
mod norm;
mod picture;
mod pixels;
mod rope;
mod rows;
mod unpack;
mod window_attention;

use super::table::Kernel;

/// In the order of reports.
pub(super) const ALL: [&[Kernel]; 15] = [
    linear::KERNELS,
    eight::KERNELS,
    int8::KERNELS,
    attention::KERNELS,
    norm::KERNELS,
    rope::KERNELS,
    activation::KERNELS,
    rows::KERNELS,
    group_norm::KERNELS,
    conv::KERNELS,
    picture::KERNELS,
    window_attention::KERNELS,
    deform_conv::KERNELS,
    pixels::KERNELS,
    unpack::KERNELS,
];
