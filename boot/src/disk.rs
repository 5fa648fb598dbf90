//! The disk that the loader came from, by its partitions' names.

use alloc::vec;
use alloc::vec::Vec;

use perigee_core::gpt::{FIRST_HEADER, Partition, SECTOR_BYTES, Table};
use uefi::boot::{self, ScopedProtocol};
use uefi::proto::device_path::build::DevicePathBuilder;
use uefi::proto::device_path::{DevicePath, DevicePathNodeEnum};
use uefi::proto::loaded_image::LoadedImage;
use uefi::proto::media::block::BlockIO;

use crate::error::Error;
use crate::sys::memory::Pages;
use crate::sys::open_shared;

/// What is read or written at a time where the disk wants memory to be aligned and it is not.
const BOUNCE_BYTES: usize = boot::PAGE_SIZE;

/// An open disk with its partition table.
pub struct Disk {
    io: Aligned,
    table: Table,
    entries: Vec<u8>,
}

impl Disk {
    /// Opens the disk on whose ESP the loader is.
    pub fn of_loader() -> Result<Self, Error> {
        let mut io = Aligned::new(open_block_io()?)?;
        let media = io.device.media();
        if media.block_size() as usize != SECTOR_BYTES {
            return Err(Error::Sector(media.block_size()));
        }
        let last = media.last_block();
        let (table, entries) = match read_table(&mut io, FIRST_HEADER) {
            Ok(found) => found,
            Err(first) => {
                say!("table-damaged copy=first reason=\"{first}\"");
                read_table(&mut io, last)?
            }
        };
        Ok(Self { io, table, entries })
    }

    /// Finds a partition.
    pub fn partition(&self, name: &'static str) -> Result<Partition, Error> {
        self.table.find(&self.entries, name)?.ok_or(Error::NoPartition(name))
    }

    /// Reads whole sectors of a partition, `sector` from its start.
    pub fn read(&mut self, partition: &Partition, sector: u64, bytes: &mut [u8]) -> Result<(), Error> {
        self.io.read(place(partition, sector, bytes.len())?, bytes).map_err(Error::firmware("read the disk"))
    }

    /// Writes whole sectors of a partition, `sector` from its start, and waits until they are on the medium.
    pub fn write(&mut self, partition: &Partition, sector: u64, bytes: &[u8]) -> Result<(), Error> {
        self.io.write(place(partition, sector, bytes.len())?, bytes).map_err(Error::firmware("write the disk"))?;
        self.io.device.flush_blocks().map_err(Error::firmware("flush the disk"))
    }
}

/// A disk that takes memory wherever it is: U-Boot's want it aligned, OVMF's and AAVMF's do not care.
struct Aligned {
    device: ScopedProtocol<BlockIO>,
    align: usize,
    bounce: Pages,
}

impl Aligned {
    fn new(device: ScopedProtocol<BlockIO>) -> Result<Self, Error> {
        // 0 and 1 say that it does not matter (UEFI specification 2.10, section 13.9.1).
        let align = (device.media().io_align() as usize).clamp(1, BOUNCE_BYTES);
        Ok(Self { device, align, bounce: Pages::new(BOUNCE_BYTES)? })
    }

    fn read(&mut self, sector: u64, bytes: &mut [u8]) -> uefi::Result {
        let media = self.device.media().media_id();
        if bytes.as_ptr().addr().is_multiple_of(self.align) {
            return self.device.read_blocks(media, sector, bytes);
        }
        for (sector, part) in (sector..).step_by(BOUNCE_BYTES / SECTOR_BYTES).zip(bytes.chunks_mut(BOUNCE_BYTES)) {
            let bounce = &mut self.bounce.bytes_mut()[..part.len()];
            self.device.read_blocks(media, sector, bounce)?;
            part.copy_from_slice(bounce);
        }
        Ok(())
    }

    fn write(&mut self, sector: u64, bytes: &[u8]) -> uefi::Result {
        let media = self.device.media().media_id();
        if bytes.as_ptr().addr().is_multiple_of(self.align) {
            return self.device.write_blocks(media, sector, bytes);
        }
        for (sector, part) in (sector..).step_by(BOUNCE_BYTES / SECTOR_BYTES).zip(bytes.chunks(BOUNCE_BYTES)) {
            let bounce = &mut self.bounce.bytes_mut()[..part.len()];
            bounce.copy_from_slice(part);
            self.device.write_blocks(media, sector, bounce)?;
        }
        Ok(())
    }
}

/// The sector of the disk, if all of `bytes` is within the partition.
fn place(partition: &Partition, sector: u64, bytes: usize) -> Result<u64, Error> {
    let end = sector.checked_add((bytes / SECTOR_BYTES) as u64);
    if end.is_none_or(|end| end > partition.sectors) {
        return Err(Error::Behind("what is read or written"));
    }
    partition.start.checked_add(sector).ok_or(Error::Behind("the partition"))
}

fn read_table(io: &mut Aligned, header_at: u64) -> Result<(Table, Vec<u8>), Error> {
    let mut sector = [0; SECTOR_BYTES];
    io.read(header_at, &mut sector).map_err(Error::firmware("read the partition table"))?;
    let table = Table::decode(&sector, header_at)?;
    let mut entries = vec![0; table.entries_bytes()];
    io.read(table.entries_sector, &mut entries).map_err(Error::firmware("read the partition table"))?;
    // Checks the entries, too, while there is another table to go to.
    table.find(&entries, "")?;
    Ok((table, entries))
}

fn open_block_io() -> Result<ScopedProtocol<BlockIO>, Error> {
    let doing = "find the loader's own disk";
    let loaded = boot::open_protocol_exclusive::<LoadedImage>(boot::image_handle()).map_err(Error::firmware(doing))?;
    let no_device = Error::Firmware { doing, status: uefi::Status::NOT_FOUND };
    let partition = loaded.device().ok_or(no_device)?;
    let path = boot::open_protocol_exclusive::<DevicePath>(partition).map_err(Error::firmware(doing))?;
    // The disk is what the path to the partition has before the partition itself.
    let mut storage = Vec::new();
    let mut builder = DevicePathBuilder::with_vec(&mut storage);
    for node in path.node_iter().take_while(|node| !matches!(node.as_enum(), Ok(DevicePathNodeEnum::MediaHardDrive(_))))
    {
        builder = builder.push(&node).map_err(|_| no_device)?;
    }
    let mut path = builder.finalize().map_err(|_| no_device)?;
    let disk = boot::locate_device_path::<BlockIO>(&mut path).map_err(Error::firmware(doing))?;
    open_shared(disk).map_err(Error::firmware(doing))
}
