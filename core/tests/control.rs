//! The control protocol as it goes over the wire.

mod random;

use perigee_core::control::{
    Base, Data, DataOrigin, Fault, Link, MAX_GAPS, MAX_LINE_BYTES, MAX_REQUEST_BYTES, Request, Response, ServiceState,
    ServiceStatus, Slots, Status, Update, UpdatePhase,
};
use perigee_core::reset::{Cause, LEDGER_ENTRIES, WORDS_BYTES};
use perigee_core::service::MAX_SERVICES;
use perigee_core::slot::{Side, Slot, State};
use perigee_core::update::Release;
use perigee_core::watchdog::Vital;

use crate::random::Random;

fn requests() -> Vec<(Request, &'static str)> {
    let service = || "etcd".to_owned();
    vec![
        (Request::Status, r#"{"verb":"status"}"#),
        (Request::Logs { service: service() }, r#"{"verb":"logs","service":"etcd"}"#),
        (Request::Restart { service: service() }, r#"{"verb":"restart","service":"etcd"}"#),
        (Request::Stop { service: service() }, r#"{"verb":"stop","service":"etcd"}"#),
        (Request::Start { service: service() }, r#"{"verb":"start","service":"etcd"}"#),
        (
            Request::Fault { service: service(), fault: Fault::Freeze },
            r#"{"verb":"fault","service":"etcd","fault":"freeze"}"#,
        ),
        (Request::Slots, r#"{"verb":"slots"}"#),
        (Request::Scrub, r#"{"verb":"scrub"}"#),
        (Request::Scrubs, r#"{"verb":"scrubs"}"#),
        (Request::Reboot, r#"{"verb":"reboot"}"#),
        (Request::RebootInto { slot: "slot-b".to_owned() }, r#"{"verb":"reboot-into","slot":"slot-b"}"#),
        (Request::PowerOff, r#"{"verb":"power-off"}"#),
        (Request::SlotClear { slot: "slot-b".to_owned() }, r#"{"verb":"slot-clear","slot":"slot-b"}"#),
        (
            Request::SlotWritten { slot: "slot-b".to_owned(), floor: Release(1) },
            r#"{"verb":"slot-written","slot":"slot-b","floor":1}"#,
        ),
        (Request::SlotPrefer { slot: "slot-b".to_owned() }, r#"{"verb":"slot-prefer","slot":"slot-b"}"#),
        (Request::UpdateBegin { manifest: "5047".to_owned() }, r#"{"verb":"update-begin","manifest":"5047"}"#),
        (Request::UpdatePut { at: 1024, bytes: 5 }, r#"{"verb":"update-put","at":1024,"bytes":5}"#),
        (Request::Update, r#"{"verb":"update"}"#),
        (Request::UpdateActivate { at: None }, r#"{"verb":"update-activate","at":null}"#),
        (Request::UpdateCancel, r#"{"verb":"update-cancel"}"#),
        (Request::Processes, r#"{"verb":"processes"}"#),
        (Request::Inspect, r#"{"verb":"inspect"}"#),
    ]
}

/// A status in which everything is as long as it can be.
fn full_status() -> Response {
    let service = |i| ServiceStatus {
        name: format!("{i:0>32}"),
        state: ServiceState::BackOff,
        pid: Some(i32::MIN),
        restarts: u32::MAX,
        since_ms: u64::MAX,
        first_exec_ms: Some(u64::MAX),
        first_ready_ms: Some(u64::MAX),
        last_exit: Some("killed by signal 11".to_owned()),
        memory_bytes: u64::MAX,
        memory_peak_bytes: u64::MAX,
        cpu_usec: u64::MAX,
    };
    Response::Status(Status {
        node: "n".repeat(63),
        version: "v".repeat(120),
        boot_id: "b".repeat(36),
        now_ms: u64::MAX,
        pid1_started_ms: u64::MAX,
        data: Data { origin: DataOrigin::Volatile, size_bytes: u64::MAX, free_bytes: u64::MAX },
        services: (0..MAX_SERVICES).map(service).collect(),
        links: vec![Link { name: "a-longish-name1".to_owned(), carrier: true, configured: false }; 3],
    })
}

/// Slots in which everything is as long as it can be.
fn full_slots() -> Response {
    let mut state = State::new(Side::B, [true; 3]);
    (state.once, state.rounds, state.starts, state.last) = (Some(Slot::Golden), u8::MAX, u32::MAX, Some(Slot::Golden));
    for _ in 0..LEDGER_ENTRIES {
        state.end(Cause::Vital(Vital::Containerd), u32::MAX, &"\u{1}".repeat(WORDS_BYTES));
    }
    Response::Slots(Slots::of(&state, Slot::Golden))
}

/// An update in which everything is as long as it can be.
fn full_update() -> Response {
    let version = || "v".repeat(95);
    Response::Update(Update {
        phase: UpdatePhase::Activated,
        bundle: Some("0123456789abcdef".to_owned()),
        version: Some(version()),
        slot: Some("slot-b".to_owned()),
        payload_bytes: u64::MAX,
        here_bytes: u64::MAX,
        missing: vec![(u64::MAX, u64::MAX); MAX_GAPS],
        blocks: Some((u64::MAX, u64::MAX)),
        activate_at: Some(u64::MAX),
        reason: Some("\u{1}".repeat(16 * 1024)),
        bases: ["slot-a", "slot-b", "golden"].map(|slot| Base { slot: slot.to_owned(), version: version() }).into(),
        floor: Some(Release(u64::MAX)),
    })
}

#[test]
fn commands_are_told_from_questions() {
    let commands: Vec<_> = requests().into_iter().filter(|(request, _)| !request.is_question()).collect();
    assert_eq!(commands.len(), 15, "{commands:?}");
}

#[test]
fn requests_are_what_the_documentation_says() {
    for (request, line) in requests() {
        assert_eq!(serde_json::to_string(&request).ok().as_deref(), Some(line));
        assert_eq!(serde_json::from_str::<Request>(line).ok(), Some(request));
        assert!(line.len() < MAX_REQUEST_BYTES);
    }
}

#[test]
fn responses_come_back_as_they_went() {
    let hard = "line\nline\r\n\u{0}\u{1b}[0m\u{2028}\"\\".to_owned();
    let all = [full_status(), full_slots(), full_update(), Response::Logs(hard.clone())];
    for response in all.into_iter().chain([Response::Done, Response::Error(hard)]) {
        let line = serde_json::to_string(&response).expect("a line");
        assert!(!line.contains('\n'), "a response is one line");
        assert_eq!(serde_json::from_str::<Response>(&line).ok(), Some(response));
    }
}

#[test]
fn the_longest_response_fits_into_a_line() {
    // A ring of the longest kind that a service file can ask for, full of what is longest in JSON.
    let ring = Response::Logs("\u{1}".repeat(128 * 1024));
    for response in [full_status(), full_slots(), full_update(), ring] {
        let line = serde_json::to_string(&response).expect("a line");
        assert!(line.len() < MAX_LINE_BYTES, "{} bytes", line.len());
    }
}

#[test]
fn what_is_no_request_is_refused() {
    for line in [
        "",
        "null",
        "[]",
        "\"status\"",
        "{}",
        r#"{"verb":"halt"}"#,
        r#"{"verb":"Status"}"#,
        r#"{"verb":"logs"}"#,
        r#"{"verb":"logs","service":7}"#,
        r#"{"verb":"logs","service":"etcd","lines":5}"#,
        r#"{"verb":"fault","service":"etcd","fault":"melt"}"#,
        r#"{"verb":"status","verb":"reboot"}"#,
        r#"{"verb":"reboot"}{"verb":"reboot"}"#,
    ] {
        assert!(serde_json::from_str::<Request>(line).is_err(), "{line}");
    }
    let error = serde_json::from_str::<Request>(r#"{"verb":"halt"}"#).map_err(|error| error.to_string());
    assert!(error.is_err_and(|error| error.contains("unknown variant `halt`, expected one of `status`, `logs`")));
}

#[test]
fn any_bytes_give_a_request_or_an_error() {
    let lines = requests();
    let status = serde_json::to_vec(&full_status()).expect("a line");
    for seed in 0..20_000 {
        let mut random = Random::new(seed);
        let mut bytes = random.pick(&lines).1.as_bytes().to_vec();
        random.damage(&mut bytes);
        let _ = serde_json::from_slice::<Request>(&bytes);
        if seed % 100 == 0 {
            let mut bytes = status.clone();
            random.damage(&mut bytes);
            let _ = serde_json::from_slice::<Response>(&bytes);
        }
    }
    let _ = serde_json::from_slice::<Request>(&b"[".repeat(MAX_REQUEST_BYTES));
    let _ = serde_json::from_slice::<Request>(&br#"{"verb":"#.repeat(500));
}
