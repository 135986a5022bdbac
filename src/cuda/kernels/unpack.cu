// Packed bf16 weights back to what they were, bit for bit: the card's reader of src/memory/packed.rs, where the format is.
//
//   number = (rest & 0x80) << 8 | rest & 0x7f | (low + code) << 7      low: of its 2048 neighbours; rest, code: its own
//   then   = number & 0x8000 | (number + (upper << 10)) & 0x7fff       upper: of an escape, where 8 exponents do not reach
//
// A tile that is kept as it is is copied. Bytes moved: 1.4 read and 2 written a number, about 6 operations on it, so that
// the card's memory is the limit. Loads are 8, 2 and 1 bytes a thread and stores 16, neighbours beside neighbours, four of
// each in flight. One number in 80 is an escape, a hundred a block: each is read and written again in the cache.
//
// What is written may lie in the allocation that is read: whoever calls makes sure that no tile of a call is written where
// one of them is read (src/memory/packed/lane.rs).
#include "numeric.cuh"

namespace {
using namespace marquee;

// As in src/memory/packed.rs.
constexpr int kChunk = 2048, kStripe = 8192, kTile = 1 << 19, kAlign = 256;
constexpr uint32_t kRaw = 1u << 31;

// A thread's numbers at once, a block's, and how often.
constexpr int kPack = 8, kThreads = 256, kRound = kThreads * kPack, kRounds = kStripe / kRound;
static_assert(kStripe % kRound == 0 && kTile % kStripe == 0 && kChunk % kPack == 0);
// Escapes are counted through chunks: a round is one.
static_assert(kRound == kChunk && kRounds == 4);

// Launches take what they are told by value: 4 KB at most.
constexpr int kMostTiles = 512;
struct Starts {
    uint32_t at[kMostTiles];
};

__host__ __device__ constexpr int64_t up(int64_t bytes, int64_t line) { return (bytes + line - 1) / line * line; }

// Codes of a pack, two neighbours in two halves: the later one of each two moves to where the earlier one lies in the lower half.
// `bits` of a number.
__device__ __forceinline__ uint32_t halves(uint32_t codes, int bits) { return __byte_perm(codes, codes >> bits, 0x5410); }

// Numbers 2 * word and the next of a pack, from its rests, four of which have their two, and its codes' `halves`. `low` is the
// lowest exponent in both halves, in place. No sum reaches the other half: low + code is at most 248 + 7.
__device__ __forceinline__ uint32_t two(uint32_t rests, uint32_t twos, uint32_t tops, uint32_t low, int word) {
    const uint32_t rest = __byte_perm(rests, 0, word % 2 == 0 ? 0x4140 : 0x4342);
    // From bit 4 * word to 7, and from 2 * word to 9.
    const uint32_t lower = word < 2 ? twos << (7 - 4 * word) : twos >> (4 * word - 7);
    const uint32_t code = (lower & 0x01800180u) | ((tops << (9 - 2 * word)) & 0x02000200u);
    return (rest & 0x007f007fu) | ((rest & 0x00800080u) << 8) | (low + code);
}

// A block a stripe (x) of a tile (y).
__global__ void __launch_bounds__(kThreads)
    unpack(const uint8_t* from, const __grid_constant__ Starts starts, uint32_t skip, int64_t first, int64_t numbers,
           uint16_t* to) {
    const int64_t tile = (first + blockIdx.y) * kTile;
    const int64_t left = numbers - tile;
    const int count = left < kTile ? static_cast<int>(left) : kTile;
    const int stripe = blockIdx.x * kStripe;
    if (stripe >= count) return;
    const uint32_t start = starts.at[blockIdx.y];
    const uint8_t* const blob = from + int64_t((start & ~kRaw) - skip) * kAlign;
    uint16_t* const tile_to = to + tile;
    const int mine = stripe + threadIdx.x * kPack;

    if (start & kRaw) {
        const uint16_t* const raw = reinterpret_cast<const uint16_t*>(blob);
        int4 packs[kRounds];
#pragma unroll
        for (int round = 0; round < kRounds; round++) {
            const int at = mine + round * kRound;
            if (at + kPack <= count) packs[round] = __ldcs(reinterpret_cast<const int4*>(raw + at));
        }
#pragma unroll
        for (int round = 0; round < kRounds; round++) {
            const int at = mine + round * kRound;
            if (at + kPack <= count) {
                *reinterpret_cast<int4*>(tile_to + at) = packs[round];
            } else {
                for (int i = at; i < count; i++) tile_to[i] = raw[i];
            }
        }
        return;
    }

    const int chunks = (count + kChunk - 1) / kChunk, packs = (count + kPack - 1) / kPack;
    const uint8_t* const lows = blob;
    const uint16_t* const firsts = reinterpret_cast<const uint16_t*>(lows + up(chunks, 16));
    const uint8_t* const twos = reinterpret_cast<const uint8_t*>(firsts) + up(2 * (chunks + 1), 16);
    const uint8_t* const tops = twos + up(2 * packs, 16);
    const uint8_t* const rests = tops + up(packs, 16);
    const uint16_t* const escapes = reinterpret_cast<const uint16_t*>(rests + up(count, 16));

    uint2 rest[kRounds];
    uint32_t lower[kRounds], top[kRounds], low[kRounds];
#pragma unroll
    for (int round = 0; round < kRounds; round++) {
        // Sections are filled up to 16 bytes, so that a pack that begins in one ends in it.
        const int at = mine + round * kRound;
        if (at < count) {
            rest[round] = __ldcs(reinterpret_cast<const uint2*>(rests + at));
            lower[round] = __ldcs(reinterpret_cast<const uint16_t*>(twos) + at / kPack);
            top[round] = __ldcs(tops + at / kPack);
            low[round] = lows[at / kChunk] * 0x00800080u;
        }
    }
    // Where the escapes of the stripe's chunks begin, and where the last ones end; a chunk that is not there has none. The
    // thread's first one is on its way while the numbers are made.
    uint32_t begin[kRounds + 1];
#pragma unroll
    for (int round = 0; round <= kRounds; round++) {
        const int chunk = stripe / kChunk + round;
        begin[round] = firsts[chunk < chunks ? chunk : chunks];
    }
    const uint32_t end = begin[kRounds];
    uint32_t mark = begin[0] + threadIdx.x;
    uint32_t escape = mark < end ? escapes[mark] : 0;

#pragma unroll
    for (int round = 0; round < kRounds; round++) {
        const int at = mine + round * kRound;
        if (at >= count) break;
        const uint32_t two_bits = halves(lower[round], 2), third_bits = halves(top[round], 1);
        uint4 pack;
        pack.x = two(rest[round].x, two_bits, third_bits, low[round], 0);
        pack.y = two(rest[round].x, two_bits, third_bits, low[round], 1);
        pack.z = two(rest[round].y, two_bits, third_bits, low[round], 2);
        pack.w = two(rest[round].y, two_bits, third_bits, low[round], 3);
        if (at + kPack <= count) {
            *reinterpret_cast<uint4*>(tile_to + at) = pack;
        } else {
            const uint32_t words[4] = {pack.x, pack.y, pack.z, pack.w};
            for (int i = at; i < count; i++) {
                tile_to[i] = static_cast<uint16_t>(words[(i - at) / 2] >> 16 * ((i - at) % 2));
            }
        }
    }

    // All numbers of the stripe are this block's, so that a barrier of the block puts the escapes behind them. Its threads
    // all know the same bounds.
    if (begin[0] == end) return;
    __syncthreads();
    while (mark < end) {
        const int chunk = (mark >= begin[1]) + (mark >= begin[2]) + (mark >= begin[3]);
        uint16_t* const place = tile_to + stripe + chunk * kChunk + (escape >> 5);
        const uint32_t number = *place;
        // The sum goes round within the exponent.
        *place = static_cast<uint16_t>((number & 0x8000u) | ((number + (escape << 10)) & 0x7fffu));
        mark += kThreads;
        if (mark < end) escape = escapes[mark];
    }
}
}  // namespace

// Tiles `first` and on of a lane of `numbers` at `to` (a multiple of 16 bytes). Tile i's blob lies at `from` plus 256 times
// (starts[i] - skip); its highest bit says that it is kept as it is. `starts` is in main memory and is read before this returns.
MARQUEE_EXPORT int marquee_unpack(const void* from, const uint32_t* starts, int tiles, uint32_t skip, int64_t first,
                                  int64_t numbers, void* to, cudaStream_t stream) {
    for (int done = 0; done < tiles; done += kMostTiles) {
        const int some = tiles - done < kMostTiles ? tiles - done : kMostTiles;
        Starts list;
        for (int i = 0; i < some; i++) list.at[i] = starts[done + i];
        for (int i = some; i < kMostTiles; i++) list.at[i] = 0;
        unpack<<<dim3(kTile / kStripe, some), kThreads, 0, stream>>>(static_cast<const uint8_t*>(from), list, skip,
                                                                    first + done, numbers, static_cast<uint16_t*>(to));
        const int code = launched();
        if (code != 0) return code;
    }
    return cudaSuccess;
}
