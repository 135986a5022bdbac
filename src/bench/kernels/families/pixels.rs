//! `pixels.cu`: bytes of pictures to numbers and back. Called below `models::ops`, whose functions cross the bus.

use candle_core::{DType, Device, Result, Tensor};

use super::super::case::{Case, count, one, picture, random, text};
use super::super::table::{Bound, FLOATS, Kernel, Row};
use crate::models::ops;

/// A byte more or less, where a number lies half way.
const BYTE: f64 = 1.001 / 255.0;

pub(in super::super) const KERNELS: &[Kernel] = &[
    Kernel {
        name: "bytes-to-unit",
        family: "pixels",
        dtypes: &[DType::F32],
        bound: Bound::roundings(1).in_f32(1e-6),
        draw: |dice| {
            let (height, width) = dice.sides(60);
            unit([height, width, dice.between(1, 4)])
        },
        rows: || vec![Row { net: "vae", dtype: DType::F32, case: unit([1024, 1024, 3]) }],
    },
    Kernel {
        name: "signed-to-bytes",
        family: "pixels",
        dtypes: FLOATS,
        bound: Bound::roundings(1).in_f32(0.0).and(BYTE),
        draw: |dice| {
            let (height, width) = dice.sides(60);
            bytes([dice.batch(), dice.between(1, 4), height, width])
        },
        rows: || vec![Row::vae(bytes([1, 3, 1024, 1024]))],
    },
];

fn unit(shape: [usize; 3]) -> Case {
    Case::made(text(&shape), [random(shape)], |[x]| {
        let levels =
            x.to_device(&Device::Cpu)?.affine(60.0, 128.0)?.clamp(0f32, 255f32)?.to_dtype(DType::U8)?;
        let levels = levels.to_device(x.device())?;
        Ok(Box::new(move || one(as_unit(&levels))))
    })
    .moves(count(&shape))
    .writes(count(&shape))
}

fn bytes(x: [usize; 4]) -> Case {
    Case::new(text(&x), [picture(x).deviation(0.5)], |[x]| one(as_bytes(x))).moves(count(&x))
}

/// (height, width, channels) as they are.
fn as_unit(bytes: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if bytes.device().is_cuda() {
        return crate::cuda::pixels::unit(bytes);
    }
    let picture = ops::unit_picture(&bytes.flatten_all()?.to_vec1()?, bytes.dims3()?, bytes.device())?;
    picture.squeeze(0)?.permute((1, 2, 0))
}

/// (batch, height, width, channels).
fn as_bytes(x: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return crate::cuda::pixels::bytes(x);
    }
    let (batch, channels, height, width) = x.dims4()?;
    Tensor::from_vec(ops::picture_bytes(x)?, (batch, height, width, channels), x.device())
}
