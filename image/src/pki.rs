//! Certificates of a mission: made on the ground with the disk, longer valid than any mission, so that no clock
//! can lock a node out.
//!
//! `plan` says what a mission needs, `ensure` issues what is missing or no longer as planned. Authorities and the
//! service accounts' key are made once and kept; their keys never leave the ground, except the service accounts'.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result};
use perigee_core::mission::{CONTROL_PLANE, Mission, Node};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, date_time_ymd,
};
use serde::{Deserialize, Serialize};

use crate::tree::{PUBLIC, SECRET};

/// First and last year of every certificate. 9999-12-31 is RFC 5280's "no well-defined expiration" (section 4.1.2.5).
const FIRST_YEAR: i32 = 1970;
const LAST_YEAR: i32 = 9999;
/// The place of the API server's Service in the service range: Kubernetes takes the first address for it.
const API_SERVICE_PLACE: u32 = 1;
/// What was issued, and for what: the difference to the plan is what `ensure` has to do.
const RECORD: &str = "issued.json";

/// Who signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Authority {
    /// API server, kubelets, and everyone who talks to them.
    Cluster,
    /// etcd's members: who has such a certificate can read and write everything.
    Etcd,
    /// The API server when it passes requests on to extension API servers.
    FrontProxy,
    /// The nodes' agents and the people who command them.
    Agent,
}

impl Authority {
    /// All, in the order of their definition.
    pub const ALL: [Self; 4] = [Self::Cluster, Self::Etcd, Self::FrontProxy, Self::Agent];

    /// Its files' name without `.crt` and `.key`, the usual one of Kubernetes.
    pub const fn stem(self) -> &'static str {
        match self {
            Self::Cluster => "ca",
            Self::Etcd => "etcd-ca",
            Self::FrontProxy => "front-proxy-ca",
            Self::Agent => "agent-ca",
        }
    }
}

/// What a certificate's holder may do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// Be called.
    Server,
    /// Call.
    Client,
    /// Both: an etcd member among its peers.
    Both,
}

/// One certificate to be issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    /// Its files' name without `.crt` and `.key`, relative to the folder.
    pub path: String,
    /// Who signs it.
    pub authority: Authority,
    /// Kubernetes' user name.
    pub common_name: String,
    /// Kubernetes' group, if any.
    pub organization: Option<String>,
    /// DNS names and IP addresses under which it can be called.
    pub names: Vec<String>,
    /// What for.
    pub purpose: Purpose,
}

impl Leaf {
    fn client(path: String, authority: Authority, common_name: &str, organization: Option<&str>) -> Self {
        let organization = organization.map(str::to_owned);
        Self { path, authority, common_name: common_name.into(), organization, names: vec![], purpose: Purpose::Client }
    }

    fn server(path: String, authority: Authority, common_name: &str, names: Vec<String>) -> Self {
        let common_name = common_name.into();
        Self { path, authority, common_name, organization: None, names, purpose: Purpose::Server }
    }
}

/// Where `ensure` keeps the certificate called `name` of the node called `node`: its files' path without suffix.
pub fn node_path(node: &str, name: &str) -> String {
    format!("nodes/{node}/{name}")
}

/// Every certificate of a mission but the authorities'.
pub fn plan(mission: &Mission) -> Vec<Leaf> {
    let mut leaves = vec![
        Leaf::client("admin".into(), Authority::Cluster, "perigee:admin", Some("system:masters")),
        Leaf::client("operator".into(), Authority::Agent, "operator", None),
    ];
    for node in &mission.nodes {
        plan_node(node, &mut leaves);
        if node.has_role(CONTROL_PLANE) {
            plan_control_plane(mission, node, &mut leaves);
        }
    }
    leaves
}

fn plan_node(node: &Node, leaves: &mut Vec<Leaf>) {
    let path = |name| node_path(&node.name, name);
    let user = format!("system:node:{}", node.name);
    let own_names = vec![node.name.clone(), node.address.address.to_string()];
    leaves.extend([
        Leaf::client(path("kubelet-client"), Authority::Cluster, &user, Some("system:nodes")),
        Leaf {
            organization: Some("system:nodes".into()),
            ..Leaf::server(path("kubelet"), Authority::Cluster, &user, own_names)
        },
        Leaf::client(path("kube-proxy"), Authority::Cluster, "system:kube-proxy", None),
        Leaf::server(path("agent"), Authority::Agent, &node.name, with_loopback(node)),
    ]);
}

