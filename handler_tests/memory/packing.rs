//! Weights that were packed on the host lie on the device bit for bit as they are in their files, resident or streamed. With
//! the feature `cuda`, on the first card as well, if there is one.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use half::bf16;
use marquee::memory::pace::Pace;
use marquee::memory::packed::lane::{SLOT, TILE_BYTES};
use marquee::memory::{Parts, Store, Transfer};
use marquee::models::weights::{Blocks, Source, Weights};

use super::store::noise;

/// Families of blocks: name, blocks, numbers of each.
const FAMILIES: [(&str, usize, usize); 4] = [
    // Shorter than a tile, and below what is packed at all.
    ("small", 2, 3001),
    // All of it in a slot.
    ("slot", 2, (9 << 20) + 77),
    // In place, in several waves.
    ("waves", 3, (22 << 20) + 5000),
    // Not worth packing.
    ("noise", 1, 2 << 20),
];

/// Numbers of one block, as bits; different for each.
fn bits(family: &str, block: usize, count: usize) -> Vec<u16> {
    let base: Vec<u16> = {
        let normal = (noise(&[1 << 18], block as u64) * 0.02).unwrap().to_dtype(DType::BF16).unwrap();
        normal.to_vec1::<bf16>().unwrap().into_iter().map(bf16::to_bits).collect()
    };
    let mut state = (count + block) as u32 | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u16
    };
    let mut numbers: Vec<u16> = base.into_iter().cycle().take(count).map(|x| x ^ next() & 0x807f).collect();
    if family == "noise" {
        numbers.fill_with(&mut next);
    }
    if family == "waves" {
        // Tiles that are kept as they are, first, in the middle and last; many escapes; zeros.
        let end = count - 1000;
        for range in [0..700_000, 9_000_000..12_000_000, end - block * 600_000..count] {
            numbers[range].fill_with(&mut next);
        }
        numbers[13_000_000..14_000_000].iter_mut().step_by(40).for_each(|x| *x = next());
        numbers[15_000_000..16_000_000].fill(0);
    }
    numbers
}

/// Names and tensors of all blocks in order: bf16 of all sizes, f32 beside them.
fn tensors() -> Vec<(String, [Tensor; 2])> {
    let mut all = Vec::new();
    for (family, blocks, count) in FAMILIES {
        for block in 0..blocks {
            let numbers: Vec<bf16> = bits(family, block, count).into_iter().map(bf16::from_bits).collect();
            let weight = Tensor::from_vec(numbers, count, &Device::Cpu).unwrap();
            all.push((format!("{family}.{block}"), [weight, noise(&[513], block as u64)]));
        }
    }
    all
}

