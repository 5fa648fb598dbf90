//! What the kernel says of a block device: a `uevent` file of /sys/class/block (Documentation/ABI/testing/sysfs-uevent).

use alloc::borrow::ToOwned as _;
use alloc::string::String;

/// The device of the partition `name` among all block devices; of two, the one that comes first in the alphabet.
pub fn find(name: &str, uevents: impl Iterator<Item = String>) -> Option<String> {
    let devices = uevents.filter_map(|uevent| {
        let (found, device) = partition(&uevent)?;
        (found == name).then(|| device.to_owned())
    });
    devices.min()
}

/// The name and the device of a partition.
fn partition(uevent: &str) -> Option<(&str, &str)> {
    let value = |key: &str| uevent.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    Some((value("PARTNAME")?, value("DEVNAME")?))
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use super::*;

    #[test]
    fn a_partition_is_known_by_its_name() {
        let uevent = "MAJOR=254\nMINOR=9\nDEVNAME=vda9\nDEVTYPE=partition\nDISKSEQ=1\nPARTN=9\nPARTNAME=data\n";
        assert_eq!(partition(uevent), Some(("data", "vda9")));
    }

    #[test]
    fn of_two_partitions_with_a_name_the_first_in_the_alphabet_is_found() {
        let uevents = |name: &str| {
            let devices = [("data", "vdb9"), ("data", "vda9"), ("slot-a", "vda1")];
            find(name, devices.map(|(name, device)| format!("DEVNAME={device}\nPARTNAME={name}\n")).into_iter())
        };
        assert_eq!(uevents("data").as_deref(), Some("vda9"));
        assert_eq!(uevents("slot-a").as_deref(), Some("vda1"));
        assert_eq!(uevents("slot-b"), None);
    }

    #[test]
    fn what_has_no_name_is_no_partition_of_ours() {
        assert_eq!(partition("MAJOR=254\nDEVNAME=vda\nDEVTYPE=disk\n"), None);
        assert_eq!(partition("DEVNAME=vda1\nPARTN=1\n"), None);
        assert_eq!(partition("PARTNAMES=data\nDEVNAME=vda1\n"), None);
        assert_eq!(partition(""), None);
    }
}
