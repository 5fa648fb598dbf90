//! The Reed-Solomon code of dm-verity's error correction: RS(255, 255 − R) over GF(2⁸) with the polynomial
//! x⁸ + x⁴ + x³ + x² + 1, the roots α⁰ … α^(R − 1), and the parity behind the data (Linux, drivers/md/dm-verity-fec.h:
//! `init_rs(8, 0x11d, 0, 1, roots)`).
//!
//! E bytes known to be wrong and U wrong ones that nobody knows of are corrected while E + 2 U ≤ R. With more of them a
//! word may come out that is another word of the code: who corrects must have a hash to see that by.
//!
//! Source of the algorithms: Blahut, Theory and Practice of Error Control Codes, 1983: Berlekamp-Massey with erasures,
//! Forney's formula for their values.

use alloc::vec;
use alloc::vec::Vec;

use thiserror::Error;

use super::verity::ROOTS;

/// Bytes of a word of the code.
pub const WORD_BYTES: usize = 255;
const MAX_ROOTS: usize = *ROOTS.end() as usize;
/// Coefficients of a polynomial of the highest degree in use.
const COEFFICIENTS: usize = MAX_ROOTS + 1;
/// Without x⁸.
const POLYNOMIAL: u8 = 0x1d;

/// α^i, twice over: a sum of two logarithms needs no modulo.
const EXP: [u8; 2 * WORD_BYTES] = exp();
/// The logarithm to the base α; that of 0 is not asked for.
const LOG: [u8; 256] = log();

const fn exp() -> [u8; 2 * WORD_BYTES] {
    let mut table = [0; 2 * WORD_BYTES];
    let (mut i, mut power) = (0, 1_u8);
    while i < table.len() {
        table[i] = power;
        // x⁸, carried out of the byte, is the rest of the polynomial.
        power = (power << 1) ^ ((power >> 7) * POLYNOMIAL);
        i += 1;
    }
    table
}

const fn log() -> [u8; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < WORD_BYTES {
        table[EXP[i] as usize] = i as u8;
        i += 1;
    }
    table
}

const fn mul(a: u8, b: u8) -> u8 {
    if a == 0 || b == 0 { 0 } else { EXP[LOG[a as usize] as usize + LOG[b as usize] as usize] }
}

/// a / b; `None` for b = 0.
fn div(a: u8, b: u8) -> Option<u8> {
    let inverse = EXP[WORD_BYTES - usize::from(LOG[usize::from(b)])];
    (b != 0).then_some(mul(a, inverse))
}

/// α to the power of `exponent`.
const fn power(exponent: usize) -> u8 {
    EXP[exponent % WORD_BYTES]
}

/// A polynomial; the coefficient of x^i is at i.
type Polynomial = [u8; COEFFICIENTS];

fn value(polynomial: &[u8], x: u8) -> u8 {
    polynomial.iter().rev().fold(0, |sum, coefficient| mul(sum, x) ^ coefficient)
}

/// x times the polynomial; what becomes too high is dropped.
fn times_x(mut polynomial: Polynomial) -> Polynomial {
    polynomial.rotate_right(1);
    polynomial[0] = 0;
    polynomial
}

/// More bytes of a word are wrong than it has parity for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("more bytes of a word are wrong than it has parity for")]
pub struct Uncorrectable;

/// The code with a number of parity bytes.
#[derive(Clone)]
pub struct Code {
    roots: usize,
    /// What a byte that leaves the shift register adds to it, for each byte.
    feedback: [Register; 256],
}

/// The encoder's shift register: its first byte, the next to leave, is the first word's lowest. Words of eight bytes are
/// shifted and added in a quarter of the time that single bytes take.
type Register = [u64; MAX_ROOTS / 8];

/// A register's first bytes.
fn put(register: &Register, bytes: &mut [u8]) {
    bytes.iter_mut().zip(register.iter().flat_map(|word| word.to_le_bytes())).for_each(|(place, byte)| *place = byte);
}

