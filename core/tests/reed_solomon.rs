//! dm-verity's Reed-Solomon code: what it can correct is corrected, what it cannot is left alone, and nothing panics.

mod random;

use perigee_core::slot::reed_solomon::{Code, Uncorrectable, WORD_BYTES};
use random::Random;

fn word(code: &Code, random: &mut Random) -> [u8; WORD_BYTES] {
    let mut word = [0; WORD_BYTES];
    let (data, parity) = word.split_at_mut(code.data_bytes());
    data.fill_with(|| random.next() as u8);
    code.encode(data.iter().copied(), parity);
    word
}

/// So many different places in a word.
fn places(count: usize, random: &mut Random) -> Vec<u8> {
    let mut all: Vec<u8> = (0..WORD_BYTES as u8).collect();
    (0..count).map(|_| all.swap_remove(random.index(all.len()))).collect()
}

#[test]
fn the_parity_is_the_one_of_a_known_word() {
    // RS(255, 253) of 0 … 0 1: the generator x² + (α⁰ + α¹) x + α⁰ α¹ without its highest coefficient.
    let mut parity = [0; 2];
    Code::new(2).encode([0, 0, 1].into_iter(), &mut parity);
    assert_eq!(parity, [1 ^ 2, 2]);
}

#[test]
fn words_side_by_side_are_what_each_is_alone() {
    const WORDS: usize = 7;
    for roots in [2, 11, 24] {
        let (code, mut random) = (Code::new(roots), Random::new(roots.into()));
        let mut words: [_; WORDS] = std::array::from_fn(|_| word(&code, &mut random));
        let rows = |words: &[[u8; WORD_BYTES]; WORDS]| -> [[u8; WORDS]; WORD_BYTES] {
            std::array::from_fn(|row| words.map(|word| word[row]))
        };
        let mut parity = [0; WORDS * 24];
        code.encode_rows(&rows(&words)[..code.data_bytes()], &mut parity);
        for (word, parity) in words.iter().zip(parity.chunks_exact(roots.into())) {
            assert_eq!(word[code.data_bytes()..], *parity);
        }
        assert_eq!(code.wrong_words(&rows(&words)), []);
        words[2][3] ^= 1;
        words[5][WORD_BYTES - 1] ^= 0x80;
        assert_eq!(code.wrong_words(&rows(&words)), [2, 5]);
    }
}

#[test]
fn everything_within_the_bound_is_corrected() {
    for roots in [2, 3, 4, 12, 23, 24] {
        let (code, mut random) = (Code::new(roots), Random::new(roots.into()));
        for known in 0..=usize::from(roots) {
            for unknown in 0..=(usize::from(roots) - known) / 2 {
                let good = word(&code, &mut random);
                let mut damaged = good;
                let wrong = places(known + unknown, &mut random);
                for place in &wrong {
                    // One that is known to be wrong may be right all the same.
                    damaged[usize::from(*place)] ^= random.next() as u8;
                }
                assert_eq!(code.correct(&mut damaged, &wrong[..known]), Ok(()), "{roots}: {known} + {unknown}");
                assert!(damaged == good, "{roots}: {known} + {unknown}");
            }
        }
    }
}

#[test]
fn errors_that_cancel_each_other_out_are_corrected() {
    // The first syndrome is the sum of all errors: with it zero, Berlekamp and Massey's steps are not the usual ones.
    for roots in [4, 7, 24] {
        let (code, mut random) = (Code::new(roots), Random::new(roots.into()));
        for known in 0..=usize::from(roots) - 4 {
            for unknown in 2..=(usize::from(roots) - known) / 2 {
                let good = word(&code, &mut random);
                let mut damaged = good;
                let wrong = places(known + unknown, &mut random);
                let (last, others) = wrong.split_last().unwrap();
                for place in others {
                    let error = 1 + random.below(255) as u8;
                    damaged[usize::from(*place)] ^= error;
                    damaged[usize::from(*last)] ^= error;
                }
                assert_eq!(code.correct(&mut damaged, &wrong[..known]), Ok(()), "{roots}: {known} + {unknown}");
                assert!(damaged == good, "{roots}: {known} + {unknown}");
            }
        }
    }
}

#[test]
fn what_is_beyond_it_is_another_word_or_left_as_it_is() {
    let (code, mut random) = (Code::new(8), Random::new(5));
    let mut left = 0;
    for _ in 0..2_000 {
        let mut damaged = word(&code, &mut random);
        for place in places(5 + random.index(40), &mut random) {
            damaged[usize::from(place)] ^= 1 + random.below(255) as u8;
        }
        let known = places(random.index(10), &mut random);
        let before = damaged;
        match code.correct(&mut damaged, &known) {
            Ok(()) => {
                let mut parity = [0; 8];
                code.encode(damaged[..code.data_bytes()].iter().copied(), &mut parity);
                assert_eq!(parity, damaged[code.data_bytes()..], "what comes out is of the code");
            }
            Err(Uncorrectable) => {
                left += 1;
                assert!(damaged == before);
            }
        }
    }
    assert!(left > 1_000, "{left}");
}

#[test]
fn places_that_make_no_sense_are_refused() {
    let (code, mut random) = (Code::new(4), Random::new(6));
    let mut damaged = word(&code, &mut random);
    damaged[3] ^= 1;
    for known in [&[255][..], &[1, 2, 3, 4, 5], &[3, 3, 3, 3]] {
        let mut damaged = damaged;
        assert_eq!(code.correct(&mut damaged, known), Err(Uncorrectable), "{known:?}");
    }
}
