//! A slot's header: what is written is read, what anybody else wrote is refused by name.

use ed25519_dalek::{Signer, SigningKey};
use perigee_core::slot::header::{Arch, BLOCK_BYTES, Error, Header, Layout, header_blocks};

const SIGNED: usize = BLOCK_BYTES - 64;

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn sign(bytes: &[u8]) -> [u8; 64] {
    key().sign(bytes).to_bytes()
}

/// 469 + 4 + 1 blocks of tree, and 262 rounds of parity.
const LAYOUT: Layout = Layout {
    root_blocks: 57_000,
    data_blocks: 60_000,
    fec_block: 60_474,
    end_block: 66_762,
    fec_roots: 24,
    kernel_bytes: 12_000_001,
    kernel_sha256: [1; 32],
    root_hash: [2; 32],
    fec_sha256: [3; 32],
};

fn header() -> Header<'static> {
    Header {
        arch: Arch::Aarch64,
        layout: LAYOUT,
        version: "0.1.0+755ce8bbd604c751",
        command_line: "root=/dev/dm-0 dm-mod.create=\"vroot,,,ro,0 1 verity 1 PARTUUID=${PARTUUID}\"",
    }
}

fn sealed(mut bytes: [u8; BLOCK_BYTES]) -> [u8; BLOCK_BYTES] {
    let signature = sign(&bytes[..SIGNED]);
    bytes[SIGNED..].copy_from_slice(&signature);
    bytes
}

#[test]
fn what_is_written_is_read() {
    for arch in [Arch::X86_64, Arch::Aarch64] {
        let header = Header { arch, ..header() };
        let bytes = header.encode(sign).unwrap();
        assert_eq!(Header::decode(&bytes, &key().verifying_key()), Ok(header));
    }
}

#[test]
fn every_bit_is_signed() {
    let good = header().encode(sign).unwrap();
    for byte in 0..BLOCK_BYTES {
        let mut bytes = good;
        bytes[byte] ^= 1 << (byte % 8);
        let expected = if byte < 8 { Error::Magic } else { Error::Signature };
        assert_eq!(Header::decode(&bytes, &key().verifying_key()), Err(expected), "byte {byte}");
    }
    let stranger = SigningKey::from_bytes(&[8; 32]);
    assert_eq!(Header::decode(&good, &stranger.verifying_key()), Err(Error::Signature));
    assert_eq!(Header::decode(&[0; BLOCK_BYTES], &key().verifying_key()), Err(Error::Magic));
}

#[test]
fn what_is_signed_and_makes_no_sense_is_named() {
    let good = header().encode(sign).unwrap();
    let with = |offset: usize, value: u32| {
        let mut bytes = good;
        bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
        sealed(bytes)
    };
    for (offset, value, field) in [
        (8, 0, "architecture"),
        (8, 3, "architecture"),
        (8, 0x0100_0001, "architecture"),
        (12, 60_001, "data_blocks"),
        (12, 57_071, "kernel_bytes"),
        (16, 59_999, "fec_block"),
        (20, 60_473, "fec_block"),
        (24, 66_763, "end_block"),
        (28, 1, "fec_roots"),
        (28, 25, "fec_roots"),
        (28, 256 + 24, "fec_roots"),
        (28, 23, "end_block"),
        (32, 0, "kernel_bytes"),
        (32, 3_000 * 4096 + 1, "kernel_bytes"),
        (2272, u32::from_le_bytes(*b"abcd"), "command line"),
    ] {
        let bytes = with(offset, value);
        let read = Header::decode(&bytes, &key().verifying_key());
        if field == "command line" {
            // A text that ends early is one; what comes after its zero is not read.
            assert_eq!(read, Ok(header()));
        } else {
            assert_eq!(read, Err(Error::Field(field)), "{value} at {offset}");
        }
    }
    for (range, field) in [(132..228, "version"), (228..2276, "command line")] {
        let mut endless = good;
        endless[range.clone()].fill(b'x');
        assert_eq!(Header::decode(&sealed(endless), &key().verifying_key()), Err(Error::Field(field)));
        let mut no_text = good;
        no_text[range.start] = 0xff;
        assert_eq!(Header::decode(&sealed(no_text), &key().verifying_key()), Err(Error::Field(field)));
    }
    assert!(Header::decode(&with(32, 3_000 * 4096), &key().verifying_key()).is_ok());
}

#[test]
fn what_cannot_be_read_is_not_written() {
    let long = "x".repeat(2048);
    for (header, field) in [
        (Header { version: &long[..96], ..header() }, "version"),
        (Header { version: "a\0b", ..header() }, "version"),
        (Header { command_line: &long, ..header() }, "command line"),
        (Header { layout: Layout { kernel_bytes: 0, ..LAYOUT }, ..header() }, "kernel_bytes"),
    ] {
        assert_eq!(header.encode(sign), Err(Error::Field(field)));
    }
    assert!(Header { version: &long[..95], command_line: &long[..2047], ..header() }.encode(sign).is_ok());
}

#[test]
fn a_slot_fits_its_machine_and_its_partition() {
    let header = header();
    assert_eq!(header.fits(Arch::Aarch64, 66_764), Ok(()));
    assert_eq!(header.fits(Arch::X86_64, 66_764), Err(Error::Arch(Arch::Aarch64)));
    assert_eq!(header.fits(Arch::Aarch64, 66_763), Err(Error::Length { blocks: 66_764, room: 66_763 }));
    assert_eq!(header_blocks(66_764), [66_762, 66_763]);
    assert_eq!(header_blocks(1), [0, 0]);
    let told = Error::Arch(Arch::Aarch64).to_string() + &Error::Length { blocks: 2, room: 1 }.to_string();
    assert_eq!(
        told,
        "the slot is for aarch64, this machine is anotherthe slot has 2 blocks, its partition has room for 1"
    );
}
