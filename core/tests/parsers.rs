//! What is read from good files, and that no bytes whatever make a parser panic.

mod random;

use std::collections::BTreeMap;
use std::time::Duration;

use perigee_core::mission::{self, Mission};
use perigee_core::spec::{self, Health, Hold, Kind, Limits, Log, Probe, Ready, Restart, Security, Signal, Spec, Stop};

use crate::random::Random;

const SERVICE: &str = include_str!("mistakes/service.toml");
const MISSION: &str = include_str!("mistakes/mission.toml");

fn service(text: &str) -> Spec {
    spec::parse("etcd", "etcd.toml", text).unwrap_or_else(|error| panic!("{error}"))
}

fn mission(text: &str) -> Mission {
    mission::parse("mission.toml", text).unwrap_or_else(|error| panic!("{error}"))
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

#[test]
fn every_key_of_a_service_file_is_read() {
    let seconds = Duration::from_secs;
    let expected = Spec {
        name: "etcd".to_owned(),
        description: "etcd: the cluster's memory".to_owned(),
        kind: Kind::Daemon,
        roles: strings(&["control-plane"]),
        exec: strings(&["/usr/bin/etcd", "--name=${NODE_NAME}"]),
        env: [("GOGC".to_owned(), "50".to_owned())].into(),
        directories: strings(&["/var/lib/etcd"]),
        after: strings(&["containerd"]),
        hold: Some(Hold { until: "kube-apiserver".to_owned(), at_most: seconds(180) }),
        ready: Ready::Notify,
        ready_timeout: seconds(100),
        health: Some(Health::Watchdog(seconds(30))),
        restart: Restart { min: Duration::from_millis(250), max: seconds(30), reset: seconds(60) },
        stop: Stop { signal: Signal::Int, timeout: seconds(20) },
        limits: Limits {
            memory_max_mib: Some(96),
            memory_low_mib: Some(32),
            cpu_weight: Some(200),
            cpu_weight_starting: Some(1000),
            pids_max: Some(100),
            oom_score_adj: -500,
            nofile: Some(65536),
            delegate: true,
        },
        security: Security { user: 1000, capabilities: Some(strings(&["CAP_NET_ADMIN"])), no_new_privs: true },
        log: Log { ring_kib: 32, file_kib: 128, files: 1 },
    };
    assert_eq!(service(SERVICE), expected);
}

#[test]
fn what_is_not_written_has_the_documented_default() {
    let spec = service("description = \"x\"\nexec = [\"/usr/bin/x\"]\n");
    assert_eq!((spec.kind, &spec.ready, spec.ready_timeout), (Kind::Daemon, &Ready::Started, Duration::from_secs(120)));
    assert_eq!((&spec.roles, &spec.after, &spec.hold, &spec.health), (&vec![], &vec![], &None, &None));
    assert_eq!(
        spec.restart,
        Restart { min: Duration::from_millis(500), max: Duration::from_secs(60), reset: Duration::from_secs(120) }
    );
    assert_eq!(spec.stop, Stop { signal: Signal::Term, timeout: Duration::from_secs(10) });
    assert_eq!((spec.limits, spec.security), (Limits::default(), Security::default()));
    assert_eq!(spec.log, Log { ring_kib: 16, file_kib: 256, files: 2 });
}

#[test]
fn each_kind_of_probe_is_read() {
    for (line, probe) in [
        ("unix = \"/run/x.sock\"", Probe::Unix("/run/x.sock".to_owned())),
        ("grpc = \"/run/x.sock\"", Probe::Grpc("/run/x.sock".to_owned())),
        ("http = \"127.0.0.1:80/\"", Probe::Http { port: 80, path: "/".to_owned() }),
        ("http = \"127.0.0.1:2381/health?a=b\"", Probe::Http { port: 2381, path: "/health?a=b".to_owned() }),
        ("file = \"/run/x\"", Probe::File("/run/x".to_owned())),
    ] {
        let spec = service(&format!("description = \"x\"\nexec = [\"/x\"]\n[ready]\n{line}\n[health]\n{line}\n"));
        let (period, timeout) = (Duration::from_secs(15), Duration::from_secs(10));
        assert_eq!(spec.ready, Ready::Probe(probe.clone()));
        assert_eq!(spec.health, Some(Health::Probe { probe, period, timeout, failures: 3 }));
    }
}

#[test]
fn every_key_of_a_mission_is_read() {
    let mission = mission(MISSION);
    assert_eq!(mission.name, "first-light");
    assert_eq!(
        (mission.pod_range.to_string(), mission.service_range.to_string()),
        ("10.42.0.0/16".into(), "10.43.0.0/16".into())
    );
    assert_eq!(mission.cluster_domain, "cluster.local");
    let [first, second] = &mission.nodes[..] else { panic!("two nodes") };
    assert_eq!((&*first.name, &first.roles), ("node-1", &strings(&["control-plane", "worker"])));
    assert_eq!((first.address.to_string(), first.gateway), ("10.0.2.15/24".into(), "10.0.2.2".parse().ok()));
    assert_eq!(first.interfaces, strings(&["eth0", "eth1"]));
    assert_eq!(first.pod_range.to_string(), "10.42.0.0/24");
    assert_eq!((second.gateway, &second.interfaces), (None, &strings(&["eth0"])));
    assert_eq!(second.pod_range.to_string(), "10.42.1.0/24");
    assert_eq!(mission.node("node-2"), Some(second));
    assert_eq!(mission.node("node-3"), None);
}

#[test]
fn a_node_takes_its_place_in_a_pod_range_that_starts_anywhere() {
    let mission = mission(&MISSION.replace("10.42.0.0/16", "10.42.6.0/23"));
    let ranges: Vec<_> = mission.nodes.iter().map(|node| node.pod_range.to_string()).collect();
    assert_eq!(ranges, ["10.42.6.0/24", "10.42.7.0/24"]);
}

fn variables(text: &str, node: &str) -> BTreeMap<&'static str, String> {
    let mission = mission(text);
    let variables = mission.variables(mission.node(node).expect("a node"));
    assert_eq!(variables.keys().copied().collect::<Vec<_>>(), mission::VARIABLES);
    variables
}

