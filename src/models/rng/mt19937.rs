//! The Mersenne Twister MT19937 (Matsumoto and Nishimura, 1998), as torch's CPU generator uses it: 32-bit draws from a
//! 32-bit seed. Only [`super::Generator`] calls it.

const N: usize = 624;
const M: usize = 397;

#[derive(Clone)]
pub(super) struct Mt19937 {
    state: Box<[u32; N]>,
    /// Next word to hand out; `N` when the state must be stirred first.
    next: usize,
}

impl Mt19937 {
    pub(super) fn new(seed: u32) -> Self {
        let mut state = Box::new([0u32; N]);
        let mut previous = seed;
        state[0] = seed;
        for (index, word) in state.iter_mut().enumerate().skip(1) {
            previous = 1_812_433_253u32.wrapping_mul(previous ^ (previous >> 30)).wrapping_add(index as u32);
            *word = previous;
        }
        Self { state, next: N }
    }

    pub(super) fn next(&mut self) -> u32 {
        if self.next == N {
            self.stir();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn stir(&mut self) {
        let s = &mut *self.state;
        for k in 0..N - M {
            s[k] = s[k + M] ^ twist(s[k], s[k + 1]);
        }
        for k in N - M..N - 1 {
            s[k] = s[k + M - N] ^ twist(s[k], s[k + 1]);
        }
        s[N - 1] = s[M - 1] ^ twist(s[N - 1], s[0]);
        self.next = 0;
    }
}

/// The state is 2.5 kB of noise; a debug print of it helps nobody.
impl std::fmt::Debug for Mt19937 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mt19937").field("next", &self.next).finish_non_exhaustive()
    }
}

fn twist(upper: u32, lower: u32) -> u32 {
    let y = (upper & 0x8000_0000) | (lower & 0x7fff_ffff);
    (y >> 1) ^ if y & 1 == 1 { 0x9908_b0df } else { 0 }
}
