//! How long a service may take to come back, from the service files.

use std::time::Duration;

use perigee_core::control::Fault;
use perigee_core::spec::{Health, Probe, Ready, Spec};

/// PID 1's own part and the question's: a kill, a reap, a status over TLS, all of it under emulation.
const MARGIN: Duration = Duration::from_secs(30);

/// The longest time from `fault` until the service is ready again.
///
/// It is found out, ended, and started when its back-off is over and everything before it is ready; those may have
/// been brought down at the same time. `None` if a hang of it is never found out.
pub fn recovery(specs: &[Spec], service: &str, fault: Fault) -> Option<Duration> {
    let spec = find(specs, service)?;
    let detection = match (fault, &spec.health) {
        (Fault::Kill, _) => Duration::ZERO,
        (_, None) => return None,
        (_, Some(Health::Watchdog(period))) => *period,
        (_, Some(Health::Probe { period, timeout, failures, .. })) => (*period + *timeout) * *failures,
    };
    let starts: Duration = with_predecessors(specs, service).iter().map(|spec| start(spec)).sum();
    Some(detection + starts + MARGIN)
}

/// Whether `service` needs `other` to become ready, or something that does.
pub fn waits_for(specs: &[Spec], service: &str, other: &str) -> bool {
    with_predecessors(specs, service).iter().skip(1).any(|spec| spec.name == other)
}

/// Ending, waiting and starting one service.
fn start(spec: &Spec) -> Duration {
    spec.stop.timeout + spec.restart.max + spec.ready_timeout
}

fn with_predecessors<'a>(specs: &'a [Spec], service: &str) -> Vec<&'a Spec> {
    let mut found: Vec<&Spec> = find(specs, service).into_iter().collect();
    let mut next = 0;
    while let Some(&spec) = found.get(next) {
        for other in specs {
            if !found.contains(&other) && (spec.after.contains(&other.name) || waits_inside(spec, other)) {
                found.push(other);
            }
        }
        next += 1;
    }
    found
}

/// Whether `spec` is started beside `other` and waits for its socket by itself (`WAIT_FOR` of `rootfs/go`).
fn waits_inside(spec: &Spec, other: &Spec) -> bool {
    let awaited = spec.env.get("WAIT_FOR").map_or("", String::as_str);
    matches!(&other.ready, Ready::Probe(Probe::Grpc(socket)) if awaited.split(' ').any(|one| one == format!("grpc:{socket}")))
}

fn find<'a>(specs: &'a [Spec], name: &str) -> Option<&'a Spec> {
    specs.iter().find(|spec| spec.name == name)
}

#[cfg(test)]
mod tests {
    use perigee_core::spec::parse;

    use super::*;

    fn spec(name: &str, text: &str) -> Spec {
        parse(name, &format!("{name}.toml"), &format!("description = \"a test\"\nexec = [\"/bin/{name}\"]\n{text}"))
            .unwrap()
    }

    #[test]
    fn a_kill_waits_for_the_back_off_of_all_that_comes_before() {
        let (a, b) = (spec("a", ""), spec("b", "after = [\"a\"]"));
        let (of_a, of_b) = (start(&a), start(&b));
        let specs = [a, b];
        assert_eq!(recovery(&specs, "a", Fault::Kill), Some(of_a + MARGIN));
        assert_eq!(recovery(&specs, "b", Fault::Kill), Some(of_a + of_b + MARGIN));
    }

    #[test]
    fn it_waits_for_all_that_comes_before() {
        let specs = [spec("a", ""), spec("b", "after = [\"a\"]"), spec("c", "after = [\"b\"]")];
        assert!(waits_for(&specs, "c", "a") && waits_for(&specs, "c", "b"));
        assert!(!waits_for(&specs, "a", "c") && !waits_for(&specs, "a", "a"));
    }

    #[test]
    fn it_waits_for_a_socket_that_its_program_waits_for() {
        let specs = [
            spec("runtime", "[ready]\ngrpc = \"/run/runtime.sock\"\n"),
            spec("node", "env = { WAIT_FOR = \"file:/run/images grpc:/run/runtime.sock\" }\n"),
            spec("other", "env = { WAIT_FOR = \"grpc:/run/runtime.sock.old\" }\n"),
        ];
        assert!(waits_for(&specs, "node", "runtime"));
        assert!(!waits_for(&specs, "other", "runtime") && !waits_for(&specs, "runtime", "node"));
    }

    #[test]
    fn a_hang_takes_its_detection_longer_and_needs_one() {
        let specs = [spec("a", "[health]\nwatchdog_s = 30\n"), spec("b", "")];
        let difference = recovery(&specs, "a", Fault::Stop).unwrap() - recovery(&specs, "a", Fault::Kill).unwrap();
        assert_eq!(difference, Duration::from_secs(30));
        assert_eq!(recovery(&specs, "b", Fault::Freeze), None);
    }
}
