//! bf16 numbers in three quarters of their bytes, bit for bit.
//!
//! Sign and mantissa of a trained weight are noise, its exponent is not: of a thousand neighbours nearly all lie within 15
//! powers of two. So a number becomes a byte (sign and mantissa) and four bits (how far its exponent lies above the lowest
//! one that the chunk's codes reach); the few that lie elsewhere are kept beside them as they are.
//!
//! A tile of n numbers, n up to [`TILE`], becomes a blob whose sections all begin at multiples of 16 bytes:
//!
//! | section | bytes | what |
//! |---|---|---|
//! | lows | a chunk | lowest exponent of the chunk's codes, at most 241 |
//! | firsts | 4 a stripe, and 4 | number of the stripe's first escape; the last is how many there are |
//! | codes | n / 2 | exponent less the chunk's low; 15 is an escape. The earlier number has the lower four bits |
//! | rests | n | sign and mantissa |
//! | escapes | 4 each | place in the stripe, times 65536, plus the number itself |
//!
//! All numbers are little-endian; between sections and after the last, up to a multiple of [`ALIGN`], lies anything. The code
//! of an escape may be anything but the place is written last. The card's reader is `cuda/kernels/unpack.cu`; the order in
//! which tiles unpack is [`lane`]'s. Pure: must not know where numbers come from. Callers: `packing`, `transfer`.

pub mod lane;

/// Numbers that share a lowest exponent.
pub const CHUNK: usize = 1024;

/// Numbers that one block of the card's threads unpacks, with all of their escapes. A multiple of [`CHUNK`], below 65537.
pub const STRIPE: usize = 8192;

/// Most numbers of a blob: what a thread of the processor packs within its cache. A multiple of [`STRIPE`].
pub const TILE: usize = 1 << 19;

/// Blobs are multiples of this. Bytes.
pub const ALIGN: usize = 256;

/// The code of what no code reaches.
const ESCAPE: u8 = 15;

/// Above this many numbers an escape a tile is better kept as it is.
const NUMBERS_AN_ESCAPE: usize = 16;

/// A blob that cannot have come from [`pack`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a packed tile of {numbers} numbers in {bytes} bytes is damaged: {what}")]
pub struct Damaged {
    /// That it should be.
    pub numbers: usize,
    /// That it has.
    pub bytes: usize,
    /// What is wrong.
    pub what: &'static str,
}

/// Where the sections of a tile begin. Bytes from the blob's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sections {
    firsts: usize,
    codes: usize,
    rests: usize,
    escapes: usize,
}

impl Sections {
    fn of(numbers: usize) -> Self {
        let line = |bytes: usize| bytes.next_multiple_of(16);
        let firsts = line(numbers.div_ceil(CHUNK));
        let codes = firsts + line(4 * (numbers.div_ceil(STRIPE) + 1));
        let rests = codes + line(numbers.div_ceil(2));
        Self { firsts, codes, rests, escapes: rests + line(numbers) }
    }
}

/// Bytes of a blob of `numbers` with so many escapes.
pub fn blob_bytes(numbers: usize, escapes: usize) -> usize {
    (Sections::of(numbers).escapes + 4 * escapes).next_multiple_of(ALIGN)
}

/// Packs up to [`TILE`] numbers, given as their bits, into `blob`, whose memory is used again. False, and `blob` holds
/// anything, for a tile that is better kept as it is: more than one number in 16 would be an escape, or there are too many.
#[must_use]
pub fn pack(numbers: &[u16], blob: &mut Vec<u8>) -> bool {
    if numbers.len() > TILE {
        return false;
    }
    let sections = Sections::of(numbers.len());
    // What is there already is overwritten: not worth zeroing.
    blob.resize(sections.escapes, 0);
    let most = numbers.len() / NUMBERS_AN_ESCAPE;
    let mut escapes: Vec<u32> = Vec::new();
    let (lows, rest) = blob.split_at_mut(sections.firsts);
    let (firsts, rest) = rest.split_at_mut(sections.codes - sections.firsts);
    let (codes, rests) = rest.split_at_mut(sections.rests - sections.codes);
    let mut firsts = firsts.chunks_exact_mut(4);
    let mut note_first = |escapes: usize| {
        if let Some(first) = firsts.next() {
            first.copy_from_slice(&(escapes as u32).to_le_bytes());
        }
    };
    let mut wide = [0; CHUNK];
    let places = lows.iter_mut().zip(codes.chunks_mut(CHUNK / 2)).zip(rests.chunks_mut(CHUNK));
    for (index, (chunk, ((low, codes), rests))) in numbers.chunks(CHUNK).zip(places).enumerate() {
        let in_stripe = index * CHUNK % STRIPE;
        if in_stripe == 0 {
            note_first(escapes.len());
        }
        let chosen = match (chunk.first_chunk(), codes.first_chunk_mut(), rests.first_chunk_mut()) {
            (Some(chunk), Some(codes), Some(rests)) => encode(chunk, codes, rests, &mut wide),
            _ => encode_short(chunk, codes, rests, &mut wide),
        };
        *low = chosen.low;
        if !chosen.escapes {
            continue;
        }
        let found = wide.iter().zip(chunk).enumerate().filter(|(_, (code, _))| **code == ESCAPE);
        escapes.extend(found.map(|(at, (_, number))| ((in_stripe + at) as u32) << 16 | u32::from(*number)));
        if escapes.len() > most {
            return false;
        }
    }
    note_first(escapes.len());
    blob.extend(escapes.into_iter().flat_map(u32::to_le_bytes));
    blob.resize(blob.len().next_multiple_of(ALIGN), 0);
    true
}