impl Code {
    /// The code with `roots` bytes of parity, at least one and at most 24.
    pub fn new(roots: u8) -> Self {
        let roots = usize::from(roots).clamp(1, MAX_ROOTS);
        // The product of (x − α^i): its highest coefficient is 1.
        let mut generator: Polynomial = [0; COEFFICIENTS];
        generator[0] = 1;
        for root in 0..roots {
            let shifted = times_x(generator);
            for (coefficient, shifted) in generator.iter_mut().zip(shifted) {
                *coefficient = mul(*coefficient, power(root)) ^ shifted;
            }
        }
        let mut feedback = [Register::default(); 256];
        for (row, byte) in feedback.iter_mut().zip(0..=255) {
            let mut bytes = [0; MAX_ROOTS];
            for (place, coefficient) in bytes.iter_mut().zip(generator[..roots].iter().rev()) {
                *place = mul(byte, *coefficient);
            }
            for (word, bytes) in row.iter_mut().zip(bytes.as_chunks().0) {
                *word = u64::from_le_bytes(*bytes);
            }
        }
        Self { roots, feedback }
    }

    /// Bytes of data in a word.
    pub const fn data_bytes(&self) -> usize {
        WORD_BYTES - self.roots
    }

    /// The parity of `data`, into `parity`, which has as many bytes as the code has roots.
    pub fn encode(&self, data: impl Iterator<Item = u8>, parity: &mut [u8]) {
        put(&data.fold(Register::default(), |register, byte| self.shift(register, byte)), parity);
    }

