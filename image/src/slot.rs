//! A slot's contents: root file system and kernel in one run of blocks, verity's tree and error correction over both,
//! and the signed header. What is where is in [`perigee_core::slot::header`].

use std::fs::{self, File};
use std::io::{Read as _, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use perigee_core::slot::header::{self, BLOCK_BYTES, HEADERS, Header, Layout, PARTUUID, SLOT};
use perigee_core::slot::verity::{Fec, Hash, Tree};
use sha2::{Digest, Sha256};

use crate::build::{Arch, Ctx, Job, Key};
use crate::keys::SlotKey;

/// Parity bytes in a codeword of 255: 24 correct a thousand flipped bits and a lost erase group in a slot of 105 MB, two
/// (the usual default) not sixty (measured; a flip costs a block in each of its codewords). Space: 24/231 of the slot.
const FEC_ROOTS: u8 = 24;
/// Verity's tree and parity on two cores.
const USUAL: Duration = Duration::from_secs(30);

/// A slot without its header.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Everything from the partition's start.
    pub image: PathBuf,
    arch: header::Arch,
    version: String,
    layout: Layout,
}

/// Puts a slot together from a kernel and a root file system.
pub fn build(ctx: &Ctx, arch: Arch, kernel: &Path, root: &Path, version: &str) -> Result<Slot> {
    let mut key = Key::new("slot 2").text(arch.name()).text(version).text(&FEC_ROOTS.to_string());
    for path in [kernel, root] {
        key = ctx.input(key, path)?;
    }
    let done = ctx.step(&format!("slot-{}", arch.name()), USUAL, key, |job| {
        let layout = assemble(job, kernel, root)?;
        Ok(fs::write(job.out.join("layout.json"), serde_json::to_vec(&layout)?)?)
    })?;
    let layout = serde_json::from_slice(&fs::read(done.join("layout.json"))?)?;
    let arch = match arch {
        Arch::X86_64 => header::Arch::X86_64,
        Arch::Aarch64 => header::Arch::Aarch64,
    };
    Ok(Slot { image: done.join("slot.img"), arch, version: version.to_owned(), layout })
}

fn assemble(job: &Job, kernel: &Path, root: &Path) -> Result<Layout> {
    let image = job.out.join("slot.img");
    let mut file = File::create(&image).with_context(|| format!("create {}", image.display()))?;
    let root_blocks = append(&mut file, &fs::read(root)?)?;
    let kernel = fs::read(kernel)?;
    let data_blocks = root_blocks + append(&mut file, &kernel)?;
    drop(file);
    let block = BLOCK_BYTES as u64;
    let hash_offset = u64::from(data_blocks) * block;
    let tree = Tree::new(data_blocks);
    let (fec_block, end_block) = (tree.end, tree.end + Fec::new(&tree, FEC_ROOTS).parity_blocks());
    let root_hash = job.out.join("root-hash");
    let mut format = Command::new("veritysetup");
    format
        .args(["format", "--hash=sha256", "--data-block-size=4096", "--hash-block-size=4096", "--salt=-"])
        .arg("--no-superblock")
        .arg(format!("--data-blocks={data_blocks}"))
        .arg(format!("--hash-offset={hash_offset}"))
        .arg(format!("--fec-roots={FEC_ROOTS}"))
        .arg(format!("--fec-offset={}", fec_block * block))
        .arg(format!("--fec-device={}", image.display()))
        .arg(format!("--root-hash-file={}", root_hash.display()))
        .args([&image, &image]);
    job.run(&mut format)?;
    let bytes = fs::read(&image)?;
    ensure!(
        bytes.len() as u64 == end_block * block,
        "veritysetup left {} bytes, expected {end_block} blocks",
        bytes.len()
    );
    // A tree that is longer than computed would be written over by the parity: its last block must not be zeros.
    let (tree, parity) = bytes.split_at(usize::try_from(fec_block * block)?);
    ensure!(tree[tree.len() - BLOCK_BYTES..].iter().any(|byte| *byte != 0), "verity's tree is shorter than computed");
    Ok(Layout {
        root_blocks,
        data_blocks,
        fec_block: u32::try_from(fec_block)?,
        end_block: u32::try_from(end_block)?,
        fec_roots: FEC_ROOTS,
        kernel_bytes: u32::try_from(kernel.len())?,
        kernel_sha256: Sha256::digest(&kernel).into(),
        root_hash: parse_hash(fs::read_to_string(&root_hash)?.trim())?,
        fec_sha256: Sha256::digest(parity).into(),
    })
}

