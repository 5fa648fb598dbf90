//! Names in service files to places in the graph: unknown names, services that wait for each other, a start order.

use alloc::string::String;
use alloc::vec::Vec;

use super::{GraphError, Id, MAX_SERVICES};
use crate::spec::Spec;

/// Checks all services of the image, sorted by name.
pub(super) fn check(specs: &[Spec]) -> Result<(), GraphError> {
    if specs.len() > MAX_SERVICES {
        return Err(GraphError::TooMany(specs.len()));
    }
    if let Some(twice) = specs.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(GraphError::Twice(twice[0].name.clone()));
    }
    for spec in specs {
        let after = spec.after.iter().map(|name| ("after", name));
        for (key, name) in after.chain(spec.hold.iter().map(|hold| ("hold", &hold.until))) {
            if find(specs, name).is_none() {
                let known: Vec<_> = specs.iter().map(|spec| spec.name.as_str()).collect();
                let (service, name, known) = (spec.name.clone(), name.clone(), known.join(", "));
                return Err(GraphError::UnknownName { service, key, name, known });
            }
        }
    }
    // A hold until a service that itself comes later would always last as long as it can.
    sorted(specs, |spec| after(spec).chain(spec.hold.iter().map(|hold| hold.until.as_str()))).map(drop)
}

/// The services that `spec` comes after.
pub(super) fn after(spec: &Spec) -> impl Iterator<Item = &str> {
    spec.after.iter().map(String::as_str)
}

/// The service of that name in `specs`, which are sorted by name.
pub(super) fn find(specs: &[Spec], name: &str) -> Option<Id> {
    specs.binary_search_by(|spec| spec.name.as_str().cmp(name)).ok().map(id)
}

/// The id of a place; there are at most [`MAX_SERVICES`].
pub(super) fn id(place: usize) -> Id {
    Id(u16::try_from(place).unwrap_or(u16::MAX))
}

/// Every service before those that wait for it; names that are not in `specs` are ignored.
pub(super) fn sorted<'s, I: Iterator<Item = &'s str>>(
    specs: &'s [Spec],
    waits_for: impl Fn(&'s Spec) -> I,
) -> Result<Vec<Id>, GraphError> {
    let mut sorted: Vec<usize> = Vec::with_capacity(specs.len());
    let blocker = |place: usize, sorted: &[usize]| {
        waits_for(&specs[place])
            .filter_map(|name| find(specs, name))
            .map(Id::place)
            .find(|other| !sorted.contains(other))
    };
    while sorted.len() < specs.len() {
        let rest = || (0..specs.len()).filter(|place| !sorted.contains(place));
        let Some(next) = rest().find(|&place| blocker(place, &sorted).is_none()) else {
            // Each of the rest waits for another of them, so following that leads round and round a cycle: walk until
            // one comes again, and what lies between is the cycle.
            let mut walk: Vec<usize> = rest().take(1).collect();
            while let Some(next) = walk.last().and_then(|&last| blocker(last, &sorted)) {
                let start = walk.iter().position(|&place| place == next);
                walk.push(next);
                if let Some(start) = start {
                    walk.drain(..start);
                    break;
                }
            }
            let names: Vec<_> = walk.iter().map(|&place| specs[place].name.as_str()).collect();
            return Err(GraphError::Cycle(names.join(" -> ")));
        };
        sorted.push(next);
    }
    Ok(sorted.into_iter().map(id).collect())
}
