//! What a node uses when it has nothing to do but one pod: memory, processor, writes.

use std::time::Duration;

use anyhow::Result;
use perigee_image::build::Arch;

use super::Figures;
use super::boot::MEMORY_MIB;
use crate::figures;
use crate::lab::{Lab, Rig};

/// The work of a boot is over by then: images imported, controllers in sync.
const SETTLE: Duration = Duration::from_secs(180);
/// Long enough for several of each period: leases 10 s, housekeeping, compaction.
const WINDOW: Duration = Duration::from_secs(300);
const MS_PER_HOUR: f64 = 3_600_000.0;

pub fn measure(lab: &mut Lab, arch: Arch) -> Result<Figures> {
    let mut rig = lab.rig(arch, "bench", |plan| {
        plan.nodes[0].memory_mib = MEMORY_MIB;
        Ok(())
    })?;
    rig.wait_services(0)?;
    rig.wait_answering()?;
    let idle = Idle::of(&rig, 0)?;
    let figures = [
        ("memory.own_pss_mib", idle.own_pss_mib),
        ("memory.single_used_mib", idle.used_mib),
        ("idle.single_cpu_share", idle.cpu_share),
        ("idle.data_bytes_written_per_hour", idle.bytes_written_per_hour),
    ];
    let mut figures: Figures = figures.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    figures.extend(idle.pss_mib);
    Ok(figures)
}

/// An idle node.
#[derive(Clone, Debug)]
pub struct Idle {
    /// Of one processor.
    pub cpu_share: f64,
    /// To whole disks.
    pub bytes_written_per_hour: f64,
    /// See [`figures::own_pss_mib`].
    pub own_pss_mib: f64,
    /// See [`figures::used_mib`].
    pub used_mib: f64,
    /// `memory.pss.<process>_mib`, all processes of one name together.
    pub pss_mib: Figures,
}

impl Idle {
    /// Waits until a node has settled, and watches it.
    pub fn of(rig: &Rig, node: usize) -> Result<Self> {
        std::thread::sleep(SETTLE);
        let before = rig.processes(node)?;
        std::thread::sleep(WINDOW);
        let after = rig.processes(node)?;
        let ms = (after.now_ms - before.now_ms) as f64;
        let mut pss_mib = Figures::new();
        for process in &after.processes {
            let name = process.service.as_ref().unwrap_or(&process.name);
            *pss_mib.entry(format!("memory.pss.{name}_mib")).or_default() += figures::mib(process.pss_bytes);
        }
        Ok(Self {
            cpu_share: (after.cpu_busy_ms - before.cpu_busy_ms) as f64 / ms,
            bytes_written_per_hour: (after.disk_written_bytes - before.disk_written_bytes) as f64 / ms * MS_PER_HOUR,
            own_pss_mib: figures::own_pss_mib(&after),
            used_mib: figures::used_mib(&after),
            pss_mib,
        })
    }
}
