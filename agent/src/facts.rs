//! Facts of the running node that a person would look up with a shell if there were one.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use elf::abi::PT_INTERP;
use elf::endian::AnyEndian;
use elf::{ElfStream, ParseError};
use perigee_core::inspect::{Inspection, Mount};
use procfs::ProcError;
use procfs::process::{MountInfo, Process};
use walkdir::WalkDir;

/// Programs that are shells, or hold one, by the names they go by.
const SHELLS: [&str; 13] =
    ["ash", "bash", "busybox", "csh", "dash", "fish", "ksh", "mksh", "rbash", "sh", "tcsh", "toybox", "zsh"];
/// setuid and setgid (chmod(2)).
const SET_ID: u32 = 0o6000;

/// Why a fact is not known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The same in /proc.
    #[error(transparent)]
    Proc(#[from] ProcError),
}

/// The facts; `root` is the root file system's folder, `/` on a node.
///
/// # Errors
/// The first thing that cannot be read.
pub fn read(root: &Path) -> Result<Inspection, Error> {
    let pid1 = Process::new(1)?;
    let exe = pid1.exe()?;
    let files = Files::below(root)?;
    Ok(Inspection {
        kernel: text("/proc/sys/kernel/osrelease")?,
        command_line: text("/proc/cmdline")?,
        // By the link in /proc, which is the program that runs, not what stands in its place now.
        pid1_static: !is_dynamic(Path::new("/proc/1/exe"))
            .map_err(|source| Error::Read { path: exe.clone(), source })?,
        pid1_exe: exe.display().to_string(),
        mounts: pid1.mountinfo()?.into_iter().map(mount).collect(),
        elf_files: files.elf,
        dynamic_files: files.dynamic,
        setuid_files: files.set_id,
        shells: files.shells,
        zombies: zombies()?,
        cgroups: cgroups(Path::new("/sys/fs/cgroup"))?,
    })
}

/// What is worth telling of the files on one file system.
#[derive(Debug, Default)]
struct Files {
    elf: Vec<String>,
    dynamic: Vec<String>,
    set_id: Vec<String>,
    shells: Vec<String>,
}

impl Files {
    /// Walks `root` without leaving its file system and without following links.
    fn below(root: &Path) -> Result<Self, Error> {
        let mut files = Self::default();
        for entry in WalkDir::new(root).same_file_system(true).sort_by_file_name() {
            let entry = entry
                .map_err(|error| Error::Read { path: error.path().unwrap_or(root).to_owned(), source: error.into() })?;
            if entry.file_type().is_dir() {
                continue;
            }
            let name = entry.path().strip_prefix(root).unwrap_or(entry.path());
            let name = Path::new("/").join(name).display().to_string();
            let is_shell = entry.file_name().to_str().is_some_and(|name| SHELLS.contains(&name));
            if entry.file_type().is_file() {
                files
                    .add(entry.path(), name, is_shell)
                    .map_err(|source| Error::Read { path: entry.into_path(), source })?;
            } else if is_shell {
                files.shells.push(name);
            }
        }
        Ok(files)
    }

    fn add(&mut self, path: &Path, name: String, is_shell: bool) -> io::Result<()> {
        let mut start = Vec::new();
        File::open(path)?.take(4).read_to_end(&mut start)?;
        if fs::metadata(path)?.permissions().mode() & SET_ID != 0 {
            self.set_id.push(name.clone());
        }
        if start == b"\x7fELF" {
            if is_dynamic(path)? {
                self.dynamic.push(name.clone());
            }
            self.elf.push(name.clone());
        }
        if is_shell || start.starts_with(b"#!") {
            self.shells.push(name);
        }
        Ok(())
    }
}

/// Whether an ELF file asks for a dynamic loader. One that cannot be understood counts: it is not known to be static.
fn is_dynamic(path: &Path) -> io::Result<bool> {
    match ElfStream::<AnyEndian, _>::open_stream(File::open(path)?) {
        Ok(elf) => Ok(elf.segments().iter().any(|segment| segment.p_type == PT_INTERP)),
        Err(ParseError::IOError(error)) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
        Err(_) => Ok(true),
    }
}

