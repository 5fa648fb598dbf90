//! What the kernel says of a block device: a `uevent` file of /sys/class/block (Documentation/ABI/testing/sysfs-uevent).

/// The name and the device of a partition.
pub fn partition(uevent: &str) -> Option<(&str, &str)> {
    let value = |key: &str| uevent.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    Some((value("PARTNAME")?, value("DEVNAME")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_known_by_its_name() {
        let uevent = "MAJOR=254\nMINOR=9\nDEVNAME=vda9\nDEVTYPE=partition\nDISKSEQ=1\nPARTN=9\nPARTNAME=data\n";
        assert_eq!(partition(uevent), Some(("data", "vda9")));
    }

    #[test]
    fn what_has_no_name_is_no_partition_of_ours() {
        assert_eq!(partition("MAJOR=254\nDEVNAME=vda\nDEVTYPE=disk\n"), None);
        assert_eq!(partition("DEVNAME=vda1\nPARTN=1\n"), None);
        assert_eq!(partition("PARTNAMES=data\nDEVNAME=vda1\n"), None);
        assert_eq!(partition(""), None);
    }
}
