//! bf16 numbers in seven tenths of their bytes, bit for bit.
//!
//! Sign and mantissa of a trained weight are noise, its exponent is not: of a thousand neighbours all but a dozen lie within 8
//! powers of two. So a number becomes a byte (sign and mantissa) and three bits of its exponent's height: how far it lies above
//! its chunk's low, modulo 256. Where the height is 8 or more, its other five bits are kept beside all codes, as an escape.
//!
//! A tile of n numbers, n up to [`TILE`], becomes a blob whose sections all begin at multiples of 16 bytes:
//!
//! | section | bytes | what |
//! |---|---|---|
//! | lows | a chunk | lowest exponent that the chunk's codes reach alone, at most 248 |
//! | firsts | 2 a chunk, and 2 | number of the chunk's first escape; the last is how many there are |
//! | twos | 2 a pack | heights' lowest two bits |
//! | tops | a pack | heights' third bits |
//! | rests | n | sign and mantissa |
//! | escapes | 2 each | place in the chunk, times 32, plus the height's upper five bits; in order |
//!
//! A pack is 8 neighbours, the tile's last one maybe fewer; the earlier number has the lower bits.
//!
//! All numbers are little-endian; between sections, behind the last and where a pack has no number, lies anything. The card's
//! reader is `cuda/kernels/unpack.cu`; the order in which tiles unpack is [`lane`]'s. Pure: must not know where numbers come
//! from. Callers: `packing`, `transfer`.

pub mod lane;

/// Numbers that share a lowest exponent, and whose escapes have room for their places: five bits are left of 16.
pub const CHUNK: usize = 2048;

/// Numbers that one block of the card's threads unpacks, with all of their escapes. A multiple of [`CHUNK`].
pub const STRIPE: usize = 8192;

/// Most numbers of a blob: what a thread of the processor packs within its cache. A multiple of [`STRIPE`].
pub const TILE: usize = 1 << 19;

/// Blobs are multiples of this. Bytes.
pub const ALIGN: usize = 256;

/// Numbers whose codes lie together.
const PACK: usize = 8;

/// Exponents that a code reaches alone.
const REACH: usize = 8;

/// The highest low: above it codes would reach what no exponent is.
const HIGHEST_LOW: u8 = (256 - REACH) as u8;

/// With more than a number in so many as an escape (13 bits a number) a tile is better kept as it is.
const NUMBERS_AN_ESCAPE: usize = 8;

const _: () = assert!(CHUNK << 5 == 1 << 16 && CHUNK.is_multiple_of(PACK));

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
    twos: usize,
    tops: usize,
    rests: usize,
    escapes: usize,
}

impl Sections {
    fn of(numbers: usize) -> Self {
        let line = |bytes: usize| bytes.next_multiple_of(16);
        let (chunks, packs) = (numbers.div_ceil(CHUNK), numbers.div_ceil(PACK));
        let firsts = line(chunks);
        let twos = firsts + line(2 * (chunks + 1));
        let tops = twos + line(2 * packs);
        let rests = tops + line(packs);
        Self { firsts, twos, tops, rests, escapes: rests + line(numbers) }
    }
}

/// Bytes of a blob of `numbers` with so many escapes.
pub fn blob_bytes(numbers: usize, escapes: usize) -> usize {
    (Sections::of(numbers).escapes + 2 * escapes).next_multiple_of(ALIGN)
}

/// Most escapes that a tile of `numbers` is packed with; `firsts` have no room for more than the latter.
pub fn most_escapes(numbers: usize) -> usize {
    (numbers / NUMBERS_AN_ESCAPE).min(usize::from(u16::MAX))
}

