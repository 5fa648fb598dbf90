//! The boot state on the loader's disk.

use perigee_core::gpt::{Partition, SECTOR_BYTES};
use perigee_core::slot::State;
use perigee_core::slot::copies::{self, COPIES, Found, Lost, NAMES, PLACES, Places};
use perigee_core::slot::record::{RECORD_BYTES, Record};

use crate::disk::Disk;
use crate::error::Error;

const SECTORS: u64 = (RECORD_BYTES / SECTOR_BYTES) as u64;

/// Where the copies are; a partition that the table has lost has none.
pub struct Store {
    partitions: [Option<Partition>; COPIES],
    /// What was written or read last.
    newest: Option<Record>,
}

impl Store {
    /// Looks for the partitions.
    pub fn find(disk: &Disk) -> Self {
        Self { partitions: NAMES.map(|name| disk.partition(name).ok()), newest: None }
    }

    /// Reads what the copies agree on.
    pub fn read(&mut self, disk: &mut Disk) -> Result<State, Lost> {
        let mut places = [[None; PLACES]; COPIES];
        for (partition, places) in self.partitions.iter().zip(&mut places) {
            if let Some(partition) = partition {
                read_places(disk, partition, places);
            }
        }
        let Found { record, stale } = copies::read(&places)?;
        for (name, _) in NAMES.iter().zip(stale).filter(|(_, stale)| *stale) {
            say!("state-stale copy={name}");
        }
        let state = record.state.clone();
        self.newest = Some(record);
        Ok(state)
    }

    /// Writes `state` to all copies; fails if none took it.
    pub fn write(&mut self, disk: &mut Disk, state: &State) -> Result<(), Error> {
        let record = match &self.newest {
            Some(newest) => newest.followed_by(state.clone()),
            None => Record::first(state.clone()),
        };
        let bytes = record.encode();
        let sector = copies::place_of(record.sequence) as u64 * SECTORS;
        let mut result = Err(Error::NoPartition("state-0, state-1 or state-2"));
        for (name, partition) in NAMES.iter().zip(&self.partitions) {
            let Some(partition) = partition else { continue };
            match disk.write(partition, sector, &bytes) {
                Ok(()) => result = Ok(()),
                Err(error) => {
                    say!("state-unwritten copy={name} reason=\"{error}\"");
                    result = result.or(Err(error));
                }
            }
        }
        self.newest = Some(record);
        result
    }
}

fn read_places(disk: &mut Disk, partition: &Partition, places: &mut Places) {
    for (place, sector) in places.iter_mut().zip((0..).step_by(SECTORS as usize)) {
        let mut bytes = [0; RECORD_BYTES];
        // A place that cannot be read is one that says nothing.
        *place = disk.read(partition, sector, &mut bytes).is_ok().then_some(bytes);
    }
}
