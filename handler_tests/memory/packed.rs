//! Packed numbers come back bit for bit, and lanes unpack over themselves without treading on what is still to be read.

use candle_core::DType;
use half::bf16;
use marquee::memory::packed::lane::{Blob, Lane, SLOT, TILE_BYTES};
use marquee::memory::packed::{ALIGN, CHUNK, STRIPE, TILE, blob_bytes, most_escapes, pack, unpack};
use proptest::collection::vec;
use proptest::prelude::*;

use super::store::noise;

/// Normal numbers of this deviation.
fn normal(count: usize, deviation: f64, seed: u64) -> Vec<u16> {
    let tensor = (noise(&[count], seed) * deviation).unwrap().to_dtype(DType::BF16).unwrap();
    tensor.to_vec1::<bf16>().unwrap().into_iter().map(bf16::to_bits).collect()
}

/// What the format's table says of each number alone: what a card relies on.
fn by_the_table(blob: &[u8], count: usize) -> Vec<u16> {
    let line = |bytes: usize| bytes.next_multiple_of(16);
    let (chunks, packs) = (count.div_ceil(CHUNK), count.div_ceil(8));
    let (lows, blob) = blob.split_at(line(chunks));
    let (firsts, blob) = blob.split_at(line(2 * chunks + 2));
    let (twos, blob) = blob.split_at(line(2 * packs));
    let (tops, blob) = blob.split_at(line(packs));
    let (rests, escapes) = blob.split_at(line(count));
    let half = |bytes: &[u8], at: usize| u16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]]);
    let mut uppers = vec![0; count];
    for chunk in 0..chunks {
        for escape in usize::from(half(firsts, chunk))..usize::from(half(firsts, chunk + 1)) {
            let escape = half(escapes, escape);
            uppers[chunk * CHUNK + usize::from(escape >> 5)] += escape & 31;
        }
    }
    let number = |at: usize| {
        let (pack, place) = (at / 8, at % 8);
        let code = half(twos, pack) >> (2 * place) & 3 | (u16::from(tops[pack]) >> place & 1) << 2;
        let exponent = (u16::from(lows[at / CHUNK]) + code + 8 * uppers[at]) % 256;
        let rest = u16::from(rests[at]);
        (rest & 0x80) << 8 | exponent << 7 | rest & 0x7f
    };
    (0..count).map(number).collect()
}

/// Packs, unpacks, compares; bytes of the blob, or nothing if the tile is better kept as it is.
fn there_and_back(numbers: &[u16]) -> Option<usize> {
    // A blob that was used before, longer and full of something.
    let mut blob = vec![0xa5; 3 << 20];
    if !pack(numbers, &mut blob) {
        return None;
    }
    assert!(blob.len().is_multiple_of(ALIGN));
    let mut found = vec![0x5a5a; numbers.len()];
    unpack(&blob, &mut found).unwrap();
    assert!(found == numbers, "{} numbers", numbers.len());
    assert!(
        by_the_table(&blob, numbers.len()) == numbers,
        "{} numbers, by the format's table",
        numbers.len()
    );
    Some(blob.len())
}

fn ratio(numbers: &[u16]) -> f64 {
    there_and_back(numbers).unwrap() as f64 / (2 * numbers.len()) as f64
}

#[test]
fn normal_weights_of_any_deviation_take_seven_tenths() {
    for (seed, deviation) in [1.0, 0.02, 1e-4, 1e-30, 3e4].into_iter().enumerate() {
        let found = ratio(&normal(TILE, deviation, seed as u64));
        assert!((0.695..=0.705).contains(&found), "{deviation}: {found}");
    }
}

#[test]
fn trained_weights_with_heavy_tails_take_little_more() {
    let (a, b) = (noise(&[TILE], 1), noise(&[TILE], 2));
    // Of log-normal deviations, with an outlier here and there.
    let mut tails: Vec<f32> = (a * b.exp().unwrap()).unwrap().to_vec1().unwrap();
    for number in tails.iter_mut().step_by(1531) {
        *number *= 200.0;
    }
    let tails: Vec<u16> = tails.into_iter().map(|x| bf16::from_f32(x).to_bits()).collect();
    let found = ratio(&tails);
    assert!(found <= 0.76, "{found}");
}

#[test]
fn zeros_ones_and_what_alternates_come_back() {
    let one = bf16::ONE.to_bits();
    assert!(ratio(&vec![0; TILE]) <= 0.69);
    assert!(ratio(&vec![0x8000; TILE]) <= 0.69);
    assert!(ratio(&vec![one; TILE]) <= 0.69);
    // Norms of ones between matrices, not in line with chunks.
    let mut mixed = normal(TILE, 0.02, 5);
    for run in mixed.chunks_mut(9000) {
        run[..300].fill(one);
        run[300..307].fill(0);
    }
    assert!(ratio(&mixed) <= 0.745);
}

