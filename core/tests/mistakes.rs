//! Each kind of mistake in a mission and in a service file, and the exact words that are said about it.
//!
//! `mistakes/*.txt` are the tables: what is taken out of the good file (`-`), what is put there (`+`), what is said (`=`).
//! `\n` is a new line.

use perigee_core::mission;
use perigee_core::service::{Graph, GraphError};
use perigee_core::spec;

const SERVICE: &str = include_str!("mistakes/service.toml");
const MISSION: &str = include_str!("mistakes/mission.toml");

/// Goes through a table; how many rows it has.
fn check(table: &str, good: &str, parse: impl Fn(&str) -> Result<(), String>) -> usize {
    let mut rows = 0;
    let (mut out, mut put) = (String::new(), String::new());
    for line in table.lines() {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("-", text) => out = text.replace("\\n", "\n"),
            ("+", text) => put = text.replace("\\n", "\n"),
            ("=", said) => {
                assert_eq!(good.matches(&out).count(), 1, "{out:?} is not there just once");
                assert_eq!(parse(&good.replace(&out, &put)), Err(said.to_owned()), "for {put:?}");
                rows += 1;
            }
            _ => assert!(line.is_empty() || line.starts_with('#'), "what is this? {line}"),
        }
    }
    rows
}

#[test]
fn each_mistake_in_a_service_file_is_told_with_its_place_and_its_cure() {
    let parse = |text: &str| spec::parse("etcd", "etcd.toml", text).map(drop).map_err(|error| error.to_string());
    assert_eq!(parse(SERVICE), Ok(()));
    assert!(check(include_str!("mistakes/service.txt"), SERVICE, parse) >= 25);
}

#[test]
fn each_mistake_in_a_mission_is_told_with_its_place_and_its_cure() {
    let parse = |text: &str| mission::parse("mission.toml", text).map(drop).map_err(|error| error.to_string());
    assert_eq!(parse(MISSION), Ok(()));
    assert!(check(include_str!("mistakes/mission.txt"), MISSION, parse) >= 25);
}

#[test]
fn a_service_files_own_name_is_checked() {
    for name in ["", "Etcd", "-etcd", "etcd.toml", "a-name-that-is-longer-than-thirty-two"] {
        let error = spec::parse(name, "x.toml", SERVICE).map_err(|error| error.to_string());
        let said = format!(
            "x.toml:1: name: expected a file name of a-z, 0-9 and -, 1 to 32 long, found {name:?}; example: etcd.toml"
        );
        assert_eq!(error, Err(said));
    }
}

#[test]
fn mistakes_between_service_files_name_the_services_and_the_cure() {
    let spec = |name: &str, rest: &str| {
        let text = format!("description = \"x\"\nexec = [\"/x\"]\n{rest}");
        spec::parse(name, name, &text).unwrap_or_else(|error| panic!("{error}"))
    };
    let hold = |until: &str| format!("hold = {{ until = \"{until}\", at_most_s = 1 }}");
    for (specs, said) in [
        (vec![spec("a", "after = [\"c\"]"), spec("b", "")], "a: `c` in `after` is no service; expected one of: a, b"),
        (vec![spec("a", &hold("c"))], "a: `c` in `hold` is no service; expected one of: a"),
        (
            vec![spec("a", "after = [\"b\"]"), spec("b", "after = [\"c\"]"), spec("c", "after = [\"b\"]")],
            "these services wait for each other and none could start: b -> c -> b; remove one `after` or `hold`",
        ),
        (
            vec![spec("a", "after = [\"b\"]"), spec("b", &hold("a"))],
            "these services wait for each other and none could start: a -> b -> a; remove one `after` or `hold`",
        ),
        (
            vec![spec("a", "roles = [\"worker\"]\nafter = [\"b\"]"), spec("b", "after = [\"a\"]")],
            "these services wait for each other and none could start: a -> b -> a; remove one `after` or `hold`",
        ),
        (vec![spec("a", ""), spec("a", "")], "a: two services have this name; rename one"),
        ((0..129).map(|i| spec(&format!("s{i}"), "")).collect(), "129 services; expected at most 128"),
    ] {
        let error = Graph::new(specs, &[]).map(drop).map_err(|error: GraphError| error.to_string());
        assert_eq!(error, Err(said.to_owned()));
    }
}
