//! Events for a person: one line each, `key=value`, to standard error, which PID 1 keeps.

/// Writes one event. A reader that is gone is no reason to end.
#[macro_export]
macro_rules! event {
    ($($argument:tt)*) => {{
        use ::std::io::Write as _;
        let _nobody_reads = ::std::writeln!(::std::io::stderr(), "event={}", ::std::format_args!($($argument)*));
    }};
}
