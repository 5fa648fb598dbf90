//! Writing a slot: all of it comes from its header and its data, and nothing that was not signed becomes a slot.

mod partition;
mod random;

use ed25519_dalek::SigningKey;
use partition::{Disk, key};
use perigee_core::slot::header::{self, Arch, Header, header_blocks};
use perigee_core::slot::scrub::Blocks as _;
use perigee_core::slot::verity::Block;
use perigee_core::slot::writing::{Error, Writing};

fn header_of(disk: &Disk) -> Block {
    disk.blocks[header_blocks(disk.count())[0] as usize]
}

fn data_of(disk: &Disk) -> &[Block] {
    let header = header_of(disk);
    let layout = Header::decode(&header, &key().verifying_key()).expect("its own header").layout;
    &disk.blocks[..layout.data_blocks as usize]
}

/// Whether nothing is left of a header, which would make a slot of what is there.
fn has_no_header(disk: &Disk) -> bool {
    header_blocks(disk.count()).iter().all(|at| disk.blocks[*at as usize] == [0; 4096])
}

/// Writes until the end, or a failure, or `steps` are done; gives the blocks that were written.
fn write(disk: &mut Disk, header: &Block, data: &[Block], mut steps: usize) -> Result<u64, Error> {
    let mut writing = Writing::begin(header, &key().verifying_key(), Arch::X86_64, disk.count())?;
    writing.clear(disk)?;
    for blocks in data.chunks(100) {
        assert!(!writing.has_all_data());
        writing.data(disk, blocks)?;
        if steps == 0 {
            return Ok(writing.written());
        }
        steps -= 1;
    }
    assert!(writing.has_all_data());
    while writing.step(disk)? {
        if steps == 0 {
            break;
        }
        steps -= 1;
    }
    Ok(writing.written())
}

#[test]
fn all_of_a_slot_comes_from_its_header_and_its_data() {
    let (good, layout) = Disk::new(1);
    let mut disk = good.clone();
    let end = layout.end_block as usize;
    disk.blocks[..end].fill([0xa5; 4096]);
    disk.unreadable = [3, 600, 701, 715].into();
    let written = write(&mut disk, &header_of(&good), data_of(&good), usize::MAX).unwrap();
    assert_eq!(written, u64::from(layout.end_block) + 4, "all, and the headers twice");
    assert!(disk.is_as(&good));
}

#[test]
fn error_correction_of_a_large_slot_takes_more_than_a_step() {
    let (good, layout) = Disk::with(7, 4_000);
    let (header, mut disk) = (header_of(&good), good.clone());
    disk.blocks[layout.fec_block as usize..layout.end_block as usize].fill([0xa5; 4096]);
    let mut writing = Writing::begin(&header, &key().verifying_key(), Arch::X86_64, disk.count()).unwrap();
    // What is too much is left out.
    let (first, rest) = good.blocks.split_at(2_000);
    writing.data(&mut disk, first).unwrap();
    writing.data(&mut disk, rest).unwrap();
    assert!(writing.has_all_data());
    let mut steps = 1;
    while writing.step(&mut disk).unwrap() {
        steps += 1;
    }
    assert!(steps > 1 && disk.is_as(&good), "{steps} steps");
}

#[test]
fn what_the_partition_has_already_is_not_written_again() {
    let (good, _) = Disk::new(2);
    let mut disk = good.clone();
    disk.blocks[77].fill(1);
    let written = write(&mut disk, &header_of(&good), data_of(&good), usize::MAX).unwrap();
    assert_eq!(written, 1 + 4);
    assert!(disk.is_as(&good));
}

#[test]
fn until_the_last_step_there_is_no_slot_and_it_can_be_begun_again_after_each() {
    let (old, _) = Disk::new(3);
    let (new, _) = Disk::new(4);
    let key = key().verifying_key();
    let has_slot = |disk: &Disk| {
        header_blocks(disk.count()).iter().any(|at| Header::decode(&disk.blocks[*at as usize], &key).is_ok())
    };
    let mut disk = old.clone();
    let mut steps = 0;
    loop {
        write(&mut disk, &header_of(&new), data_of(&new), steps).unwrap();
        if has_slot(&disk) {
            break;
        }
        steps += 1;
    }
    assert!(steps >= 7 && disk.is_as(&new), "whole after {steps} steps");
}

#[test]
fn what_was_not_signed_does_not_become_a_slot() {
    let (good, layout) = Disk::new(5);
    let (header, data) = (header_of(&good), data_of(&good));
    let refused = |header: &Block, data: &[Block], expected: Error| {
        let mut disk = good.clone();
        assert_eq!(write(&mut disk, header, data, usize::MAX), Err(expected));
        disk
    };
    let mut other = data.to_vec();
    other[5][0] ^= 1;
    let disk = refused(&header, &other, Error::RootHash);
    assert!(has_no_header(&disk));

    let sign = |key: &SigningKey, change: &dyn Fn(&mut Header<'_>)| {
        let mut changed = Header::decode(&header, &self::key().verifying_key()).unwrap();
        change(&mut changed);
        changed.encode(|bytes| ed25519_dalek::Signer::sign(key, bytes).to_bytes()).unwrap()
    };
    let wrong_parity = sign(&key(), &|header| header.layout.fec_sha256[0] ^= 1);
    refused(&wrong_parity, data, Error::Parity);
    let stranger = SigningKey::from_bytes(&[1; 32]);
    refused(&sign(&stranger, &|_| {}), data, Error::Header(header::Error::Signature));
    let arm = sign(&key(), &|header| header.arch = Arch::Aarch64);
    refused(&arm, data, Error::Header(header::Error::Arch(Arch::Aarch64)));
    let short = Writing::begin(&header, &key().verifying_key(), Arch::X86_64, u64::from(layout.end_block) + 1);
    let (blocks, room) = (u64::from(layout.end_block) + 2, u64::from(layout.end_block) + 1);
    assert_eq!(short.err(), Some(Error::Header(header::Error::Length { blocks, room })));
}

#[test]
fn a_block_that_cannot_be_written_is_named() {
    let (good, _) = Disk::new(6);
    let mut disk = good.clone();
    disk.blocks[9].fill(0);
    disk.unwritable.insert(9);
    assert_eq!(write(&mut disk, &header_of(&good), data_of(&good), usize::MAX), Err(Error::Medium(9)));
}

#[test]
fn a_medium_that_does_not_say_that_it_has_kept_it_gets_no_header() {
    let (good, layout) = Disk::new(8);
    let mut disk = Disk { cannot_flush: true, ..good.clone() };
    let end = u64::from(layout.end_block);
    assert_eq!(write(&mut disk, &header_of(&good), data_of(&good), usize::MAX), Err(Error::Medium(end)));
    assert!(has_no_header(&disk));
}
