//! Sizes and times as people say them: three digits and a unit.

const KIB: u64 = 1024;
const SECOND_MS: u64 = 1000;
const MINUTE_MS: u64 = 60 * SECOND_MS;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

/// `43.1 MiB`.
pub fn bytes(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, "B");
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if value < KIB as f64 {
            break;
        }
        (value, unit) = (value / KIB as f64, larger);
    }
    if unit == "B" || value >= 100.0 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

/// `9.3 s`, `2 m 10 s`, `5 h 0 m`, `3 d 7 h`.
pub fn span(ms: u64) -> String {
    match ms {
        0..MINUTE_MS => format!("{}.{} s", ms / SECOND_MS, ms % SECOND_MS / 100),
        MINUTE_MS..HOUR_MS => format!("{} m {} s", ms / MINUTE_MS, ms % MINUTE_MS / SECOND_MS),
        HOUR_MS..DAY_MS => format!("{} h {} m", ms / HOUR_MS, ms % HOUR_MS / MINUTE_MS),
        DAY_MS.. => format!("{} d {} h", ms / DAY_MS, ms % DAY_MS / HOUR_MS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        let sizes = [0, 1023, 1024, 45_200_000, 524_288_000, u64::MAX].map(bytes);
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "43.1 MiB", "500 MiB", "16777216 TiB"]);
    }

    #[test]
    fn times_have_two_units() {
        let spans = [0, 9_340, 130_000, 18_000_000, 284_400_000].map(span);
        assert_eq!(spans, ["0.0 s", "9.3 s", "2 m 10 s", "5 h 0 m", "3 d 7 h"]);
    }
}
