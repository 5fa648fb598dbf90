//! How one image comes from another: bsdiff's matches as steps of a patch.

use perigee_core::slot::header::BLOCK_BYTES;
use perigee_core::update::patch::Step;

/// A run without a difference that is as long is copied; a shorter one is differences of zero, which cost next to nothing
/// compressed, while another step costs some bytes (measured on a Kubernetes patch release: 256 bytes are 1.7 % worse).
const COPY_BYTES: usize = 16 * 1024;
/// Of the blocks, at most one in so many differs in its place: then only what is near is searched, which takes a second and
/// not a minute, and finds as much.
const FEW: usize = 16;
/// How far around blocks that differ is searched.
const NEAR_BLOCKS: usize = 64;

/// A patch's streams, not compressed.
#[derive(Clone, Debug, Default)]
pub struct Streams {
    pub steps: Vec<u8>,
    pub differences: Vec<u8>,
    pub news: Vec<u8>,
}

/// The new image's next bytes: like those of the old one from `old` on, and then new ones.
#[derive(Clone, Debug)]
struct Run {
    old: usize,
    like: usize,
    new: usize,
}

/// The patch.
pub fn diff(old: &[u8], new: &[u8]) -> Streams {
    let mut writer = Writer { old, new, at: 0, done: 0, steps: Vec::new(), streams: Streams::default() };
    for run in runs(old, new) {
        writer.add(&run);
    }
    let Writer { steps, mut streams, .. } = writer;
    steps.iter().for_each(|step| step.encode(&mut streams.steps));
    streams
}

fn runs(old: &[u8], new: &[u8]) -> Vec<Run> {
    if old.is_empty() {
        return vec![Run { old: 0, like: 0, new: new.len() }];
    }
    let same = |at: usize| {
        let range = at * BLOCK_BYTES..((at + 1) * BLOCK_BYTES).min(new.len());
        old.get(range.clone()) == new.get(range)
    };
    let blocks = new.len().div_ceil(BLOCK_BYTES);
    let changed: Vec<usize> = (0..blocks).filter(|at| !same(*at)).collect();
    if changed.len() > blocks / FEW {
        return search(old, new, 0);
    }
    let mut runs = Vec::new();
    let mut done = 0;
    // What is changed side by side is searched together.
    for group in changed.chunk_by(|before, after| before + 1 == *after) {
        let (start, end) = (group[0] * BLOCK_BYTES, ((group[group.len() - 1] + 1) * BLOCK_BYTES).min(new.len()));
        if start > done {
            runs.push(Run { old: done, like: start - done, new: 0 });
        }
        let near = NEAR_BLOCKS * BLOCK_BYTES;
        let window = start.saturating_sub(near).min(old.len())..(end + near).min(old.len());
        let from = window.start;
        if window.is_empty() {
            runs.push(Run { old: from, like: 0, new: end - start });
        } else {
            runs.extend(search(&old[window], &new[start..end], from));
        }
        done = end;
    }
    if new.len() > done {
        runs.push(Run { old: done, like: new.len() - done, new: 0 });
    }
    runs
}

/// bsdiff's matches; the old bytes stand from `from` on in the old image.
fn search(old: &[u8], new: &[u8], from: usize) -> Vec<Run> {
    let mut runs = Vec::new();
    let each = |found: bidiff::Match| {
        let like = found.add_length;
        runs.push(Run { old: from + found.add_old_start, like, new: found.copy_end - found.add_new_start - like });
        Ok::<_, std::convert::Infallible>(())
    };
    let Ok(()) = bidiff::diff(old, new, &bidiff::DiffParams::default(), each);
    runs
}

struct Writer<'a> {
    old: &'a [u8],
    new: &'a [u8],
    /// Where the old image is read.
    at: usize,
    /// How much of the new image is made.
    done: usize,
    steps: Vec<Step>,
    streams: Streams,
}

impl Writer<'_> {
    fn add(&mut self, run: &Run) {
        let Run { mut old, mut like, new } = *run;
        // A patch begins at the old image's start: there is no step yet that could go elsewhere.
        if like > 0 && self.steps.is_empty() && old != 0 {
            self.step(0, 0, 1);
            (old, like) = (old + 1, like - 1);
        }
        if like > 0 {
            self.go(old);
        }
        while like > 0 {
            let same = self.same(like);
            let copied = if same >= COPY_BYTES { same } else { 0 };
            let added = self.different(like - copied, copied);
            self.step(copied, added, 0);
            like -= copied + added;
        }
        if new > 0 {
            self.step(0, 0, new);
        }
    }

    /// How many of the next `most` bytes are the same.
    fn same(&self, most: usize) -> usize {
        let pairs = self.old[self.at..].iter().zip(&self.new[self.done..]);
        pairs.take(most).take_while(|(old, new)| old == new).count()
    }

    /// How many of the next `most` bytes behind `skip` come before a run that is long enough to be copied.
    fn different(&self, most: usize, skip: usize) -> usize {
        let mut zeros = 0;
        for length in 0..most {
            let (old, new) = (self.old[self.at + skip + length], self.new[self.done + skip + length]);
            zeros = if old == new { zeros + 1 } else { 0 };
            if zeros == COPY_BYTES {
                return length + 1 - zeros;
            }
        }
        most
    }

    /// The old image is read from `old` on.
    fn go(&mut self, old: usize) {
        if let Some(step) = self.steps.last_mut() {
            step.moved += old as i64 - self.at as i64;
        }
        self.at = old;
    }

    fn step(&mut self, copied: usize, added: usize, new: usize) {
        let from = self.done + copied;
        let differences = self.new[from..from + added].iter().zip(&self.old[self.at + copied..]);
        self.streams.differences.extend(differences.map(|(new, old)| new.wrapping_sub(*old)));
        self.streams.news.extend(&self.new[from + added..from + added + new]);
        self.at += copied + added;
        self.done += copied + added + new;
        let (copied, added, new) = (copied as u64, added as u64, new as u64);
        match self.steps.last_mut() {
            // New bytes end the step that is open, if it goes on where it was.
            Some(step) if (copied, added, step.moved) == (0, 0, 0) => step.new += new,
            _ => self.steps.push(Step { copied, added, new, moved: 0 }),
        }
    }
}
