//! What a card can do at most, by name.

use candle_core::DType;
use serde::Serialize;

/// A card's dense rates as its data sheet states them: TFLOP/s without tensor cores in f32, with them in 16 bit (sums in
/// f32) and in fp8; GB/s of its memory.
struct Card {
    /// Part of the name that the driver gives; the first match counts, so longer names stand first.
    name: &'static str,
    f32: f64,
    half: f64,
    fp8: Option<f64>,
    memory: f64,
}

const fn card(name: &'static str, f32: f64, half: f64, fp8: Option<f64>, memory: f64) -> Card {
    Card { name, f32, half, fp8, memory }
}

/// NVIDIA's data sheets and architecture papers, without sparsity.
const CARDS: [Card; 14] = [
    card("H200", 67.0, 989.5, Some(1979.0), 4800.0),
    card("H100 PCIe", 51.0, 756.0, Some(1513.0), 2000.0),
    card("H100 NVL", 60.0, 835.5, Some(1671.0), 3900.0),
    card("H100", 67.0, 989.5, Some(1979.0), 3350.0),
    card("A100-SXM4-80GB", 19.5, 312.0, None, 2039.0),
    card("A100 80GB PCIe", 19.5, 312.0, None, 1935.0),
    card("A100", 19.5, 312.0, None, 1555.0),
    card("L40S", 91.6, 362.0, Some(733.0), 864.0),
    card("L4", 30.3, 121.0, Some(242.0), 300.0),
    card("RTX 6000 Ada", 91.1, 364.2, Some(728.5), 960.0),
    card("RTX 4090", 82.6, 165.2, Some(330.3), 1008.0),
    card("RTX 3090", 35.6, 71.0, None, 936.0),
    card("RTX A6000", 38.7, 154.8, None, 768.0),
    card("A40", 37.4, 149.7, None, 696.0),
];

/// Figures that were measured on the card at hand and take the place of the data sheet's.
#[derive(Debug, Clone, Copy, Default)]
pub struct Overrides {
    /// TFLOP/s of the matrix product in the dtype that is measured.
    pub teraflops: Option<f64>,
    /// GB/s of the card's memory.
    pub gigabytes: Option<f64>,
}

/// The limits that figures are held against; absent where nothing is known of the device.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Ceilings {
    /// TFLOP/s in f32.
    pub f32_teraflops: Option<f64>,
    /// TFLOP/s in f16 and bf16.
    pub half_teraflops: Option<f64>,
    /// TFLOP/s in fp8.
    pub fp8_teraflops: Option<f64>,
    /// GB/s between the card and its memory.
    pub memory_gigabytes: Option<f64>,
    /// Where the figures are from.
    pub source: &'static str,
}

impl Ceilings {
    /// Those of the device that calls itself `name`.
    pub fn of(name: &str, overrides: Overrides) -> Self {
        let card = CARDS.iter().find(|card| name.contains(card.name));
        let given = overrides.teraflops;
        let source = match (overrides.teraflops.is_some() || overrides.gigabytes.is_some(), card) {
            (true, _) => "given on the command line",
            (false, Some(_)) => "NVIDIA data sheet, dense",
            (false, None) => "unknown device",
        };
        Self {
            f32_teraflops: given.or(card.map(|card| card.f32)),
            half_teraflops: given.or(card.map(|card| card.half)),
            fp8_teraflops: given.or(card.and_then(|card| card.fp8)),
            memory_gigabytes: overrides.gigabytes.or(card.map(|card| card.memory)),
            source,
        }
    }

    /// TFLOP/s of products in `dtype`.
    pub fn teraflops(&self, dtype: DType) -> Option<f64> {
        match dtype {
            DType::F16 | DType::BF16 => self.half_teraflops,
            DType::F8E4M3 => self.fp8_teraflops,
            _ => self.f32_teraflops,
        }
    }

    /// Milliseconds below which `flops` and `bytes` cannot be had, and which of the two decides.
    pub fn floor(&self, dtype: DType, flops: f64, bytes: f64) -> Option<(f64, &'static str)> {
        let compute = self.teraflops(dtype).map(|rate| flops / rate / 1e9);
        let memory = self.memory_gigabytes.map(|rate| bytes / rate / 1e6);
        match (compute, memory) {
            (Some(compute), Some(memory)) if memory > compute => Some((memory, "memory")),
            (Some(compute), _) => Some((compute, "compute")),
            (None, Some(memory)) => Some((memory, "memory")),
            (None, None) => None,
        }
    }
}
