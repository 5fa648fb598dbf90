//! What the kernel says of a block device: a `uevent` file of /sys/class/block (Documentation/ABI/testing/sysfs-uevent).

use alloc::borrow::ToOwned as _;
use alloc::collections::BTreeMap;
use alloc::string::String;

/// The device of each partition that has a name; of two with the same name, the one that comes first in the alphabet.
pub fn partitions(uevents: impl Iterator<Item = String>) -> BTreeMap<String, String> {
    let mut devices = BTreeMap::new();
    for uevent in uevents {
        if let Some((name, device)) = partition(&uevent) {
            let first = devices.entry(name.to_owned()).or_insert_with(|| device.to_owned());
            if device < first.as_str() {
                device.clone_into(first);
            }
        }
    }
    devices
}

/// The name and the device of a partition.
fn partition(uevent: &str) -> Option<(&str, &str)> {
    let value = |key: &str| uevent.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    Some((value("PARTNAME")?, value("DEVNAME")?))
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn a_partition_is_known_by_its_name() {
        let uevent = "MAJOR=254\nMINOR=9\nDEVNAME=vda9\nDEVTYPE=partition\nDISKSEQ=1\nPARTN=9\nPARTNAME=data\n";
        assert_eq!(partition(uevent), Some(("data", "vda9")));
    }

    #[test]
    fn of_two_partitions_with_a_name_the_first_in_the_alphabet_is_found() {
        let named = [("data", "vdb9"), ("data", "vda9"), ("data", "vdc9"), ("slot-a", "vda1")];
        let uevents = named.map(|(name, device)| format!("DEVNAME={device}\nPARTNAME={name}\n"));
        let found = partitions(uevents.into_iter());
        let found: Vec<_> = found.iter().map(|(name, device)| (name.as_str(), device.as_str())).collect();
        assert_eq!(found, [("data", "vda9"), ("slot-a", "vda1")]);
    }

    #[test]
    fn what_has_no_name_is_no_partition_of_ours() {
        assert_eq!(partition("MAJOR=254\nDEVNAME=vda\nDEVTYPE=disk\n"), None);
        assert_eq!(partition("DEVNAME=vda1\nPARTN=1\n"), None);
        assert_eq!(partition("PARTNAMES=data\nDEVNAME=vda1\n"), None);
        assert_eq!(partition(""), None);
    }
}