#[test]
fn variables_of_a_single_control_plane_node() {
    let expected = [
        ("API_SERVER", "https://127.0.0.1:6443"),
        ("CLUSTER_DOMAIN", "cluster.local"),
        ("CLUSTER_NAME", "first-light"),
        ("ETCD_INITIAL_CLUSTER", "node-1=https://10.0.2.15:2380"),
        ("KUBELET_WAIT_FOR", "https:127.0.0.1:6443/readyz"),
        ("LEADER_ELECT", "false"),
        ("NODE_ADDRESS", "10.0.2.15"),
        ("NODE_LABELS", "perigee.space/role-control-plane=true,perigee.space/role-worker=true"),
        ("NODE_NAME", "node-1"),
        ("NODE_POD_RANGE", "10.42.0.0/24"),
        ("POD_RANGE", "10.42.0.0/16"),
        ("REGISTER_TAINTS", ""),
        ("SERVICE_API_ADDRESS", "10.43.0.1"),
        ("SERVICE_DNS_ADDRESS", "10.43.0.10"),
        ("SERVICE_RANGE", "10.43.0.0/16"),
    ];
    assert_eq!(variables(MISSION, "node-1"), expected.map(|(name, value)| (name, value.to_owned())).into());
}

#[test]
fn variables_of_a_worker_and_of_three_control_plane_nodes() {
    let worker = variables(MISSION, "node-2");
    assert_eq!((&*worker["API_SERVER"], &*worker["KUBELET_WAIT_FOR"]), ("https://10.0.2.15:6443", ""));
    assert_eq!(
        (&*worker["NODE_POD_RANGE"], &*worker["NODE_LABELS"]),
        ("10.42.1.0/24", "perigee.space/role-worker=true")
    );

    let node = |i| format!("[[node]]\nname = \"cp-{i}\"\nroles = [\"control-plane\"]\naddress = \"10.0.2.{i}/24\"\n");
    let three = format!("name = \"three\"\n{}{}{}", node(1), node(2), node(3));
    let second = variables(&three, "cp-2");
    assert_eq!(
        second["ETCD_INITIAL_CLUSTER"],
        "cp-1=https://10.0.2.1:2380,cp-2=https://10.0.2.2:2380,cp-3=https://10.0.2.3:2380"
    );
    assert_eq!((&*second["API_SERVER"], &*second["LEADER_ELECT"]), ("https://127.0.0.1:6443", "true"));
    assert_eq!(second["REGISTER_TAINTS"], "node-role.kubernetes.io/control-plane=:NoSchedule");
}

#[test]
fn any_text_gives_a_value_or_an_error_that_names_a_line_of_it() {
    for seed in 0..3_000 {
        let mut random = Random::new(seed);
        for good in [SERVICE, MISSION] {
            let mut bytes = good.as_bytes().to_vec();
            random.damage(&mut bytes);
            if random.percent(5) {
                bytes = (0..random.below(200)).map(|_| random.next() as u8).collect();
            }
            let text = String::from_utf8_lossy(&bytes);
            let errors = [spec::parse("x", "x", &text).err(), mission::parse("x", &text).err()];
            for error in errors.into_iter().flatten() {
                assert!((1..=text.matches('\n').count() + 1).contains(&error.line), "seed {seed}: {error}");
                assert!(!error.to_string().contains('\n'), "seed {seed}: {error}");
            }
            let _ = mission::expand(&text, &mission::Variables::new());
        }
    }
}

#[test]
fn a_file_of_nothing_but_depth_is_refused() {
    for deep in
        ["x = ".to_owned() + &"[".repeat(100_000), "x = ".to_owned() + &"{a=".repeat(100_000), "a.".repeat(100_000)]
    {
        assert!(mission::parse("mission.toml", &deep).is_err());
        assert!(spec::parse("etcd", "etcd.toml", &deep).is_err());
    }
}