fn mount(info: MountInfo) -> Mount {
    let mut options: Vec<String> = info
        .mount_options
        .into_iter()
        .chain(info.super_options)
        .map(|(name, value)| value.map_or(name.clone(), |value| format!("{name}={value}")))
        .collect();
    options.sort();
    options.dedup();
    // The mount and its file system say each for itself whether it can be written: one `ro` is enough that it cannot.
    if options.iter().any(|option| option == "ro") {
        options.retain(|option| option != "rw");
    }
    Mount {
        target: info.mount_point.display().to_string(),
        source: info.mount_source.unwrap_or_default(),
        kind: info.fs_type,
        options,
    }
}

fn zombies() -> Result<Vec<i32>, Error> {
    let mut zombies: Vec<i32> = procfs::process::all_processes()?
        .filter_map(|process| process.and_then(|process| process.stat()).ok())
        .filter(|stat| stat.state == 'Z')
        .map(|stat| stat.pid)
        .collect();
    zombies.sort_unstable();
    Ok(zombies)
}

/// Folders below `root` by their paths in it; one that goes away meanwhile is left out.
fn cgroups(root: &Path) -> Result<Vec<String>, Error> {
    let mut groups = Vec::new();
    for entry in WalkDir::new(root).min_depth(1).sort_by_file_name() {
        match entry {
            Ok(entry) if entry.file_type().is_dir() => {
                let path = entry.path().strip_prefix(root).unwrap_or(entry.path());
                groups.push(Path::new("/").join(path).display().to_string());
            }
            Ok(_) => {}
            Err(error) if error.io_error().is_some_and(|error| error.kind() == io::ErrorKind::NotFound) => {}
            Err(error) => {
                return Err(Error::Read { path: error.path().unwrap_or(root).to_owned(), source: error.into() });
            }
        }
    }
    Ok(groups)
}

fn text(path: &str) -> Result<String, Error> {
    let text = fs::read_to_string(path).map_err(|source| Error::Read { path: path.into(), source })?;
    Ok(text.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("usr/bin")).unwrap();
        dir
    }

    #[test]
    fn programs_are_told_apart_by_their_headers() {
        let dir = tree();
        let bin = dir.path().join("usr/bin");
        fs::copy(std::env::current_exe().unwrap(), bin.join("dynamic")).unwrap();
        fs::write(bin.join("damaged"), b"\x7fELF and then nothing that makes sense").unwrap();
        fs::write(bin.join("empty"), b"").unwrap();
        symlink("dynamic", bin.join("link")).unwrap();
        let files = Files::below(dir.path()).unwrap();
        assert_eq!(files.elf, ["/usr/bin/damaged", "/usr/bin/dynamic"]);
        assert_eq!(files.dynamic, files.elf);
        assert!(files.set_id.is_empty() && files.shells.is_empty());
    }

    #[test]
    fn shells_are_found_by_name_by_link_and_by_what_they_begin_with() {
        let dir = tree();
        fs::write(dir.path().join("script"), "#!/anything\n").unwrap();
        symlink("/usr/bin/kube", dir.path().join("usr/bin/sh")).unwrap();
        fs::write(dir.path().join("usr/bin/busybox"), "x").unwrap();
        fs::write(dir.path().join("usr/bin/shim"), "x").unwrap();
        assert_eq!(Files::below(dir.path()).unwrap().shells, ["/script", "/usr/bin/busybox", "/usr/bin/sh"]);
    }

    #[test]
    fn setuid_and_setgid_files_are_found() {
        let dir = tree();
        for (name, mode) in [("setuid", 0o4755), ("setgid", 0o2755), ("sticky", 0o1755)] {
            let path = dir.path().join(name);
            fs::write(&path, "x").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        assert_eq!(Files::below(dir.path()).unwrap().set_id, ["/setgid", "/setuid"]);
    }

    #[test]
    fn a_mount_that_cannot_be_written_says_ro_and_nothing_else() {
        let line = "36 35 98:0 / / ro,noatime master:1 - erofs /dev/vda6 rw,user_xattr";
        let root = mount(MountInfo::from_line(line).unwrap());
        assert_eq!((root.target.as_str(), root.kind.as_str(), root.source.as_str()), ("/", "erofs", "/dev/vda6"));
        assert_eq!(root.options, ["noatime", "ro", "user_xattr"]);
    }

    #[test]
    fn cgroups_are_named_from_their_root() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("perigee/etcd")).unwrap();
        fs::write(dir.path().join("perigee/etcd/cgroup.procs"), "1\n").unwrap();
        assert_eq!(cgroups(dir.path()).unwrap(), ["/perigee", "/perigee/etcd"]);
    }
}