fn parse_hash(digits: &str) -> Result<Hash> {
    let mut hash = Hash::default();
    for (byte, at) in hash.iter_mut().zip((0..).step_by(2)) {
        let digits = digits.get(at..at + 2).context("a hash has 64 digits")?;
        *byte = u8::from_str_radix(digits, 16).with_context(|| format!("root hash {digits}"))?;
    }
    Ok(hash)
}

/// Appends whole blocks; gives their number.
fn append(file: &mut File, bytes: &[u8]) -> Result<u32> {
    let padded = bytes.len().next_multiple_of(BLOCK_BYTES);
    file.write_all(bytes)?;
    file.write_all(&vec![0; padded - bytes.len()])?;
    Ok(u32::try_from(padded / BLOCK_BYTES)?)
}

impl Slot {
    /// Where its kernel begins, bytes from the partition's start.
    pub fn kernel_offset(&self) -> u64 {
        self.layout.kernel().start * BLOCK_BYTES as u64
    }

    /// What a bundle makes: one of `headers`, then root file system and kernel.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn plain(&self, headers: &[u8]) -> Result<Vec<u8>> {
        let mut plain = headers.get(..BLOCK_BYTES).context("a header has a block")?.to_vec();
        let image = File::open(&self.image).with_context(|| format!("open {}", self.image.display()))?;
        let data_bytes = u64::from(self.layout.data_blocks) * BLOCK_BYTES as u64;
        image.take(data_bytes).read_to_end(&mut plain).with_context(|| format!("read {}", self.image.display()))?;
        Ok(plain)
    }

    /// Its image's version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Its headers, signed, as they stand at the partition's end.
    pub fn headers(&self, key: &SlotKey) -> Result<Vec<u8>> {
        sign(&self.header(&self.command_line()), key)
    }

    /// What its headers say, with this command line.
    pub fn header<'a>(&'a self, command_line: &'a str) -> Header<'a> {
        Header { arch: self.arch, layout: self.layout, version: &self.version, command_line }
    }

    /// The root is verity's device; what neither it nor its error correction vouches for stops the machine, and the next
    /// start is another slot's.
    pub fn command_line(&self) -> String {
        let Layout { data_blocks, fec_block, root_hash, .. } = self.layout;
        let covered = self.layout.fec().covered();
        let root_hash: String = root_hash.iter().map(|byte| format!("{byte:02x}")).collect();
        let device = format!("PARTUUID={PARTUUID}");
        let sectors = u64::from(data_blocks) * (BLOCK_BYTES as u64 / 512);
        format!(
            "perigee.slot={SLOT} init=/sbin/init {} panic=10 page_alloc.shuffle=1 bonding.max_bonds=0 \
             root=/dev/dm-0 rootfstype=erofs ro dm-mod.waitfor={device} \
             dm-mod.create=\"root,,,ro,0 {sectors} verity 1 {device} {device} 4096 4096 {data_blocks} {data_blocks} sha256 \
             {root_hash} - 9 panic_on_corruption use_fec_from_device {device} fec_start {fec_block} \
             fec_blocks {covered} fec_roots {FEC_ROOTS}\"",
            match self.arch {
                header::Arch::X86_64 => "console=ttyS0,115200",
                header::Arch::Aarch64 => "console=ttyAMA0,115200",
            }
        )
    }
}

