//! Steps with names: each is printed with its time, and the end is one plain line, `N passed, N failed`.

use std::time::Instant;

use anyhow::Result;

/// A run of steps.
#[derive(Debug)]
pub struct Suite {
    only: Option<String>,
    passed: u32,
    failed: Vec<String>,
    started: Instant,
}

impl Suite {
    /// A run of the steps whose names contain `only`; of all without it.
    pub fn new(only: Option<String>) -> Self {
        Self { only, passed: 0, failed: Vec::new(), started: Instant::now() }
    }

    /// Whether the step `name` is to run.
    pub fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| name.contains(only.as_str()))
    }

    /// Whether the person who runs this named `part`.
    pub fn asks_for(&self, part: &str) -> bool {
        self.only.as_ref().is_some_and(|only| only.contains(part))
    }

    /// Runs one step, which counts as one test.
    pub fn step(&mut self, name: &str, work: impl FnOnce() -> Result<()>) {
        self.group(name, |checks| checks.check("", work));
    }

    /// Runs a step made of several checks, which share something that takes long to set up.
    ///
    /// A failed check ends its group: what comes after it stands on what it left behind.
    pub fn group(&mut self, name: &str, work: impl FnOnce(&mut Checks) -> Result<()>) {
        if !self.wants(name) {
            return;
        }
        println!("test: {name} …");
        let started = Instant::now();
        let mut checks = Checks { group: name.to_owned(), passed: 0, failed: None };
        let result = work(&mut checks);
        self.passed += checks.passed;
        match result {
            Ok(()) => println!("test: {name} ok in {:.1} s", started.elapsed().as_secs_f64()),
            Err(error) => {
                let name = checks.failed.unwrap_or_else(|| name.to_owned());
                println!("test: {name} FAILED after {:.1} s\n{error:#}\n", started.elapsed().as_secs_f64());
                self.failed.push(name);
            }
        }
    }

    /// Prints the end; gives whether nothing failed and something was run.
    pub fn finish(self) -> bool {
        for name in &self.failed {
            println!("failed: {name}");
        }
        println!("time: {:.0} s", self.started.elapsed().as_secs_f64());
        println!("{} passed, {} failed", self.passed, self.failed.len());
        self.failed.is_empty() && self.passed > 0
    }
}

/// The checks of one step.
#[derive(Debug)]
pub struct Checks {
    group: String,
    passed: u32,
    failed: Option<String>,
}

impl Checks {
    /// Runs one check; it counts as one test.
    pub fn check<T>(&mut self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let name = if name.is_empty() { self.group.clone() } else { format!("{}/{name}", self.group) };
        let started = Instant::now();
        match work() {
            Ok(value) => {
                self.passed += 1;
                if name != self.group {
                    println!("test: {name} ok in {:.1} s", started.elapsed().as_secs_f64());
                }
                Ok(value)
            }
            Err(error) => {
                self.failed = Some(name);
                Err(error)
            }
        }
    }

    /// Counts `tests` that another program ran and found to pass.
    pub fn add_passed(&mut self, tests: u32) {
        self.passed += tests;
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn steps_that_were_not_asked_for_do_not_run() {
        let mut suite = Suite::new(Some("boots".into()));
        suite.step("unit", || bail!("must not run"));
        suite.step("boots-x86_64", || Ok(()));
        assert!(suite.finish());
    }

    #[test]
    fn a_failed_check_ends_its_group_and_fails_the_suite() {
        let mut suite = Suite::new(None);
        suite.group("machine", |checks| {
            checks.check("one", || Ok(()))?;
            checks.check("two", || -> Result<()> { bail!("broken") })?;
            checks.check("three", || Ok(()))
        });
        assert_eq!((suite.passed, suite.failed.as_slice()), (1, ["machine/two".to_owned()].as_slice()));
        assert!(!suite.finish());
    }

    #[test]
    fn a_name_that_matches_no_step_is_not_a_success() {
        let mut suite = Suite::new(Some("typo".into()));
        suite.step("unit", || Ok(()));
        assert!(!suite.finish());
    }
}