struct Net(Vec<(&'static str, Blocks<[Tensor; 2]>)>);

impl Net {
    fn new(w: &Weights) -> Result<Self> {
        let family = |(name, blocks, count): (&'static str, usize, usize)| {
            let build =
                move |w: &Weights| Ok([w.get(count, "weight")?, w.to_dtype(DType::F32).get(513, "norm")?]);
            Ok((name, Blocks::new(&w.pp(name), blocks, build)?))
        };
        Ok(Self(FAMILIES.into_iter().map(family).collect::<Result<_>>()?))
    }

    /// Copies of all weights in order, made on the device.
    fn run(&self) -> Result<Vec<[Tensor; 2]>> {
        let mut all = Vec::new();
        for (_, blocks) in &self.0 {
            for block in 0..blocks.len() {
                all.push(blocks.with(block, |[weight, norm]| Ok([weight.copy()?, norm.copy()?]))?);
            }
        }
        Ok(all)
    }
}

/// Panics unless all bits are the same.
fn check(found: &[[Tensor; 2]], expected: &[(String, [Tensor; 2])], what: &str) {
    assert_eq!(found.len(), expected.len());
    for ([weight, norm], (name, [expected, other])) in found.iter().zip(expected) {
        let bits = |tensor: &Tensor| tensor.to_device(&Device::Cpu).unwrap().to_vec1::<bf16>().unwrap();
        let (weight, expected) = (bits(weight), bits(expected));
        let wrong = weight.iter().zip(&expected).position(|(a, b)| a.to_bits() != b.to_bits());
        assert_eq!((wrong, weight.len()), (None, expected.len()), "{what}: {name}");
        super::store::same(&norm.to_device(&Device::Cpu).unwrap(), other);
    }
}

fn devices() -> Vec<Device> {
    #[cfg_attr(not(feature = "cuda"), allow(unused_mut, reason = "there is no card to add"))]
    let mut all = vec![Device::Cpu];
    #[cfg(feature = "cuda")]
    match marquee::models::device::Target::Cuda(0).open() {
        Ok(card) => all.push(card),
        Err(error) => eprintln!("without a card: {error}"),
    }
    all
}

#[test]
fn packed_weights_arrive_as_they_are_in_their_files() {
    assert!(FAMILIES[1].2 * 3 / 2 < SLOT && FAMILIES[2].2 * 7 / 5 > SLOT + 4 * TILE_BYTES);
    let expected = tensors();
    let named = expected.iter().flat_map(|(name, [weight, norm])| {
        [(format!("{name}.weight"), weight.clone()), (format!("{name}.norm"), norm.clone())]
    });
    let named: Vec<(String, Tensor)> = named.collect();
    let folder = tempfile::tempdir().unwrap();
    // Read whole and then packed, and packed as it is read.
    let memory: Arc<dyn Source> = Arc::new(named.iter().cloned().collect::<HashMap<_, _>>());
    let by_name: Vec<(&str, Tensor)> = named.iter().map(|(key, x)| (key.as_str(), x.clone())).collect();
    let file = super::store::saved(folder.path(), &by_name);
    let sources = [memory, file];
    for (device, source) in devices().iter().flat_map(|device| sources.iter().map(move |from| (device, from)))
    {
        let build = |w: &Weights| Net::new(w).map(drop);
        let store = Store::new("net", Arc::clone(source), DType::BF16, device, build).unwrap();
        let store = Arc::new(store.packing(true));
        let all: Vec<usize> = (0..store.pieces().len()).collect();
        assert_eq!(store.host_bytes(), store.bytes());
        let transfer = Transfer::new(device).unwrap();

        // Out of the files, as they are.
        let mut parts = Parts::new(&store, &transfer);
        parts.bring(&all, &|| true).unwrap();
        check(&Net::new(&parts.weights(&[], false).unwrap()).unwrap().run().unwrap(), &expected, "files");
        drop(parts);

        store.load_host(&Pace::default()).unwrap();
        let entries = store.layout().entries().iter().map(|entry| entry.bytes() as u64);
        assert_eq!(store.loaded_bytes(), entries.sum::<u64>());
        let ratio = store.host_bytes() as f64 / store.bytes() as f64;
        assert!(ratio < 0.85, "{ratio}");
        for round in 0..3 {
            let mut parts = Parts::new(&store, &transfer);
            parts.bring(&all, &|| true).unwrap();
            let net = Net::new(&parts.weights(&[], false).unwrap()).unwrap();
            check(&net.run().unwrap(), &expected, &format!("resident, round {round}"));
            // Memory that was just filled is freed and filled again at once.
            drop(net);
            parts.free(&all[2..5]);
            parts.bring(&all, &|| true).unwrap();
            let net = Net::new(&parts.weights(&[], false).unwrap()).unwrap();
            check(&net.run().unwrap(), &expected, &format!("brought again, round {round}"));
        }
        for streamed in [&all[1..], &all[4..8], &[all[3], all[6]]] {
            for again in [true, false] {
                let mut parts = Parts::new(&store, &transfer);
                let stay: Vec<usize> = all.iter().copied().filter(|at| !streamed.contains(at)).collect();
                parts.bring(&stay, &|| true).unwrap();
                let net = Net::new(&parts.weights(streamed, again).unwrap()).unwrap();
                for _ in 0..2 {
                    check(&net.run().unwrap(), &expected, &format!("streamed {streamed:?}, {again}"));
                }
                // Blocks out of order: slots are filled anew before anybody read what was on its way there.
                for (_, blocks) in net.0.iter().rev() {
                    blocks.with(0, |_| Ok(())).unwrap();
                }
                check(
                    &net.run().unwrap(),
                    &expected,
                    &format!("streamed {streamed:?}, {again}, out of order"),
                );
            }
        }
        store.drop_host();
        assert_eq!(store.host_bytes(), store.bytes());
    }
}

#[test]
fn without_packing_the_copy_is_as_long_as_the_weights() {
    let weight = noise(&[1 << 20], 1).to_dtype(DType::BF16).unwrap();
    let source: Arc<dyn Source> = Arc::new(HashMap::from([("x".to_owned(), weight)]));
    let build = |w: &Weights| w.get(1 << 20, "x").map(drop);
    for (packs, expected) in [(Some(false), 1.0), (None, 1.0), (Some(true), 0.7009)] {
        let mut store = Store::new("net", Arc::clone(&source), DType::BF16, &Device::Cpu, build).unwrap();
        if let Some(packs) = packs {
            store = store.packing(packs);
        }
        store.load_host(&Pace::default()).unwrap();
        let ratio = store.host_bytes() as f64 / store.bytes() as f64;
        assert!((ratio - expected).abs() < 0.001, "{packs:?}: {ratio}");
    }
}

#[test]
fn a_file_that_ends_while_it_is_packed_is_named_and_nobody_waits_for_its_tiles() {
    let folder = tempfile::tempdir().unwrap();
    let weight = noise(&[5 << 20], 1).to_dtype(DType::BF16).unwrap();
    let source = super::store::saved(folder.path(), &[("layer.weight", weight)]);
    let build = |w: &Weights| w.get(5 << 20, "layer.weight").map(drop);
    let store = Store::new("net", source, DType::BF16, &Device::Cpu, build).unwrap().packing(true);
    let path = folder.path().join("saved.safetensors");
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    let error = store.load_host(&Pace::default()).unwrap_err().to_string();
    assert!(error.contains("layer.weight") && error.contains("saved.safetensors"), "{error}");
    assert!(!store.is_on_host());
}