fn plan_control_plane(mission: &Mission, node: &Node, leaves: &mut Vec<Leaf>) {
    let path = |name| node_path(&node.name, name);
    let mut api_names: Vec<String> =
        ["kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(String::from).into();
    api_names.push(format!("kubernetes.default.svc.{}", mission.cluster_domain));
    api_names.push(mission.service_range.nth(API_SERVICE_PLACE).to_string());
    api_names.extend(with_loopback(node));
    let kubelet_client = "kube-apiserver-kubelet-client";
    let etcd =
        Leaf { purpose: Purpose::Both, ..Leaf::server(path("etcd"), Authority::Etcd, &node.name, with_loopback(node)) };
    let local = |name| Leaf::server(path(name), Authority::Cluster, name, vec!["localhost".into(), "127.0.0.1".into()]);
    leaves.extend([
        Leaf::server(path("apiserver"), Authority::Cluster, "kube-apiserver", api_names),
        // Without one of their own these two make an RSA key at every start: seconds of a small processor.
        local("kube-controller-manager"),
        local("kube-scheduler"),
        // Its right to the kubelets' API is a role binding among the manifests, not membership of system:masters.
        Leaf::client(path("apiserver-kubelet-client"), Authority::Cluster, kubelet_client, None),
        etcd,
        Leaf::client(path("front-proxy-client"), Authority::FrontProxy, "front-proxy-client", None),
        Leaf::client(path("controller-manager"), Authority::Cluster, "system:kube-controller-manager", None),
        Leaf::client(path("scheduler"), Authority::Cluster, "system:kube-scheduler", None),
        // The agent applies the manifests, roles among them: it cannot do with less.
        Leaf::client(path("addons"), Authority::Cluster, "perigee:addons", Some("system:masters")),
    ]);
}

fn with_loopback(node: &Node) -> Vec<String> {
    vec![node.name.clone(), "localhost".into(), "127.0.0.1".into(), node.address.address.to_string()]
}

/// Makes `dir` hold what `plan` says: authorities and `sa.key`/`sa.pub` once, others when they are missing or were
/// issued for something else. Certificates of nodes that have left the mission are removed.
pub fn ensure(dir: &Path, mission: &Mission) -> Result<()> {
    make_private_dir(dir)?;
    let plan = plan(mission);
    let record_path = dir.join(RECORD);
    let issued: BTreeMap<String, Leaf> = match fs::read(&record_path) {
        Ok(text) => serde_json::from_slice(&text).with_context(|| {
            format!("{} is not what this program wrote; remove {}", record_path.display(), dir.display())
        })?,
        Err(_) => BTreeMap::new(),
    };
    ensure_service_account_key(dir)?;
    let mut signers = Vec::new();
    for authority in Authority::ALL {
        signers.push(ensure_authority(dir, &mission.name, authority)?);
    }
    let mut record = BTreeMap::new();
    for leaf in plan {
        let signer = &signers[leaf.authority as usize];
        let kept = !signer.new && issued.get(&leaf.path) == Some(&leaf) && both_exist(dir, &leaf.path);
        if !kept {
            issue(dir, &leaf, &signer.issuer).with_context(|| format!("issue {}", leaf.path))?;
        }
        record.insert(leaf.path.clone(), leaf);
    }
    for gone in issued.keys().filter(|path| !record.contains_key(*path)) {
        for suffix in ["crt", "key"] {
            // Already removed is as good.
            let _ = fs::remove_file(dir.join(format!("{gone}.{suffix}")));
        }
    }
    write(&record_path, &serde_json::to_vec_pretty(&record)?, false)
}

/// An authority at work.
struct Signer {
    issuer: Issuer<'static, KeyPair>,
    /// Made just now: whatever carries its name was signed by another one.
    new: bool,
}

fn ensure_authority(dir: &Path, mission: &str, authority: Authority) -> Result<Signer> {
    let stem = authority.stem();
    let mut params = parameters(&format!("perigee:{mission}:{stem}"), None, &[])?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let new = !both_exist(dir, stem);
    let key = if new {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.self_signed(&key)?;
        write_pair(dir, stem, &certificate.pem(), &key)?;
        key
    } else {
        let path = dir.join(format!("{stem}.key"));
        KeyPair::from_pem(&fs::read_to_string(&path)?)
            .with_context(|| format!("read {}; to start over, remove {}", path.display(), dir.display()))?
    };
    Ok(Signer { issuer: Issuer::new(params, key), new })
}

fn ensure_service_account_key(dir: &Path) -> Result<()> {
    if dir.join("sa.key").exists() && dir.join("sa.pub").exists() {
        return Ok(());
    }
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    write(&dir.join("sa.pub"), key.public_key_pem().as_bytes(), false)?;
    write(&dir.join("sa.key"), key.serialize_pem().as_bytes(), true)
}

fn issue(dir: &Path, leaf: &Leaf, issuer: &Issuer<'static, KeyPair>) -> Result<()> {
    let mut params = parameters(&leaf.common_name, leaf.organization.as_deref(), &leaf.names)?;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let (server, client) = (ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth);
    params.extended_key_usages = match leaf.purpose {
        Purpose::Server => vec![server],
        Purpose::Client => vec![client],
        Purpose::Both => vec![server, client],
    };
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = params.signed_by(&key, issuer)?;
    write_pair(dir, &leaf.path, &certificate.pem(), &key)
}

fn parameters(common_name: &str, organization: Option<&str>, names: &[String]) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(names)?;
    params.not_before = date_time_ymd(FIRST_YEAR, 1, 1);
    params.not_after = date_time_ymd(LAST_YEAR, 12, 31);
    params.distinguished_name = DistinguishedName::new();
    if let Some(organization) = organization {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    params.distinguished_name.push(DnType::CommonName, common_name);
    Ok(params)
}

fn both_exist(dir: &Path, path: &str) -> bool {
    ["crt", "key"].iter().all(|suffix| dir.join(format!("{path}.{suffix}")).exists())
}

fn write_pair(dir: &Path, path: &str, certificate: &str, key: &KeyPair) -> Result<()> {
    if let Some(parent) = dir.join(path).parent() {
        make_private_dir(parent)?;
    }
    // The key last: a pair that was cut off has no key and is issued again.
    write(&dir.join(format!("{path}.crt")), certificate.as_bytes(), false)?;
    write(&dir.join(format!("{path}.key")), key.serialize_pem().as_bytes(), true)
}

fn make_private_dir(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    fs::set_permissions(dir, PermissionsExt::from_mode(0o700)).with_context(|| format!("protect {}", dir.display()))
}

/// Writes a file anew; one with a secret in it is its owner's alone.
pub(crate) fn write(path: &Path, contents: &[u8], secret: bool) -> Result<()> {
    let mode = if secret { SECRET } else { PUBLIC };
    // A file that is there keeps its mode when it is opened: make it anew.
    let _ = fs::remove_file(path);
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(contents))
        .with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::*;

    use super::*;
    use crate::testing::{MISSION, Scratch, parsed};

    fn der(dir: &Path, path: &str) -> Vec<u8> {
        let text = fs::read(dir.join(format!("{path}.crt"))).unwrap();
        parse_x509_pem(&text).unwrap().1.contents
    }

    fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
        let names = certificate.subject_alternative_name().unwrap();
        let show = |name: &GeneralName<'_>| match name {
            GeneralName::DNSName(name) => (*name).to_owned(),
            GeneralName::IPAddress(bytes) => bytes.iter().map(u8::to_string).collect::<Vec<_>>().join("."),
            other => panic!("{other}"),
        };
        names.map(|names| names.value.general_names.iter().map(show).collect()).unwrap_or_default()
    }

    #[test]
    fn every_certificate_is_signed_by_its_authority_and_says_what_was_planned() {
        let scratch = Scratch::new("pki-plan");
        let mission = parsed(MISSION);
        ensure(scratch.path(), &mission).unwrap();
        for leaf in plan(&mission) {
            let (own, authority) = (der(scratch.path(), &leaf.path), der(scratch.path(), leaf.authority.stem()));
            let (own, authority) =
                (parse_x509_certificate(&own).unwrap().1, parse_x509_certificate(&authority).unwrap().1);
            own.verify_signature(Some(authority.public_key())).unwrap();
            assert_eq!(own.issuer().as_raw(), authority.subject().as_raw(), "{}", leaf.path);
            assert!(authority.is_ca() && !own.is_ca());
            let text = |found: Option<&AttributeTypeAndValue<'_>>| found.map(|a| a.as_str().unwrap().to_owned());
            assert_eq!(text(own.subject().iter_common_name().next()), Some(leaf.common_name));
            assert_eq!(text(own.subject().iter_organization().next()), leaf.organization);
            assert_eq!(names(&own), leaf.names);
            let usage = own.extended_key_usage().unwrap().unwrap().value;
            assert_eq!(
                (usage.server_auth, usage.client_auth),
                (leaf.purpose != Purpose::Client, leaf.purpose != Purpose::Server)
            );
        }
    }

    #[test]
    fn no_clock_can_lock_a_node_out() {
        let scratch = Scratch::new("pki-time");
        ensure(scratch.path(), &parsed(MISSION)).unwrap();
        for path in ["ca", "admin", "nodes/node-1/apiserver"] {
            let der = der(scratch.path(), path);
            let validity = parse_x509_certificate(&der).unwrap().1.validity().clone();
            assert_eq!(validity.not_before.timestamp(), 0);
            assert_eq!(validity.not_after.to_datetime().year(), LAST_YEAR);
        }
    }

    #[test]
    fn the_api_server_can_be_called_by_all_its_names() {
        let mission = parsed(MISSION);
        let plan = plan(&mission);
        let leaf = plan.iter().find(|leaf| leaf.path == "nodes/node-1/apiserver").unwrap();
        for name in
            ["kubernetes.default.svc.cluster.local", "10.43.0.1", "10.0.2.15", "127.0.0.1", "localhost", "node-1"]
        {
            assert!(leaf.names.iter().any(|known| known == name), "{name}");
        }
        assert!(!plan.iter().any(|leaf| leaf.path == "nodes/node-2/apiserver"));
    }

    #[test]
    fn what_is_as_planned_is_kept_and_the_rest_is_issued_again_by_the_same_authorities() {
        let scratch = Scratch::new("pki-keep");
        let dir = scratch.path();
        ensure(dir, &parsed(MISSION)).unwrap();
        let read = |path: &str| fs::read(dir.join(path)).unwrap();
        let paths = ["ca.crt", "sa.key", "admin.crt", "nodes/node-1/apiserver.crt", "nodes/node-2/kubelet.crt"];
        let before = paths.map(read);
        ensure(dir, &parsed(MISSION)).unwrap();
        assert_eq!(paths.map(read), before);

        ensure(dir, &parsed(&MISSION.replace("10.0.2.15", "10.0.2.99"))).unwrap();
        let changed: Vec<_> =
            std::iter::zip(paths, &before).filter(|(path, old)| read(path) != **old).map(|(path, _)| path).collect();
        assert_eq!(changed, ["nodes/node-1/apiserver.crt"]);

        let gone = MISSION.replace("node-2", "node-3");
        ensure(dir, &parsed(&gone)).unwrap();
        assert!(!dir.join("nodes/node-2/kubelet.key").exists() && dir.join("nodes/node-3/kubelet.key").exists());

        fs::remove_file(dir.join("etcd-ca.key")).unwrap();
        let etcd = read("nodes/node-1/etcd.crt");
        ensure(dir, &parsed(&gone)).unwrap();
        assert_ne!(read("nodes/node-1/etcd.crt"), etcd, "a new authority's certificates are new");
    }

    #[test]
    fn only_the_owner_can_read_keys() {
        let scratch = Scratch::new("pki-mode");
        ensure(scratch.path(), &parsed(MISSION)).unwrap();
        for path in crate::tree::files(scratch.path()).unwrap() {
            let mode = fs::metadata(scratch.path().join(&path)).unwrap().permissions().mode() & 0o777;
            let secret = path.extension().is_some_and(|suffix| suffix == "key");
            assert_eq!(mode, if secret { SECRET } else { PUBLIC }, "{}", path.display());
        }
        let text = |name: &str| fs::read_to_string(scratch.path().join(name)).unwrap();
        assert!(text("sa.key").starts_with("-----BEGIN PRIVATE KEY-----"));
        assert!(text("sa.pub").starts_with("-----BEGIN PUBLIC KEY-----"));
    }
}