    /// The parity of the words that stand side by side in `rows`, of which each has one byte of all of them: one word's
    /// after the other, into `parity`.
    pub fn encode_rows<'a, const WORDS: usize>(
        &self,
        rows: impl IntoIterator<Item = &'a [u8; WORDS]>,
        parity: &mut [u8],
    ) {
        let places = parity.chunks_exact_mut(self.roots);
        self.remainders(rows).iter().zip(places).for_each(|(register, place)| put(register, place));
    }

    /// Which of the words that stand side by side in `rows`, parity and all, are none of the code.
    pub fn wrong_words<'a, const WORDS: usize>(&self, rows: impl IntoIterator<Item = &'a [u8; WORDS]>) -> Vec<usize> {
        let remainders = self.remainders(rows).into_iter().enumerate();
        remainders.filter_map(|(word, register)| (register != Register::default()).then_some(word)).collect()
    }

    /// A word waits for its last byte's table entry before the next byte's; many of them side by side wait for nothing.
    fn remainders<'a, const WORDS: usize>(&self, rows: impl IntoIterator<Item = &'a [u8; WORDS]>) -> Vec<Register> {
        let mut registers = vec![Register::default(); WORDS];
        for row in rows {
            registers.iter_mut().zip(row).for_each(|(register, byte)| *register = self.shift(*register, *byte));
        }
        registers
    }

    fn shift(&self, [low, middle, high]: Register, byte: u8) -> Register {
        let [add_low, add_middle, add_high] = self.feedback[usize::from(byte ^ low as u8)];
        [(low >> 8 | middle << 56) ^ add_low, (middle >> 8 | high << 56) ^ add_middle, (high >> 8) ^ add_high]
    }

    /// Corrects a word in place; `erasures` are places in it that are known to be wrong. A word that cannot be corrected
    /// is left as it is.
    pub fn correct(&self, word: &mut [u8; WORD_BYTES], erasures: &[u8]) -> Result<(), Uncorrectable> {
        let syndromes = self.syndromes(word);
        if syndromes == [0; MAX_ROOTS] {
            return Ok(());
        }
        let locator = self.locator(&syndromes, erasures).ok_or(Uncorrectable)?;
        let wrong = locator.iter().rposition(|coefficient| *coefficient != 0).ok_or(Uncorrectable)?;
        let mut corrected = *word;
        let mut found = 0;
        for (place, byte) in corrected.iter_mut().enumerate() {
            // The first byte is the coefficient of x^254.
            let degree = WORD_BYTES - 1 - place;
            let inverse = power(WORD_BYTES - degree);
            if value(&locator[..=wrong], inverse) == 0 {
                *byte ^= self.error(&syndromes, &locator, degree).ok_or(Uncorrectable)?;
                found += 1;
            }
        }
        if wrong != found || self.syndromes(&corrected) != [0; MAX_ROOTS] {
            return Err(Uncorrectable);
        }
        *word = corrected;
        Ok(())
    }

    /// The word's values at the roots: all zero for a word of the code.
    ///
    /// They are those of its remainder modulo the generator, which is what its parity should be less what it is.
    fn syndromes(&self, word: &[u8; WORD_BYTES]) -> [u8; MAX_ROOTS] {
        let (data, parity) = word.split_at(self.data_bytes());
        let mut remainder = [0; MAX_ROOTS];
        let remainder = &mut remainder[..self.roots];
        self.encode(data.iter().copied(), remainder);
        for (place, byte) in remainder.iter_mut().zip(parity) {
            *place ^= byte;
        }
        let mut syndromes = [0; MAX_ROOTS];
        if remainder.iter().any(|byte| *byte != 0) {
            for (root, syndrome) in syndromes[..self.roots].iter_mut().enumerate() {
                *syndrome = remainder.iter().fold(0, |sum, byte| mul(sum, power(root)) ^ byte);
            }
        }
        syndromes
    }

    /// The polynomial whose roots are the inverses of the wrong places (Berlekamp-Massey, begun with the known ones).
    fn locator(&self, syndromes: &[u8; MAX_ROOTS], erasures: &[u8]) -> Option<Polynomial> {
        if erasures.len() > self.roots {
            return None;
        }
        let mut locator: Polynomial = [0; COEFFICIENTS];
        locator[0] = 1;
        for place in erasures {
            let degree = (WORD_BYTES - 1).checked_sub(usize::from(*place))?;
            let shifted = times_x(locator);
            for (coefficient, shifted) in locator.iter_mut().zip(shifted) {
                *coefficient ^= mul(shifted, power(degree));
            }
        }
        let (mut length, mut last) = (erasures.len(), locator);
        for step in erasures.len()..self.roots {
            last = times_x(last);
            let discrepancy = (0..=step).fold(0, |sum, i| sum ^ mul(locator[i], syndromes[step - i]));
            if discrepancy == 0 {
                continue;
            }
            let mut next = locator;
            for (coefficient, last) in next.iter_mut().zip(last) {
                *coefficient ^= mul(discrepancy, last);
            }
            if 2 * length <= step + erasures.len() {
                length = step + 1 + erasures.len() - length;
                for (place, coefficient) in last.iter_mut().zip(locator) {
                    *place = div(coefficient, discrepancy)?;
                }
            }
            locator = next;
        }
        Some(locator)
    }

    /// The error at the coefficient of x^`degree` (Forney's formula for codes whose first root is α⁰).
    fn error(&self, syndromes: &[u8; MAX_ROOTS], locator: &Polynomial, degree: usize) -> Option<u8> {
        let x = power(degree);
        let inverse = power(WORD_BYTES - degree);
        let mut evaluator = [0; MAX_ROOTS];
        for (i, coefficient) in evaluator[..self.roots].iter_mut().enumerate() {
            *coefficient = (0..=i).fold(0, |sum, j| sum ^ mul(locator[j], syndromes[i - j]));
        }
        let mut derivative = [0; MAX_ROOTS];
        for (coefficient, above) in derivative.iter_mut().step_by(2).zip(locator[1..].iter().step_by(2)) {
            *coefficient = *above;
        }
        div(mul(x, value(&evaluator, inverse)), value(&derivative, inverse))
    }
}
