//! Where slots are made that are no good.

use std::fs;
use std::ops::Range;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use ed25519_dalek::{Signer, SigningKey};
use perigee_core::slot::header::{self, BLOCK_BYTES, HEADERS, Layout};
use perigee_image::build::{Arch, Ctx};
use perigee_image::keys::SlotKey;
use perigee_image::rootfs::{self, Kind, Parts};
use perigee_image::slot::{self, Slot};
use perigee_image::{native, node};

use crate::card::Card;
use crate::lab::Lab;
use crate::release::Release;

/// What they are made for: the code that is put into them is its own.
pub const ARCH: Arch = Arch::X86_64;
/// So that a vital that never comes is given up after a minute and a half, and not after a quarter of an hour.
const TIMES: &str = " perigee.first_s=60 perigee.again_s=30";

/// What is written to the slot's partition.
pub struct Image {
    slot: Slot,
    /// Bytes of the contents that are zeros instead.
    zeros: Range<u64>,
    headers: Vec<u8>,
}

impl Image {
    /// Writes it to slot A of a card.
    pub fn write(&self, card: &Card) -> Result<()> {
        let mut contents = fs::read(&self.slot.image)?;
        let end = contents.len() as u64;
        contents[usize::try_from(self.zeros.start.min(end))?..usize::try_from(self.zeros.end.min(end))?].fill(0);
        card.put("slot-a", &contents, &self.headers)
    }

    /// What an update would make of it.
    pub fn release(&self, lab: &mut Lab) -> Result<Release> {
        ensure!(self.zeros.is_empty(), "a bundle's data are what its header says");
        Release::of(lab, ARCH, self.slot.version(), &self.slot.plain(&self.headers)?)
    }
}

/// Where bad slots are made.
pub struct Workshop<'a> {
    /// Where its machines run.
    pub lab: &'a mut Lab,
    ctx: Ctx,
    folder: PathBuf,
    key: SlotKey,
    good: Slot,
    kernel: PathBuf,
    loader: PathBuf,
}

impl<'a> Workshop<'a> {
    /// With what was built for the lab.
    pub fn new(lab: &'a mut Lab) -> Result<Self> {
        let ctx = lab.ctx().clone();
        let folder = lab.folder(ARCH, "bad-slot");
        fs::create_dir_all(&folder)?;
        let built = lab.built(ARCH)?;
        let (good, kernel, loader) = (built.slot.clone(), built.kernel.clone(), built.loader.clone());
        let key = SlotKey::find(&lab.keys())?;
        Ok(Self { lab, ctx, folder, key, good, kernel, loader })
    }

    fn image(&self, slot: &Slot, headers: Vec<u8>) -> Image {
        Image { slot: slot.clone(), zeros: 0..0, headers }
    }

    /// The good one with other headers.
    pub fn with_headers(&mut self, change: impl FnOnce(&mut [u8; BLOCK_BYTES])) -> Result<Image> {
        let headers = self.good.headers(&self.key)?;
        let mut block = headers[..BLOCK_BYTES].try_into()?;
        change(&mut block);
        Ok(self.image(&self.good, block.repeat(HEADERS)))
    }

