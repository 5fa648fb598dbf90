//! What a simulated radio link is like, as people write it: `rate=64k,loss=5%,window=8m/96m,speed=20`. Pure.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, bail, ensure};

/// A link that shows all that can be said, for errors and help.
pub const EXAMPLE: &str = "rate=64k,loss=5%,window=8m/96m,delay=250ms,speed=20,seed=1";
/// The whole, in parts per million.
pub(crate) const MILLION: u32 = 1_000_000;

/// A radio link between the ground and the machines. What is not said is not limited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// `rate=64k`: bit/s each way, at least 1.
    pub rate_bps: Option<u64>,
    /// `loss=5%`: frames that are lost at random, parts per million.
    pub loss_ppm: u32,
    /// `window=8m/96m`: when it is up.
    pub window: Option<Window>,
    /// `delay=250ms`: how long a frame is in the air.
    pub delay: Duration,
    /// `speed=20`: all of it goes so many times as fast, at least 1.
    pub speed: u32,
    /// `seed=1`: decides which frames are lost.
    pub seed: u64,
}

/// Passes: up for a while of every period, beginning with up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// How long a pass is; not 0, and not longer than `period`.
    pub up: Duration,
    /// From the beginning of a pass to the beginning of the next.
    pub period: Duration,
}

impl Default for Link {
    fn default() -> Self {
        Self { rate_bps: None, loss_ppm: 0, window: None, delay: Duration::ZERO, speed: 1, seed: 1 }
    }
}

impl Link {
    /// The same link by this host's clock: as fast as `speed` makes it.
    #[must_use]
    pub fn compressed(&self) -> Self {
        let Self { rate_bps, window, delay, speed, .. } = *self;
        Self {
            rate_bps: rate_bps.map(|rate| rate.saturating_mul(u64::from(speed))),
            window: window.map(|Window { up, period }| Window { up: up / speed, period: period / speed }),
            delay: delay / speed,
            speed: 1,
            ..*self
        }
    }

    /// Reads `key=value`.
    fn set(&mut self, key: &str, text: &str) -> Result<()> {
        match key {
            "rate" => self.rate_bps = Some(rate(text)?),
            "loss" => self.loss_ppm = loss(text)?,
            "window" => self.window = Some(window(text)?),
            "delay" => self.delay = duration(text)?,
            "speed" => self.speed = speed(text)?,
            "seed" => self.seed = text.parse().map_err(|_| expected("a whole number", "1"))?,
            _ => bail!("no such key; expected one of rate, loss, window, delay, speed, seed"),
        }
        Ok(())
    }
}

impl FromStr for Link {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut link = Self::default();
        let mut known = Vec::new();
        for part in text.split(',') {
            let mut read = || {
                let (key, value) = part.split_once('=').ok_or_else(|| anyhow!("expected `key=value`"))?;
                ensure!(!known.contains(&key), "said twice");
                link.set(key, value)?;
                Ok(key)
            };
            let key = read().with_context(|| format!("`{part}` in a link such as `{EXAMPLE}`"))?;
            known.push(key);
        }
        Ok(link)
    }
}

/// In words, without `speed`: `64 kbit/s each way, 5 % of frames lost (seed 1), up 480s of every 5760s`.
impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rate_bps {
            Some(rate) => write!(f, "{} kbit/s each way", rate as f64 / 1e3)?,
            None => write!(f, "any rate")?,
        }
        if self.loss_ppm > 0 {
            write!(f, ", {} % of frames lost (seed {})", f64::from(self.loss_ppm) / 1e4, self.seed)?;
        }
        if let Some(Window { up, period }) = self.window {
            write!(f, ", up {up:?} of every {period:?}")?;
        }
        if self.delay > Duration::ZERO {
            write!(f, ", {:?} one way", self.delay)?;
        }
        Ok(())
    }
}

fn expected(what: &str, example: &str) -> Error {
    anyhow!("expected {what}, for example {example}")
}

/// `64k`: bit/s.
fn rate(text: &str) -> Result<u64> {
    let units = [("k", 1e3), ("M", 1e6), ("", 1.0)];
    let rate = number(text, &units).filter(|rate| *rate >= 1.0);
    rate.map(|rate| rate as u64).ok_or_else(|| expected("bits a second, at least 1, with k or M for more", "64k"))
}

