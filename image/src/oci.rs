//! Pod images assembled from our own static programs, each an OCI archive (image-spec 1.1, image-layout): the same
//! bytes for the same program.
//!
//! Layers are not compressed: EROFS compresses the archive as a whole, and containerd need not unpack it twice. An
//! archive has one image, so that a changed program changes nothing else's compressed bytes: updates send what differs.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Names of the images in the slot.
pub const IMAGES: [&str; 3] = ["perigee.local/coredns:1", "perigee.local/demo:1", "perigee.local/pause:1"];
/// Images of other people's programs carry no user; ours run as this one, the customary "nonroot".
const NONROOT: u32 = 65532;
/// The format's oldest date: the time of building is no input.
const EPOCH: &str = "1970-01-01T00:00:00Z";

/// A program that becomes an image of its own: `/<name>`, its entry point, and nothing else.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    /// What pods call it: `perigee.local/<name>:<tag>`.
    pub reference: &'a str,
    /// Where the program stands in the image, and on the host.
    pub entry_point: &'a str,
    /// The program on the host.
    pub program: &'a Path,
}

/// An image's part of the archive.
#[derive(Debug)]
struct Assembled {
    descriptor: Value,
    /// Blobs by the hex of their SHA-256.
    blobs: BTreeMap<String, Vec<u8>>,
}

/// Writes `image`'s archive for `linux/<architecture>` to `to`.
pub fn write(image: &Image<'_>, architecture: &str, to: &mut impl Write) -> Result<()> {
    let program =
        fs::read(image.program).with_context(|| format!("read {} for {}", image.program.display(), image.reference))?;
    let Assembled { descriptor, blobs } = assemble(image, architecture, &program)?;
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [descriptor],
    });
    let mut archive = tar::Builder::new(to);
    append(&mut archive, "oci-layout", 0o644, &serde_json::to_vec(&json!({"imageLayoutVersion": "1.0.0"}))?)?;
    append(&mut archive, "index.json", 0o644, &serde_json::to_vec(&index)?)?;
    for (digest, blob) in &blobs {
        append(&mut archive, &format!("blobs/sha256/{digest}"), 0o644, blob)?;
    }
    archive.finish().context("finish the archive")
}

fn assemble(image: &Image<'_>, architecture: &str, program: &[u8]) -> Result<Assembled> {
    let mut layer = tar::Builder::new(Vec::new());
    append(&mut layer, image.entry_point.trim_start_matches('/'), 0o755, program)?;
    let layer = layer.into_inner().context("finish the layer")?;
    let mut blobs = BTreeMap::new();
    let mut keep = |media_type: &str, blob: Vec<u8>| {
        let digest = hex_digest(&blob);
        let descriptor = json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": blob.len()});
        blobs.insert(digest, blob);
        descriptor
    };
    let layer = keep("application/vnd.oci.image.layer.v1.tar", layer);
    let config = json!({
        "created": EPOCH,
        "architecture": architecture,
        "os": "linux",
        "config": {"User": format!("{NONROOT}:{NONROOT}"), "Entrypoint": [image.entry_point], "WorkingDir": "/"},
        // Of an uncompressed layer, the digest of its contents is its own.
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    });
    let config = keep("application/vnd.oci.image.config.v1+json", serde_json::to_vec(&config)?);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": [layer],
    });
    let mut descriptor = keep("application/vnd.oci.image.manifest.v1+json", serde_json::to_vec(&manifest)?);
    let tag = image.reference.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    descriptor["platform"] = json!({"architecture": architecture, "os": "linux"});
    // The first is containerd's, with the whole name; the second is the specification's, with the tag.
    descriptor["annotations"] =
        json!({"io.containerd.image.name": image.reference, "org.opencontainers.image.ref.name": tag});
    Ok(Assembled { descriptor, blobs })
}

fn append(archive: &mut tar::Builder<impl Write>, path: &str, mode: u32, contents: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(contents.len() as u64);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    archive.append_data(&mut header, path, contents).with_context(|| format!("add {path} to the archive"))
}

fn hex_digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::testing::Scratch;

    fn archive(scratch: &Scratch) -> Vec<u8> {
        let program = scratch.path().join("built-demo");
        fs::write(&program, b"\x7fELF demo").unwrap();
        let image = Image { reference: "perigee.local/demo:1", entry_point: "/demo", program: &program };
        let mut bytes = Vec::new();
        write(&image, "amd64", &mut bytes).unwrap();
        bytes
    }

    fn entries(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(bytes);
        let mut found = BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.mtime().unwrap(), header.uid().unwrap(), header.gid().unwrap()), (0, 0, 0));
            let path = entry.path().unwrap().display().to_string();
            let mut contents = Vec::new();
            entry.read_to_end(&mut contents).unwrap();
            found.insert(path, contents);
        }
        found
    }

    fn blob<'a>(entries: &'a BTreeMap<String, Vec<u8>>, descriptor: &Value) -> &'a [u8] {
        let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        let blob = &entries[&format!("blobs/sha256/{digest}")];
        assert_eq!(hex_digest(blob), digest);
        assert_eq!(descriptor["size"], blob.len());
        blob
    }

    #[test]
    fn every_digest_leads_from_the_index_to_the_program() {
        let entries = entries(&archive(&Scratch::new("oci-digests")));
        let index: Value = serde_json::from_slice(&entries["index.json"]).unwrap();
        assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
        assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], "perigee.local/demo:1");
        let manifest: Value = serde_json::from_slice(blob(&entries, &index["manifests"][0])).unwrap();
        let config: Value = serde_json::from_slice(blob(&entries, &manifest["config"])).unwrap();
        assert_eq!(config["config"]["User"], "65532:65532");
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        let layer = self::entries(blob(&entries, &manifest["layers"][0]));
        assert_eq!(layer["demo"], b"\x7fELF demo");
    }

    #[test]
    fn the_same_programs_give_the_same_bytes() {
        let scratch = Scratch::new("oci-same");
        assert_eq!(archive(&scratch), archive(&scratch));
    }
}