    /// The good one that says something else, properly signed.
    pub fn with(&mut self, change: impl FnOnce(&mut header::Header<'_>)) -> Result<Image> {
        let line = self.good.command_line();
        let mut header = self.good.header(&line);
        change(&mut header);
        Ok(self.image(&self.good, slot::sign(&header, &self.key)?))
    }

    /// The good one with another command line.
    pub fn command_line(&mut self, change: impl FnOnce(String) -> String) -> Result<Image> {
        let line = change(self.good.command_line());
        Ok(self.image(&self.good, slot::sign(&self.good.header(&line), &self.key)?))
    }

    /// The good one, signed by somebody else.
    pub fn stranger(&mut self) -> Result<Image> {
        let stranger = SigningKey::from_bytes(&[0x42; 32]);
        let line = self.good.command_line();
        let block = self.good.header(&line).encode(|bytes| stranger.sign(bytes).to_bytes())?;
        Ok(self.image(&self.good, block.repeat(HEADERS)))
    }

    /// The good one with zeros somewhere, bytes.
    pub fn zeroed(&mut self, zeros: impl FnOnce(&Layout) -> Range<u64>) -> Result<Image> {
        let line = self.good.command_line();
        let zeros = zeros(&self.good.header(&line).layout);
        Ok(Image { zeros, ..self.image(&self.good, self.good.headers(&self.key)?) })
    }

    /// A slot with another kernel: the loader's own file, changed.
    pub fn kernel(&mut self, change: impl FnOnce(&mut [u8])) -> Result<Image> {
        let mut efi = fs::read(&self.loader)?;
        change(&mut efi);
        let kernel = self.folder.join("kernel.efi");
        fs::write(&kernel, efi)?;
        let root = self.noise()?;
        let slot = slot::build(&self.ctx, ARCH, &kernel, &root, "0.1.0+bad")?;
        Ok(self.image(&slot, slot.headers(&self.key)?))
    }

    /// A slot with other programs; `change` is given a file that is none.
    pub fn parts(&mut self, change: impl FnOnce(&mut Parts, PathBuf)) -> Result<Image> {
        let mut parts = node::parts(&self.ctx, ARCH)?;
        change(&mut parts, self.noise()?);
        let mkfs = native::mkfs_erofs(&self.ctx)?;
        let root = rootfs::build(&self.ctx, ARCH, &mkfs, &parts, Kind::Node)?;
        let slot = slot::build(&self.ctx, ARCH, &self.kernel, &root.image, &root.version)?;
        let line = slot.command_line() + TIMES;
        Ok(self.image(&slot, slot::sign(&slot.header(&line), &self.key)?))
    }

    /// A block that is neither a program nor a root.
    fn noise(&self) -> Result<PathBuf> {
        let noise = self.folder.join("noise");
        fs::write(&noise, [0xA5; BLOCK_BYTES])?;
        Ok(noise)
    }
}

/// A range of blocks, in bytes.
pub const fn blocks(from: u64, to: u64) -> Range<u64> {
    from * BLOCK_BYTES as u64..to * BLOCK_BYTES as u64
}

/// So many bytes of the kernel.
pub fn kernel(layout: &Layout, from: u64, length: u64) -> Range<u64> {
    let Range { start, end } = blocks(layout.kernel().start, layout.kernel().end);
    start + from..end.min((start + from).saturating_add(length))
}

/// The same, with more data than a partition has room for.
pub fn longer(layout: Layout) -> Layout {
    let mut longer = Layout { data_blocks: 1 << 20, ..layout };
    longer.fec_block = longer.tree().end as u32;
    longer.end_block = longer.fec_block + longer.fec().parity_blocks() as u32;
    longer
}

/// Each digit of verity's root hash is another.
pub fn other_root_hash(line: String) -> String {
    let is_hash = |word: &str| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let other = |word: &str| word.chars().map(|digit| if digit == '0' { '1' } else { '0' }).collect::<String>();
    line.split(' ').map(|word| if is_hash(word) { other(word) } else { word.to_owned() }).collect::<Vec<_>>().join(" ")
}

/// x86_64: `jmp .`; `xor eax, eax; ret`, which is EFI_SUCCESS.
pub const LOOP: [u8; 2] = [0xEB, 0xFE];
pub const RETURN: [u8; 3] = [0x31, 0xC0, 0xC3];

/// Puts code where an EFI application begins (PE format: the entry point's address, by its section's place in the file).
pub fn patch_entry(efi: &mut [u8], code: &[u8]) {
    let word = |at: usize| u32::from_le_bytes([efi[at], efi[at + 1], efi[at + 2], efi[at + 3]]) as usize;
    let pe = word(0x3c);
    let (sections, entry) = (word(pe + 6) & 0xffff, word(pe + 0x28));
    let first_section = pe + 0x18 + (word(pe + 0x14) & 0xffff);
    for section in (0..sections).map(|number| first_section + number * 40) {
        let (size, address, offset) = (word(section + 8), word(section + 12), word(section + 20));
        if (address..address + size).contains(&entry) {
            let at = entry - address + offset;
            efi[at..at + code.len()].copy_from_slice(code);
            return;
        }
    }
}
