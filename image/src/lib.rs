//! Builds what is burned: kernel, root filesystem, disk. Host only.
#![forbid(unsafe_code)]

pub mod build;
pub mod bundle;
pub mod config;
pub mod data;
pub mod debian;
pub mod disk;
pub mod erofs;
pub mod esp;
pub mod flight;
pub mod go;
pub mod gpt;
pub mod hardening;
pub mod inspect;
pub mod kernel;
pub mod keys;
pub mod kubeconfig;
pub mod loader;
pub mod manifests;
pub mod native;
pub mod node;
pub mod oci;
pub mod pki;
pub mod rootfs;
pub mod rust_std;
pub mod secure_boot;
pub mod services;
pub mod slot;
pub mod solink;
pub mod tree;

#[cfg(test)]
mod testing;
