//! The figures as a table of ratios: one target against the other, and against what was promised.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::Figures;

/// The most that is allowed, by name.
const LIMITS: [(&str, f64); 7] = [
    ("image.slot_bytes", 320e6),
    ("image.elf_count", 14.0),
    ("boot.own_share", 0.20),
    ("memory.own_pss_mib", 8.0),
    ("memory.single_min_mib", 512.0),
    ("memory.worker_min_mib", 192.0),
    ("image.setuid_count", 0.0),
];

/// A line for each name: its value for each target, of the limit where there is one, and the second target's share of
/// the first.
pub fn table(all: &BTreeMap<String, Figures>) -> String {
    let mut names: Vec<&String> = all.values().flat_map(Figures::keys).collect();
    names.sort();
    names.dedup();
    let mut text = format!("{:40}", "name");
    for target in all.keys() {
        let _ = write!(text, "{target:>16}{:>10}", "of limit");
    }
    text.push_str("     ratio\n");
    for name in names {
        let _ = write!(text, "{name:40}");
        let limit = LIMITS.iter().find(|(limited, _)| limited == name).map(|(_, limit)| *limit);
        for figures in all.values() {
            let value = figures.get(name);
            let _ = write!(text, "{:>16}", value.map_or_else(|| "-".into(), |value| number(*value)));
            let share = value.zip(limit).filter(|(_, limit)| *limit > 0.0).map(|(value, limit)| value / limit);
            let _ = write!(text, "{:>10}", share.map_or_else(String::new, |share| format!("{:.0} %", share * 100.0)));
        }
        let mut values = all.values().filter_map(|figures| figures.get(name));
        if let (Some(first), Some(second)) = (values.next(), values.next())
            && *first != 0.0
        {
            let _ = write!(text, "{:>10.2}", second / first);
        }
        text.push('\n');
    }
    text
}

fn number(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.3}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_beside_their_limits_and_the_other_target() {
        let figures = |share: f64| Figures::from([("boot.own_share".to_owned(), share)]);
        let all = BTreeMap::from([("aarch64".to_owned(), figures(0.1)), ("x86_64".to_owned(), figures(0.15))]);
        let table = table(&all);
        assert!(table.contains("50 %") && table.contains("75 %") && table.contains("1.50"), "{table}");
    }
}