/// A header, signed, as often as a slot has it.
pub fn sign(header: &Header<'_>, key: &SlotKey) -> Result<Vec<u8>> {
    let mut signature = Err(anyhow::anyhow!("the header was not signed"));
    let block = header.encode(|bytes| {
        signature = key.sign(bytes);
        signature.as_ref().copied().unwrap_or([0; header::SIGNATURE_BYTES])
    })?;
    signature.context("sign the slot's header")?;
    Header::decode(&block, key.verifying())?;
    Ok(block.repeat(HEADERS))
}

#[cfg(test)]
mod tests {
    use perigee_core::slot::verity::{self, Block, Place};

    use super::*;
    use crate::testing::Scratch;

    /// A small slot by the real veritysetup: 700 blocks of root and a kernel of 20 and a bit.
    fn small(scratch: &Scratch) -> (Layout, Vec<Block>) {
        let ctx = Ctx { repo: scratch.path().into(), cache: scratch.path().join("cache"), jobs: 1 };
        fs::create_dir_all(ctx.cache.join("log")).unwrap();
        let noise = |bytes: usize, seed: u8| -> Vec<u8> {
            (0..bytes / 32 + 1)
                .flat_map(|at| <[u8; 32]>::from(Sha256::digest([at.to_le_bytes()[0], at.to_le_bytes()[1], seed])))
                .take(bytes)
                .collect()
        };
        let (root, kernel) = (scratch.path().join("root"), scratch.path().join("kernel"));
        fs::write(&root, noise(700 * BLOCK_BYTES, 1)).unwrap();
        fs::write(&kernel, noise(20 * BLOCK_BYTES + 5, 2)).unwrap();
        let slot = build(&ctx, Arch::X86_64, &kernel, &root, "1").unwrap();
        let blocks =
            fs::read(slot.image).unwrap().chunks_exact(BLOCK_BYTES).map(|block| block.try_into().unwrap()).collect();
        (slot.layout, blocks)
    }

    #[test]
    fn the_tree_is_where_and_what_core_says() {
        let scratch = Scratch::new("slot-tree");
        let (layout, blocks) = small(&scratch);
        assert_eq!((layout.root_blocks, layout.data_blocks, layout.kernel_bytes), (700, 721, 20 * 4096 + 5));
        let tree = layout.tree();
        assert_eq!(tree.end, u64::from(layout.fec_block));
        for block in 0..tree.end {
            let hash = verity::hash(&blocks[block as usize]);
            match tree.hash_of(block) {
                Some(Place { block: parent, offset }) => assert_eq!(blocks[parent as usize][offset..][..32], hash),
                None => assert_eq!((block, layout.root_hash), (tree.top(), hash)),
            }
        }
    }

    #[test]
    fn the_parity_is_where_and_what_core_says_and_mends_as_many_blocks_as_it_has_bytes() {
        let scratch = Scratch::new("slot-fec");
        let (layout, blocks) = small(&scratch);
        let fec = layout.fec();
        for block in 0..fec.groups() {
            let group: Vec<Block> =
                fec.group(block).map(|at| at.map_or([0; BLOCK_BYTES], |at| blocks[at as usize])).collect();
            let start = (u64::from(layout.fec_block) + fec.parity_start(block)) as usize;
            let expected = blocks[start..start + fec.parity_blocks_of_group()].as_flattened();
            let mut parity = vec![0; expected.len()];
            fec.parity(&group, &mut parity);
            assert!(parity == expected, "the parity of the group of block {block}");
            let lost: Vec<u8> = (0..FEC_ROOTS).map(|place| place * 3).collect();
            let mut damaged = group.clone();
            for place in &lost {
                damaged[usize::from(*place)] = [*place; BLOCK_BYTES];
            }
            let mut too_many = damaged.clone();
            let mended = fec.mend(&mut damaged, &parity, &lost, |mended| mended == group);
            assert!(mended.is_ok() && damaged == group, "the group of block {block}");
            let lost: Vec<u8> = (0..=FEC_ROOTS).collect();
            assert!(fec.mend(&mut too_many, &parity, &lost, |_| true).is_err());
        }
    }
}
