//! Other firmware than a bare OVMF or AAVMF: U-Boot, and OVMF that starts only what is signed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use perigee_image::build::Arch;
use perigee_image::keys::SlotKey;
use perigee_image::secure_boot::DbKey;
use perigee_image::{esp, slot};
use perigee_qemu::config::SECURE_BOOT_KEY;
use perigee_qemu::{Firmware, stage};

use super::slots;
use crate::card::Card;
use crate::lab::{Lab, SERVICES_TIMEOUT};
use crate::suite::Checks;

/// Firmware, loader and kernel under emulation, with time to spare.
const TIMEOUT: Duration = Duration::from_secs(300);
/// What OVMF says of an application that its keys have not signed.
const REFUSED: &str = "Access Denied";

/// U-Boot finds the loader on its own, and the node comes up. Its EFI has no PCI, so that the loader finds no watchdog: PID 1
/// takes it.
pub fn u_boot(lab: &mut Lab) -> Result<()> {
    let mut rig = lab.rig(Arch::Aarch64, "u-boot", |plan| {
        plan.firmware = Firmware::UBoot;
        Ok(())
    })?;
    let slots = rig.wait("the agent answers", SERVICES_TIMEOUT, |rig| rig.slots())?;
    slots::runs(&slots, "slot-a")
}

/// What is signed starts; what is not, or was changed since, does not.
pub fn secure_boot(lab: &mut Lab, checks: &mut Checks) -> Result<()> {
    let arch = Arch::X86_64;
    let (ctx, folder, keys) = (lab.ctx().clone(), lab.folder(arch, "secure-boot"), lab.keys());
    fs::create_dir_all(&folder)?;
    let db = db_key(&folder)?;
    let built = lab.built(arch)?.clone();
    let signed = db.sign(&ctx, &built.loader)?;
    let card = Card::new(lab, arch, "secure-boot")?;

    checks.check("unsigned-loader", || says(lab, &card, REFUSED))?;

    let changed = folder.join("changed.efi");
    let mut bytes = fs::read(&signed)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&changed, bytes)?;
    put_loader(lab, &card, &changed)?;
    checks.check("changed-loader", || says(lab, &card, REFUSED))?;

    put_loader(lab, &card, &signed)?;
    checks.check("unsigned-kernel", || says(lab, &card, "rejected slot=slot-a reason=\"load the kernel"))?;

    let kernel = db.sign(&ctx, &built.kernel)?;
    let slot = slot::build(&ctx, arch, &kernel, &built.rootfs.image, &built.rootfs.version)?;
    card.put("slot-a", &fs::read(&slot.image)?, &slot.headers(&SlotKey::find(&keys)?)?)?;
    checks.check("signed", || says(lab, &card, stage::PID1))
}

/// Debian's key for tests, as somebody would have a key of their own.
fn db_key(folder: &Path) -> Result<DbKey> {
    let [encrypted, certificate] = SECURE_BOOT_KEY.map(PathBuf::from);
    let key = folder.join("db.key");
    let mut openssl = Command::new("openssl");
    openssl.args(["rsa", "-passin", "pass:snakeoil", "-in"]).arg(&encrypted).arg("-out").arg(&key);
    let output = openssl.output().context("run openssl")?;
    ensure!(output.status.success(), "{openssl:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(DbKey { key, certificate })
}

/// Has both ESPs start another loader.
fn put_loader(lab: &Lab, card: &Card, loader: &Path) -> Result<()> {
    let image = fs::read(esp::build(lab.ctx(), Arch::X86_64, loader)?)?;
    card.put("esp-a", &image, &[])?;
    card.put("esp-b", &image, &[])
}

/// Starts a machine with Secure Boot from the card, and waits until its console says `what`.
fn says(lab: &mut Lab, card: &Card, what: &str) -> Result<()> {
    let mut rig = lab.rig(Arch::X86_64, "secure-boot", |plan| {
        card.insert(plan);
        plan.firmware = Firmware::SecureBoot;
        Ok(())
    })?;
    rig.cluster.machine(0)?.console().wait_for(0, what, TIMEOUT).map(drop)
}