/// `5%`: parts per million.
fn loss(text: &str) -> Result<u32> {
    let percent = number(text, &[("%", 1.0)]).filter(|percent| *percent <= 100.0);
    let percent = percent.ok_or_else(|| expected("a share of the frames from 0% to 100%", "5%"))?;
    Ok((percent / 100.0 * f64::from(MILLION)).round() as u32)
}

fn window(text: &str) -> Result<Window> {
    let window = text.split_once('/').and_then(|(up, period)| {
        let window = Window { up: duration(up).ok()?, period: duration(period).ok()? };
        (window.up > Duration::ZERO && window.up <= window.period).then_some(window)
    });
    window.ok_or_else(|| expected("UP/PERIOD, how long the link is up of how long", "8m/96m"))
}

fn speed(text: &str) -> Result<u32> {
    let speed = text.parse().ok().filter(|speed| *speed > 0);
    speed.ok_or_else(|| expected("how many times as fast, a whole number from 1 on", "20"))
}

fn duration(text: &str) -> Result<Duration> {
    let units = [("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let seconds = number(text, &units).and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or_else(|| expected("a time with its unit: ms, s, m or h", "250ms"))
}

/// A number that is not negative, with one of `units`: the first that fits, and how much it is.
fn number(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let (digits, factor) = units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    digits.parse::<f64>().ok().filter(|_| plain).map(|number| number * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(text: &str) -> Link {
        text.parse().unwrap()
    }

    #[test]
    fn all_that_can_be_said_is_read() {
        let all = Link {
            rate_bps: Some(64_000),
            loss_ppm: 50_000,
            window: Some(Window { up: Duration::from_secs(480), period: Duration::from_secs(5760) }),
            delay: Duration::from_millis(250),
            speed: 20,
            seed: 1,
        };
        assert_eq!(link(EXAMPLE), all);
        assert_eq!(link("seed=7"), Link { seed: 7, ..Link::default() });
        assert_eq!(link("rate=1.5M").rate_bps, Some(1_500_000));
        assert_eq!(link("rate=9600").rate_bps, Some(9600));
        assert_eq!(link("loss=0.01%").loss_ppm, 100);
        assert_eq!(link("window=1.5h/2h").window.unwrap().up, Duration::from_secs(5400));
    }

    #[test]
    fn a_mistake_is_named_with_what_was_expected_and_an_example() {
        for (wrong, why) in [
            ("", "key=value"),
            ("rate", "key=value"),
            ("rate=64k,", "key=value"),
            ("baud=9600", "one of rate, loss"),
            ("rate=1k,rate=2k", "twice"),
            ("rate=0", "64k"),
            ("rate=64K", "64k"),
            ("rate=-1k", "64k"),
            ("rate=infk", "64k"),
            ("loss=5", "5%"),
            ("loss=101%", "5%"),
            ("window=8m", "8m/96m"),
            ("window=0s/96m", "8m/96m"),
            ("window=97m/96m", "8m/96m"),
            ("window=8/96", "8m/96m"),
            ("delay=250", "250ms"),
            ("delay=99999999999999999999h", "250ms"),
            ("speed=0", "20"),
            ("speed=1.5", "20"),
            ("seed=x", "whole number"),
        ] {
            let error = format!("{:#}", wrong.parse::<Link>().unwrap_err());
            assert!(error.contains(why) && error.contains(EXAMPLE), "`{wrong}`: {error}");
        }
    }

    #[test]
    fn time_compression_leaves_what_fits_into_a_pass() {
        let fast = link("rate=64k,window=8m/96m,delay=200ms,speed=20,loss=5%").compressed();
        assert_eq!(fast, link("rate=1280k,window=24s/288s,delay=10ms,loss=5%"));
        assert_eq!(fast.compressed(), fast);
    }

    #[test]
    fn it_says_what_it_is() {
        let words = "64 kbit/s each way, 5 % of frames lost (seed 1), up 480s of every 5760s, 250ms one way";
        assert_eq!(link(EXAMPLE).to_string(), words);
        assert_eq!(Link::default().to_string(), "any rate");
    }
}
