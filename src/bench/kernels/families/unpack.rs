//! `unpack.cu`: packed weights back to bf16, bit for bit. Called below the bus, whose copies take longer.

use candle_core::{DType, Device, Error, Result, Tensor};
use half::bf16;

use super::super::case::{Case, one, random, text};
use super::super::table::{Bound, Kernel, Row};
use crate::memory::packed;

pub(in super::super) const KERNELS: &[Kernel] = &[Kernel {
    name: "unpack",
    family: "unpack",
    dtypes: &[DType::BF16],
    bound: Bound::EXACT,
    draw: |dice| {
        // Some tiles, the last of them short, and of any length; one of them, if it is there, is kept as it is.
        let numbers = dice.between(0, 2) * packed::TILE + dice.between(1, 70_000);
        let (raw, step) = (dice.between(0, 5), dice.pick(&[9, 37, 1023], 37));
        unpacked(numbers, move |bits| disturb(bits, raw, step))
    },
    // A single block's largest matrix.
    rows: || vec![Row::flux(unpacked(3072 * 15360, |_| ()))],
}];

/// `change` is what is done to normal numbers' bits before they are packed.
fn unpacked(numbers: usize, change: impl Fn(&mut [u16]) + 'static) -> Case {
    Case::made(text(&[numbers]), [random([numbers])], move |[x]| {
        let wide = x.to_device(&Device::Cpu)?.to_dtype(DType::BF16)?.to_vec1::<bf16>()?;
        let mut bits: Vec<u16> = wide.into_iter().map(bf16::to_bits).collect();
        change(&mut bits);
        #[cfg(feature = "cuda")]
        if let Device::Cuda(card) = x.device() {
            let tiles = crate::cuda::unpack::Tiles::pack(&bits, card)?;
            return Ok(Box::new(move || one(tiles.unpack())));
        }
        Ok(Box::new(move || one(there_and_back(&bits))))
    })
    // 1.4 bytes packed, two bytes unpacked.
    .moves(numbers * 17 / 5)
}

/// Any exponent for every number of tile `raw`, and elsewhere for each `step`th, which is an escape then, mostly: an odd step
/// gets to every place of a chunk.
fn disturb(bits: &mut [u16], raw: usize, step: usize) {
    for (place, bits) in bits.iter_mut().enumerate() {
        if place / packed::TILE == raw || place % step == step - 1 {
            // A multiplier that mixes: 2^32 over the golden ratio.
            let exponent = (place as u32).wrapping_mul(2_654_435_769) >> 24;
            *bits = *bits & 0x807f | (exponent as u16) << 7;
        }
    }
}

/// As a processor does it.
fn there_and_back(bits: &[u16]) -> Result<Tensor> {
    let mut numbers = Vec::with_capacity(bits.len());
    let (mut blob, mut tile) = (Vec::new(), Vec::new());
    for bits in bits.chunks(packed::TILE) {
        tile.clear();
        tile.resize(bits.len(), 0);
        if packed::pack(bits, &mut blob) {
            packed::unpack(&blob, &mut tile).map_err(|damage| Error::Msg(damage.to_string()))?;
        } else {
            tile.copy_from_slice(bits);
        }
        numbers.extend(tile.iter().map(|&bits| bf16::from_bits(bits)));
    }
    let count = numbers.len();
    Tensor::from_vec(numbers, count, &Device::Cpu)
}
