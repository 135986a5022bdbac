//! Bits of torch's CPU `randn`.

use candle_core::{DType, Device, Tensor};
use marquee::models::rng::Generator;
use serde::Deserialize;

use super::golden::folder;

#[derive(Deserialize)]
struct Table {
    single: Vec<Draw>,
    one_generator: Sequence,
    halves: Sequence,
}

#[derive(Deserialize)]
struct Sequence {
    seed: i64,
    draws: Vec<Draw>,
}

#[derive(Deserialize)]
struct Draw {
    /// Negative seeds are allowed in torch; 2^63 - 1 is the largest in the table.
    seed: Option<i64>,
    n: usize,
    dtype: Option<String>,
    bits: Vec<String>,
    crc32: u32,
}

fn table() -> Table {
    serde_json::from_slice(&std::fs::read(folder().join("randn.json")).unwrap()).unwrap()
}

/// The bits as little endian bytes, and the width of a value.
fn bytes(drawn: &Tensor) -> (Vec<u8>, usize) {
    match drawn.dtype() {
        DType::F32 => (drawn.to_vec1::<f32>().unwrap().iter().flat_map(|v| v.to_le_bytes()).collect(), 4),
        DType::BF16 => {
            (drawn.to_vec1::<half::bf16>().unwrap().iter().flat_map(|v| v.to_le_bytes()).collect(), 2)
        }
        _ => (drawn.to_vec1::<half::f16>().unwrap().iter().flat_map(|v| v.to_le_bytes()).collect(), 2),
    }
}

fn check(draw: &Draw, found: &Tensor) {
    let (bytes, width) = bytes(found);
    let word = |i: usize| {
        let mut value = 0u32;
        for (k, byte) in bytes[i * width..(i + 1) * width].iter().enumerate() {
            value |= u32::from(*byte) << (8 * k);
        }
        format!("{value:x}")
    };
    let mut head: Vec<_> = (0..draw.n.min(4)).map(word).collect();
    head.push(word(draw.n - 1));
    let what = format!("seed {:?}, {} values, {:?}", draw.seed, draw.n, draw.dtype);
    assert_eq!(head, draw.bits, "{what}");
    assert_eq!(crc32(&bytes), draw.crc32, "{what}: checksum of all bits");
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |mut crc, byte| {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
        crc
    })
}

#[test]
fn every_seed_and_size_of_the_table_has_torchs_bits() {
    for draw in table().single {
        let dtype = match draw.dtype.as_deref() {
            Some("bf16") => DType::BF16,
            Some("f16") => DType::F16,
            _ => DType::F32,
        };
        let found = Generator::new(draw.seed.unwrap() as u64).randn(draw.n, dtype, &Device::Cpu).unwrap();
        check(&draw, &found);
    }
}

#[test]
fn draws_of_mixed_sizes_from_one_generator_have_torchs_bits() {
    let sequence = table().one_generator;
    let mut generator = Generator::new(sequence.seed as u64);
    for draw in &sequence.draws {
        check(draw, &generator.randn(draw.n, DType::F32, &Device::Cpu).unwrap());
    }
}

#[test]
fn a_latent_of_1024_pixels_starts_and_ends_as_published() {
    let values = Generator::new(42).normals(16 * 128 * 128);
    let bits = |i: usize| values[i].to_bits();
    assert_eq!([bits(0), bits(1), bits(2), bits(3)], [0x3ff6a529, 0x3fbe5f53, 0x3f669567, 0xc006c0db]);
    assert_eq!(bits(values.len() - 1), 0xc015152c);
}

#[test]
fn half_precision_draws_of_odd_sizes_leave_the_generator_where_torch_does() {
    let mut generators = [Generator::new(7), Generator::new(7)];
    for draw in table().halves.draws {
        let (index, dtype) =
            if draw.dtype.as_deref() == Some("bf16") { (0, DType::BF16) } else { (1, DType::F16) };
        check(&draw, &generators[index].randn(draw.n, dtype, &Device::Cpu).unwrap());
    }
}