/// How a chunk was encoded.
struct Chosen {
    low: u8,
    /// Whether there are any.
    escapes: bool,
}

fn exponent(number: u16) -> u8 {
    (number >> 7) as u8
}

/// `wide` becomes the chunk's codes, a byte each. Every loop is one that compilers make vectors of.
fn encode(
    chunk: &[u16; CHUNK],
    codes: &mut [u8; CHUNK / 2],
    rests: &mut [u8; CHUNK],
    wide: &mut [u8; CHUNK],
) -> Chosen {
    for (number, rest) in chunk.iter().zip(rests) {
        *rest = (number >> 8 & 0x80 | number & 0x7f) as u8;
    }
    // What lies below `low` comes round to at least 256 - 241.
    let mut reach = |low: u8| {
        for (number, code) in chunk.iter().zip(&mut *wide) {
            *code = exponent(*number).wrapping_sub(low).min(ESCAPE);
        }
        wide.iter().fold(0, |most: u8, code| most.max(*code)) == ESCAPE
    };
    // The largest are the likeliest to have near neighbours.
    let mut low =
        chunk.iter().fold(0, |most: u8, number| most.max(exponent(*number))).saturating_sub(ESCAPE - 1);
    let mut escapes = reach(low);
    if escapes {
        let better = best_low(chunk, low);
        if better != low {
            low = better;
            escapes = reach(low);
        }
    }
    for (pair, codes) in wide.as_chunks::<2>().0.iter().zip(codes) {
        let pair = u16::from_le_bytes(*pair);
        *codes = (pair | pair >> 4) as u8;
    }
    Chosen { low, escapes }
}

/// The low whose codes reach most of the chunk, if `low` leaves more than a few out: a single outlier must not make the rest
/// escapes.
fn best_low(chunk: &[u16; CHUNK], low: u8) -> u8 {
    let missed = chunk.iter().filter(|number| exponent(**number) < low).count();
    if missed <= CHUNK / 128 {
        return low;
    }
    let mut counts = [0usize; 256];
    for number in chunk {
        if let Some(count) = counts.get_mut(usize::from(exponent(*number))) {
            *count += 1;
        }
    }
    let width = usize::from(ESCAPE);
    let mut reached: usize = counts.iter().take(width).sum();
    let (mut best, mut most) = (0, reached);
    for (low, (left, entered)) in (1..).zip(counts.iter().zip(counts.iter().skip(width))) {
        reached = reached + entered - left;
        if reached > most {
            (best, most) = (low, reached);
        }
    }
    best
}

/// The last chunk, filled up with its last number.
fn encode_short(chunk: &[u16], codes: &mut [u8], rests: &mut [u8], wide: &mut [u8; CHUNK]) -> Chosen {
    let mut whole = [chunk.last().copied().unwrap_or_default(); CHUNK];
    for (whole, number) in whole.iter_mut().zip(chunk) {
        *whole = *number;
    }
    let (mut whole_codes, mut whole_rests) = ([0; CHUNK / 2], [0; CHUNK]);
    let chosen = encode(&whole, &mut whole_codes, &mut whole_rests, wide);
    for (into, from) in codes.iter_mut().zip(whole_codes).chain(rests.iter_mut().zip(whole_rests)) {
        *into = from;
    }
    chosen
}

/// The numbers of a blob, as bits: the twin of the card's kernel. `numbers` is as long as what was packed.
///
/// # Errors
/// [`Damaged`].
pub fn unpack(blob: &[u8], numbers: &mut [u16]) -> Result<(), Damaged> {
    let count = numbers.len();
    let damaged = |what| Damaged { numbers: count, bytes: blob.len(), what };
    if count > TILE {
        return Err(damaged("it has too many numbers"));
    }
    let sections = Sections::of(count);
    let section = |from: usize, to: usize| blob.get(from..to).ok_or(damaged("it ends early"));
    let lows = section(0, sections.firsts)?;
    let firsts = section(sections.firsts, sections.codes)?.as_chunks::<4>().0;
    let codes = section(sections.codes, sections.rests)?;
    let rests = section(sections.rests, sections.escapes)?;
    let escapes = section(sections.escapes, blob.len())?.as_chunks::<4>().0;

    let bytes = codes.chunks(CHUNK / 2).zip(rests.chunks(CHUNK));
    for ((chunk, low), (codes, rests)) in numbers.chunks_mut(CHUNK).zip(lows).zip(bytes) {
        let codes = codes.iter().flat_map(|pair| [pair & 15, pair >> 4]);
        for ((number, code), rest) in chunk.iter_mut().zip(codes).zip(rests) {
            let (exponent, rest) = (u16::from(*low) + u16::from(code), u16::from(*rest));
            *number = (rest & 0x80) << 8 | exponent << 7 | rest & 0x7f;
        }
    }

    let number = |at: &[u8; 4]| u32::from_le_bytes(*at);
    for (stripe, bounds) in numbers.chunks_mut(STRIPE).zip(firsts.windows(2)) {
        let [first, end] = bounds else { return Err(damaged("it ends early")) };
        let of_stripe = escapes.get(number(first) as usize..number(end) as usize);
        for escape in of_stripe.ok_or(damaged("its escapes lie outside of it"))? {
            let escape = number(escape);
            let place = stripe.get_mut((escape >> 16) as usize);
            *place.ok_or(damaged("an escape lies outside of its stripe"))? = escape as u16;
        }
    }
    Ok(())
}