#[test]
fn every_pattern_comes_back_or_is_kept_as_it_is() {
    let all: Vec<u16> = (0..=u16::MAX).collect();
    // By size, the 2048 of a chunk have exactly 8 exponents: infinities, payloads and numbers below the normal ones among them.
    let mut sorted = all.clone();
    sorted.sort_by_key(|number| number << 1);
    assert_eq!(there_and_back(&sorted), Some(blob_bytes(all.len(), 0)));
    // Mixed, they are nothing that a code could reach.
    let mixed: Vec<u16> = all.iter().map(|number| number.wrapping_mul(40503)).collect();
    assert_eq!(there_and_back(&mixed), None);
    // Each of them as an escape, few enough at a time: from below the others, from above, and from both.
    for others in [bf16::INFINITY, bf16::ZERO, bf16::ONE] {
        for some in all.chunks(4096) {
            let mut numbers = vec![others.to_bits(); 4096 * 40];
            for (number, place) in some.iter().zip((7..).step_by(39)) {
                numbers[place] = *number;
            }
            assert!(there_and_back(&numbers).is_some());
        }
    }
}

#[test]
fn a_number_in_eight_may_be_an_escape() {
    for (count, most) in [(100, 12), (STRIPE, STRIPE / 8), (TILE, 65535)] {
        assert_eq!(most_escapes(count), most);
        let mut numbers = vec![bf16::ONE.to_bits(); count];
        numbers.iter_mut().step_by(8).take(most).for_each(|number| *number = 0);
        assert_eq!(there_and_back(&numbers), Some(blob_bytes(count, most)), "{count}");
        numbers[count - 1] = 0;
        assert_eq!(there_and_back(&numbers), None, "{count}");
    }
}

#[test]
fn no_blob_is_longer_than_its_numbers() {
    let longer =
        |count: &usize| blob_bytes(*count, most_escapes(*count)) > (2 * count).next_multiple_of(ALIGN);
    assert_eq!((1..=TILE).find(longer), None);
}

#[test]
fn codes_reach_where_most_of_a_chunk_lies() {
    let of = |exponent: u16, count: usize| std::iter::repeat_n(exponent << 7, count);
    // From one chunk to the next the numbers grow and shrink, a little and out of reach; each has a few far above and below.
    let mut numbers = Vec::new();
    for middle in [100, 101, 99, 103, 95, 180, 179, 247, 254, 30, 8, 4, 128] {
        for exponent in middle - 4..middle + 2 {
            numbers.extend(of(exponent, 339));
        }
        numbers.extend(of((middle + 100) % 256, 10).chain(of((middle + 200) % 256, 4)));
    }
    assert_eq!(numbers.len(), 13 * CHUNK);
    let blob = there_and_back(&numbers).unwrap();
    assert_eq!(blob, blob_bytes(numbers.len(), 13 * 14));
}

#[test]
fn odd_lengths_come_back() {
    let numbers = normal(3 * STRIPE, 1.0, 9);
    let lengths =
        [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 127, 128, CHUNK - 1, CHUNK, CHUNK + 1, STRIPE - 1, STRIPE];
    for length in lengths.into_iter().chain([STRIPE + 1, 2 * STRIPE + CHUNK + 7, 3 * STRIPE]) {
        // The shortest may be better off as they are; they are never wrong.
        let found = there_and_back(&numbers[..length]);
        assert!(length < 1000 || found.is_some(), "{length}");
    }
    assert!(!pack(&vec![0; TILE + 1], &mut Vec::new()));
}

#[test]
fn a_damaged_blob_is_an_error() {
    let mut numbers = normal(STRIPE, 1.0, 3);
    numbers[5] = 0;
    let mut blob = Vec::new();
    assert!(pack(&numbers, &mut blob));
    let mut into = vec![0; STRIPE];
    let short = unpack(&blob[..blob.len() / 2], &mut into).unwrap_err();
    assert!(short.to_string().contains("ends early"), "{short}");
    // The count of escapes lies behind the lows of four chunks and the first escapes of each.
    blob[16 + 2 * 4 + 1] = 0xff;
    let outside = unpack(&blob, &mut into).unwrap_err();
    assert!(outside.to_string().contains("escapes"), "{outside}");
    blob[0] = 249;
    let high = unpack(&blob, &mut into).unwrap_err();
    assert!(high.to_string().contains("too high"), "{high}");

    assert!(pack(&numbers[..100], &mut blob));
    let mut into = vec![0; 100];
    // The escape of the zero: behind a low, two firsts, 13 packs and the rests, each filled up to 16.
    let escape = &mut blob[16 + 16 + 32 + 16 + 112..][..2];
    assert_eq!(escape[0] >> 5 | escape[1] << 3, 5);
    escape[1] = 100 >> 3;
    let outside = unpack(&blob, &mut into).unwrap_err();
    assert!(outside.to_string().contains("outside of its chunk"), "{outside}");
}

