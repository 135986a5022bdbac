//! Random sizes from a seed.

use super::case::Input;
use crate::models::weights::fnv;

/// A sequence of numbers that a seed and a name decide.
pub(super) struct Dice {
    state: u64,
}

impl Dice {
    pub(super) fn new(seed: u64, name: &str) -> Self {
        let mut dice = Self { state: seed ^ fnv(name) };
        // Neighbouring seeds begin alike.
        dice.next();
        dice
    }

    /// Knuth's MMIX; the upper bits are the good ones.
    fn next(&mut self) -> usize {
        self.state = self.state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.state >> 33) as usize
    }

    /// Both ends are among them.
    pub(super) fn between(&mut self, least: usize, most: usize) -> usize {
        least + self.next() % (most - least + 1)
    }

    pub(super) fn pick<T: Copy>(&mut self, of: &[T], otherwise: T) -> T {
        let index = self.next() % of.len().max(1);
        of.get(index).copied().unwrap_or(otherwise)
    }

    /// One time out of `of`.
    pub(super) fn once_in(&mut self, of: usize) -> bool {
        self.next().is_multiple_of(of)
    }

    pub(super) fn batch(&mut self) -> usize {
        self.between(1, 3)
    }

    /// Mostly whole packs of 16 bytes in every format, as nets have them; now and then any number, which kernels take one
    /// by one or leave to candle.
    pub(super) fn columns(&mut self) -> usize {
        match self.between(0, 7) {
            0 | 1 => self.between(9, 300),
            2 => 8 * self.between(100, 600),
            _ => 8 * self.between(1, 60),
        }
    }

    /// Whole packs alone.
    pub(super) fn packs(&mut self, most: usize) -> usize {
        8 * self.between(1, most)
    }

    /// Sides of a picture, seldom even.
    pub(super) fn sides(&mut self, most: usize) -> (usize, usize) {
        (self.between(1, most), self.between(3, most))
    }

    /// `input` (batch, tokens, columns) as it is, or as a part of more tokens or more columns.
    pub(super) fn lie(&mut self, input: Input) -> Input {
        match self.between(0, 2) {
            0 => input,
            1 => input.between(1, self.between(0, 3), self.between(1, 3)),
            _ => input.between(2, self.packs(2), 8 * self.between(0, 2)),
        }
    }
}