/// Packs up to [`TILE`] numbers, given as their bits, into `blob`, whose memory is used again. False, and `blob` holds
/// anything, for a tile that is better kept as it is: it has more than [`most_escapes`], or too many numbers.
#[must_use]
pub fn pack(numbers: &[u16], blob: &mut Vec<u8>) -> bool {
    if numbers.len() > TILE {
        return false;
    }
    let sections = Sections::of(numbers.len());
    // What is there already is overwritten: not worth zeroing.
    blob.resize(sections.escapes, 0);
    let most = most_escapes(numbers.len());
    let mut escapes: Vec<u16> = Vec::with_capacity(numbers.len() / 32);
    let (lows, rest) = blob.split_at_mut(sections.firsts);
    let (firsts, rest) = rest.split_at_mut(sections.twos - sections.firsts);
    let (twos, rest) = rest.split_at_mut(sections.tops - sections.twos);
    let (tops, rests) = rest.split_at_mut(sections.rests - sections.tops);
    let mut firsts = firsts.as_chunks_mut::<2>().0.iter_mut();
    let mut note_first = |escapes: usize| {
        if let Some(first) = firsts.next() {
            *first = (escapes as u16).to_le_bytes();
        }
    };
    let twos = twos.as_chunks_mut::<2>().0.chunks_mut(CHUNK / PACK);
    let places = lows.iter_mut().zip(twos.zip(tops.chunks_mut(CHUNK / PACK))).zip(rests.chunks_mut(CHUNK));
    let mut heights = [0; CHUNK];
    let mut before = 0;
    for (chunk, ((low, (twos, tops)), rests)) in numbers.chunks(CHUNK).zip(places) {
        note_first(escapes.len());
        split(chunk, &mut heights, rests);
        *low = best_low(&heights, before);
        before = *low;
        for height in &mut heights {
            *height = height.wrapping_sub(before);
        }
        encode(&heights, twos, tops);
        list_escapes(&heights, chunk.len(), &mut escapes);
        if escapes.len() > most {
            return false;
        }
    }
    note_first(escapes.len());
    blob.resize(blob_bytes(numbers.len(), escapes.len()), 0);
    let places = blob.get_mut(sections.escapes..).unwrap_or_default().as_chunks_mut().0;
    for (place, escape) in places.iter_mut().zip(escapes) {
        *place = escape.to_le_bytes();
    }
    true
}

/// Exponents and rests. The exponents of a chunk that ends early go on from its first one: they count as often as they are there.
fn split(chunk: &[u16], exponents: &mut [u8; CHUNK], rests: &mut [u8]) {
    for (number, rest) in chunk.iter().zip(rests) {
        *rest = (number >> 8 & 0x80 | number & 0x7f) as u8;
    }
    for (number, exponent) in chunk.iter().zip(&mut *exponents) {
        *exponent = (number >> 7) as u8;
    }
    if let Some((own, further)) = exponents.split_at_mut_checked(chunk.len()) {
        for (further, own) in further.iter_mut().zip(own.iter().cycle()) {
            *further = *own;
        }
    }
}

/// The low that leaves the fewest out, looked for from the low of the chunk before, whose numbers were of the same size mostly.
fn best_low(exponents: &[u8; CHUNK], before: u8) -> u8 {
    let with_missed = |low| (missed(exponents, low), low);
    let (mut missed, mut low) = with_missed(before);
    loop {
        let (down, up) = (low.saturating_sub(1), HIGHEST_LOW.min(low + 1));
        let better = with_missed(down).min(with_missed(up));
        if better.0 >= missed {
            break;
        }
        (missed, low) = better;
    }
    // Another chunk altogether. Counting all exponents takes longer than the rest of the packing.
    if missed > CHUNK / 8 { best_of_all(exponents) } else { low }
}

/// How many exponents codes above `low` do not reach.
fn missed(exponents: &[u8; CHUNK], low: u8) -> usize {
    // A sum of bytes is what compilers make the fastest vectors of, and a byte counts to 255.
    let of_some = |some: &[u8; 128]| -> u8 {
        some.iter().map(|exponent| u8::from(exponent.wrapping_sub(low) >= REACH as u8)).sum()
    };
    exponents.as_chunks().0.iter().map(|some| usize::from(of_some(some))).sum()
}

fn best_of_all(exponents: &[u8; CHUNK]) -> u8 {
    let mut counts = [0u16; 256];
    for exponent in exponents {
        if let Some(count) = counts.get_mut(usize::from(*exponent)) {
            *count += 1;
        }
    }
    let reached = counts.windows(REACH).map(|counts| counts.iter().sum::<u16>());
    reached.zip(0..=HIGHEST_LOW).max_by_key(|(reached, _)| *reached).map_or(0, |(_, low)| low)
}