/// Runs of one kind: of one size, of one value, of anything. They are alike enough for most to be packed.
fn runs() -> impl Strategy<Value = Vec<u16>> {
    let kind = prop_oneof![3 => Just(0u8), 1 => Just(1), 1 => Just(2), 2 => Just(3)];
    let run = move |like: u16| {
        (kind.clone(), any::<u16>(), 1..3000usize).prop_map(move |(kind, seed, length)| {
            let mut state = u32::from(seed) | 1 << 16;
            let mut next = move || {
                state = state.wrapping_mul(1664525).wrapping_add(1013904223);
                (state >> 16) as u16
            };
            let one = |_| match kind {
                0 => next() & 0x83ff | like & 0x7c00,
                1 => seed & 0x83ff | like & 0x7c00,
                2 => next() & 0x807f | like & 0x7f80,
                _ => next(),
            };
            (0..if kind == 3 { length / 20 } else { length }).map(one).collect::<Vec<u16>>()
        })
    };
    any::<u16>().prop_flat_map(move |like| vec(run(like), 0..20)).prop_map(|runs| runs.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_packed_comes_back(numbers in runs()) {
        let mut blob = Vec::new();
        if pack(&numbers, &mut blob) {
            let mut found = vec![0x5a5a; numbers.len()];
            unpack(&blob, &mut found).unwrap();
            prop_assert!(found == numbers);
            prop_assert!(by_the_table(&blob, numbers.len()) == numbers);
        }
    }

    /// Tiles of any size, packed or not: no wave writes where it, or a later one, reads.
    #[test]
    fn waves_read_before_they_write(
        sizes in vec(prop_oneof![8 => 700..850usize, 1 => 1..700usize, 1 => Just(1024)], 1..200),
        cut in 1..=TILE_BYTES / ALIGN,
    ) {
        let bytes = (sizes.len() - 1) * TILE_BYTES + cut * ALIGN;
        let mut blobs: Vec<Blob> =
            sizes.iter().map(|size| Blob { bytes: size * TILE_BYTES / 1024, raw: *size == 1024 }).collect();
        let last = blobs.last_mut().unwrap();
        last.bytes = last.bytes.min(cut * ALIGN);
        let lane = Lane::new(bytes, &blobs).unwrap();
        prop_assert_eq!(lane.packed_bytes(), blobs.iter().map(|blob| blob.bytes).sum::<usize>());
        prop_assert_eq!(lane.in_place().end, lane.staged().start);
        prop_assert!(lane.staged().len() <= SLOT);
        let place = lane.offset().unwrap();
        prop_assert!(place + lane.in_place().len() <= bytes);

        let (mut next, mut filled, mut read) = (0, 0, 0);
        for wave in lane.waves() {
            prop_assert_eq!(wave.first, next);
            let end = bytes.min((wave.first + wave.starts.len()) * TILE_BYTES);
            if !wave.staged {
                prop_assert!(end <= place + read, "{} writes up to {} of what begins at {}", next, end, place + read);
            }
            for (tile, expected) in wave.tiles(&lane).zip(&blobs[next..]) {
                let from = tile.blob.start + if wave.staged { lane.in_place().len() } else { 0 };
                prop_assert_eq!((from, tile.raw, tile.bytes.start), (read, expected.raw, filled));
                prop_assert_eq!(tile.blob.len(), expected.bytes);
                read += expected.bytes;
                filled = tile.bytes.end;
                next += 1;
            }
        }
        prop_assert_eq!((next, filled, read), (blobs.len(), bytes, lane.packed_bytes()));
    }
}

#[test]
fn a_lane_that_cannot_unpack_over_itself_is_refused() {
    let whole = Blob { bytes: TILE_BYTES, raw: true };
    assert!(Lane::new(TILE_BYTES, &[]).is_none());
    assert!(Lane::new(TILE_BYTES, &[Blob { bytes: TILE_BYTES + ALIGN, raw: false }]).is_none());
    assert!(Lane::new(TILE_BYTES, &[Blob { bytes: 100, raw: false }]).is_none());
    assert!(Lane::new(TILE_BYTES, &[whole]).is_some());
}
