//! RaptorQ (RFC 6330), one source block at a time.

use perigee_core::update::pieces::SYMBOL_BYTES;
use raptorq::{EncodingPacket, ObjectTransmissionInformation, PayloadId, SourceBlockDecoder};

/// The block of `count` symbols, from some of them and repair symbols, each with its number; `None` while they are too
/// few.
pub fn decode(count: usize, heard: Vec<(u32, Vec<u8>)>) -> Option<Vec<u8>> {
    let bytes = count * SYMBOL_BYTES;
    let one_block = ObjectTransmissionInformation::new(bytes as u64, SYMBOL_BYTES as u16, 1, 1, 8);
    let mut decoder = SourceBlockDecoder::new(0, &one_block, bytes as u64);
    decoder.decode(heard.into_iter().map(|(number, symbol)| EncodingPacket::new(PayloadId::new(0, number), symbol)))
}