/// Codes of a chunk's packs: neighbours' bits move together, twice for the lowest two and once more for the third.
fn encode(heights: &[u8; CHUNK], twos: &mut [[u8; 2]], tops: &mut [u8]) {
    let (mut halves, mut quarters) = ([0; CHUNK / 2], [0; CHUNK / 4]);
    join(heights, &mut halves, |pair| pair & 0x03 | pair >> 6 & 0x0c);
    join(&halves, twos.as_flattened_mut(), |pair| pair | pair >> 4);
    join(heights, &mut halves, |pair| pair >> 2 & 0x01 | pair >> 9 & 0x02);
    join(&halves, &mut quarters, |pair| pair | pair >> 6);
    join(&quarters, tops, |pair| pair | pair >> 4);
}

/// Two neighbours in one byte.
fn join(apart: &[u8], joined: &mut [u8], how: impl Fn(u16) -> u16) {
    for (pair, joined) in apart.as_chunks::<2>().0.iter().zip(joined) {
        *joined = how(u16::from_le_bytes(*pair)) as u8;
    }
}

/// What [`encode`] made of a pack: a byte a number.
fn decode(twos: [u8; 2], tops: u8) -> u64 {
    let (twos, tops) = (u64::from(u16::from_le_bytes(twos)), u64::from(tops));
    let twos = (twos | twos << 24) & 0x0000_00ff_0000_00ff;
    let twos = (twos | twos << 12) & 0x000f_000f_000f_000f;
    let twos = (twos | twos << 6) & 0x0303_0303_0303_0303;
    let tops = (tops | tops << 28) & 0x0000_000f_0000_000f;
    let tops = (tops | tops << 14) & 0x0003_0003_0003_0003;
    let tops = (tops | tops << 7) & 0x0101_0101_0101_0101;
    twos | tops << 2
}

/// Adds those of a chunk of `length` numbers.
fn list_escapes(heights: &[u8; CHUNK], length: usize, escapes: &mut Vec<u16>) {
    for (pack, heights) in heights.as_chunks::<PACK>().0.iter().enumerate() {
        let word = u64::from_le_bytes(*heights);
        let mut upper = word & 0xf8f8_f8f8_f8f8_f8f8;
        while upper != 0 {
            let bit = upper.trailing_zeros() & !7;
            let place = pack * PACK + bit as usize / 8;
            if place < length {
                escapes.push((place << 5) as u16 | (upper >> (bit + 3) & 31) as u16);
            }
            upper &= !(0xff << bit);
        }
    }
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
    let firsts = section(sections.firsts, sections.twos)?.as_chunks::<2>().0;
    let twos = section(sections.twos, sections.tops)?.as_chunks::<2>().0;
    let tops = section(sections.tops, sections.rests)?;
    let rests = section(sections.rests, sections.escapes)?;
    let escapes = section(sections.escapes, blob.len())?.as_chunks::<2>().0;

    let bytes = twos.chunks(CHUNK / PACK).zip(tops.chunks(CHUNK / PACK)).zip(rests.chunks(CHUNK));
    let bounds = lows.iter().zip(firsts.windows(2));
    let mut exponents = [[0; PACK]; CHUNK / PACK];
    for ((chunk, (low, bounds)), ((twos, tops), rests)) in numbers.chunks_mut(CHUNK).zip(bounds).zip(bytes) {
        if *low > HIGHEST_LOW {
            return Err(damaged("a lowest exponent is too high"));
        }
        let low = u64::from(*low) * 0x0101_0101_0101_0101;
        for (exponents, (twos, tops)) in exponents.iter_mut().zip(twos.iter().zip(tops)) {
            *exponents = (low + decode(*twos, *tops)).to_le_bytes();
        }
        for ((number, exponent), rest) in chunk.iter_mut().zip(exponents.as_flattened()).zip(rests) {
            let (exponent, rest) = (u16::from(*exponent), u16::from(*rest));
            *number = (rest & 0x80) << 8 | exponent << 7 | rest & 0x7f;
        }
        let [first, end] = bounds else { return Err(damaged("it ends early")) };
        let index = |at: &[u8; 2]| usize::from(u16::from_le_bytes(*at));
        let of_chunk = escapes.get(index(first)..index(end));
        for escape in of_chunk.ok_or(damaged("its escapes lie outside of it"))? {
            let escape = u16::from_le_bytes(*escape);
            let place = chunk.get_mut(usize::from(escape >> 5));
            let number = place.ok_or(damaged("an escape lies outside of its chunk"))?;
            // The sum goes round within the exponent.
            *number = *number & 0x8000 | number.wrapping_add(escape << 10) & 0x7fff;
        }
    }
    Ok(())
}
