//! The house's rules that no compiler checks. Each rule is a function from text to complaints.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// A file is a thought; a longer one says why in a line with [`LONG_BECAUSE`].
const MAX_LINES: usize = 500;
const LONG_BECAUSE: &str = "Long because ";

/// The rooms, as in ARCHITECTURE.md.
const ROOMS: [&str; 10] = ["agent", "boot", "cli", "core", "image", "init", "kernel-config", "qemu", "rootfs", "tests"];
/// What else may be at the top.
const TOP: [&str; 14] = [
    ".ci",
    ".gitignore",
    "ARCHITECTURE.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    "clippy.toml",
    "deny.toml",
    "docs",
    "mission.toml",
    "rust-toolchain.toml",
    "rustfmt.toml",
];

/// The one folder with `unsafe` in it of each program that needs any.
const UNSAFE_ROOMS: [&str; 2] = ["boot/src/sys/", "init/src/sys/"];

/// Checks every file that git knows in the clone at `repo`.
pub fn run(repo: &Path) -> Result<()> {
    let output = Command::new("git").args(["ls-files"]).current_dir(repo).output().context("start git")?;
    ensure!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let files = String::from_utf8(output.stdout)?;
    let files: Vec<&str> = files.lines().collect();
    let mut complaints = top_level(&files);
    for file in files {
        // Deleted and not committed yet.
        let Ok(bytes) = fs::read(repo.join(file)) else { continue };
        let Ok(text) = String::from_utf8(bytes) else {
            complaints.push(format!("{file}: not UTF-8; sources only"));
            continue;
        };
        complaints.extend(check(file, &text).into_iter().map(|complaint| format!("{file}:{complaint}")));
        if file == "ARCHITECTURE.md" {
            complaints.extend(architecture(&text));
        }
    }
    if !complaints.is_empty() {
        bail!("{}", complaints.join("\n"));
    }
    Ok(())
}

/// All complaints about one file, each beginning with its line.
fn check(path: &str, text: &str) -> Vec<String> {
    let extension = path.rsplit_once('.').map_or("", |(_, extension)| extension);
    let mut complaints = Vec::new();
    if matches!(extension, "rs" | "go" | "sh" | "c") {
        complaints.extend(length(text));
    }
    if path != "tests/src/tidy.rs" && !path.ends_with("go.sum") {
        complaints.extend(left_for_later(text));
    }
    if extension == "sh" || path == "Makefile" || path.starts_with(".ci/") {
        complaints.extend(addresses(text));
    }
    if extension == "rs" && !UNSAFE_ROOMS.iter().any(|room| path.starts_with(room)) && path != "tests/src/tidy.rs" {
        complaints.extend(unsafe_code(text));
    }
    if path.starts_with("kernel-config/") && extension == "config" {
        complaints.extend(reasons(text, is_kernel_option));
    }
    if path.ends_with("Cargo.toml") {
        complaints.extend(reasons(&dependencies(text), is_own_dependency));
    }
    if path.starts_with("rootfs/services/") {
        complaints.extend(memory_limit(text));
    }
    complaints
}

fn top_level(files: &[&str]) -> Vec<String> {
    let mut tops: Vec<&str> = files.iter().filter_map(|file| file.split('/').next()).collect();
    tops.dedup();
    tops.retain(|top| !ROOMS.contains(top) && !TOP.contains(top));
    tops.iter().map(|top| format!("{top}: no such room; ARCHITECTURE.md has the list")).collect()
}

fn architecture(text: &str) -> Vec<String> {
    let missing = ROOMS.iter().filter(|room| !text.contains(&format!("`{room}/`")));
    missing.map(|room| format!("ARCHITECTURE.md: does not say what `{room}/` is")).collect()
}

fn length(text: &str) -> Option<String> {
    let lines = text.lines().count();
    let long = lines > MAX_LINES && !text.contains(LONG_BECAUSE);
    long.then(|| format!("{lines}: {lines} lines; split it, or say why in a line `{LONG_BECAUSE}…`"))
}

fn left_for_later(text: &str) -> Vec<String> {
    find(text, "left for later; do it or delete it", |line| {
        ["TODO", "FIXME", "XXX"].iter().any(|word| line.split(|c: char| !c.is_alphanumeric()).any(|w| w == *word))
    })
}

fn addresses(text: &str) -> Vec<String> {
    find(text, "an address in a script; packages come by the host's package managers", |line| {
        line.contains("http://") || line.contains("https://")
    })
}

fn unsafe_code(text: &str) -> Vec<String> {
    find(text, "`unsafe` outside boot/src/sys and init/src/sys", |line| {
        let code = line.split("//").next().unwrap_or_default();
        ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "unsafe("].iter().any(|word| code.contains(word))
    })
}

fn memory_limit(text: &str) -> Option<String> {
    let limited =
        text.lines().any(|line| line.starts_with("memory_max_mib") || line.starts_with("# No memory_max_mib"));
    (!limited).then(|| "1: no `memory_max_mib`, and no comment `# No memory_max_mib: …` with the reason".into())
}

fn find(text: &str, complaint: &str, mut wrong: impl FnMut(&str) -> bool) -> Vec<String> {
    let lines = text.lines().enumerate().filter(|(_, line)| wrong(line));
    lines.map(|(i, _)| format!("{}: {complaint}", i + 1)).collect()
}

/// Lines for which `wants` is true must stand below a comment, in a block without empty lines, or have one.
fn reasons(text: &str, wants: impl Fn(&str) -> bool) -> Vec<String> {
    let mut explained = false;
    let mut complaints = Vec::new();
    for (i, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('[') {
            explained = false;
        } else if wants(line) {
            if !explained && !line.contains(" # ") {
                complaints.push(format!("{}: `{line}` without its reason in a comment above", i + 1));
            }
        } else if line.starts_with('#') {
            explained = true;
        }
    }
    complaints
}

fn is_kernel_option(line: &str) -> bool {
    line.starts_with("CONFIG_") || line.starts_with("# CONFIG_")
}

/// A dependency that this file chooses: the workspace's are explained once, at the top.
fn is_own_dependency(line: &str) -> bool {
    let code = line.trim_start();
    code.starts_with(|c: char| c.is_ascii_lowercase())
        && code.contains('=')
        && !code.contains("workspace = true")
        && !code.contains("path = ")
}

/// `text` with every line outside of a table of dependencies made empty, so that line numbers hold.
fn dependencies(text: &str) -> String {
    let mut inside = false;
    let keep = |line: &str| {
        if line.starts_with('[') {
            inside = line.trim_end().ends_with("dependencies]");
        }
        if inside { format!("{line}\n") } else { "\n".to_owned() }
    };
    text.lines().map(keep).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_file_says_why() {
        let long = "\n".repeat(MAX_LINES + 1);
        assert_eq!(check("a.rs", &long).len(), 1);
        assert_eq!(check("a.rs", &format!("// {LONG_BECAUSE}it is a table.{long}")).len(), 0);
        assert_eq!(check("Cargo.lock", &long).len(), 0);
    }

    #[test]
    fn nothing_is_left_for_later() {
        assert_eq!(check("a.rs", "// TODO: think\n// XXXL shirts\n"), ["1: left for later; do it or delete it"]);
    }

    #[test]
    fn scripts_have_no_addresses() {
        assert_eq!(check("image/setup.sh", "curl https://example.org\n").len(), 1);
        assert_eq!(check("docs/a.md", "see https://example.org\n").len(), 0);
    }

    #[test]
    fn unsafe_code_is_in_one_room() {
        let code = "let x = unsafe { *p };\n// unsafe { is a word here\n#![forbid(unsafe_code)]\n";
        assert_eq!(check("agent/src/main.rs", code).len(), 1);
        assert_eq!(check("init/src/sys/mod.rs", code).len(), 0);
    }

    #[test]
    fn a_kernel_option_has_a_reason_in_its_block() {
        let good = "# Two cores.\nCONFIG_SMP=y\nCONFIG_NR_CPUS=2\n# No modules.\n# CONFIG_MODULES is not set\n";
        assert_eq!(check("kernel-config/base.config", good), Vec::<String>::new());
        let bad = "# A reason.\nCONFIG_SMP=y\n\nCONFIG_NET=y\n# CONFIG_MODULES is not set\n";
        assert_eq!(check("kernel-config/base.config", bad).len(), 2);
    }

    #[test]
    fn a_dependency_has_a_reason_where_it_is_chosen() {
        let text = "[package]\nname = \"x\"\n\n[dependencies]\nanyhow.workspace = true\ncore = { path = \"core\" }\n\
                    libc = \"0.2\"\n# Reads ELF.\nobject = \"0.40\"\n\n[profile.dev]\nopt-level = 1\n";
        let complaints = check("x/Cargo.toml", text);
        assert_eq!(complaints.len(), 1, "{complaints:?}");
        assert!(complaints[0].starts_with("7: `libc"), "{complaints:?}");
    }

    #[test]
    fn a_service_has_a_memory_limit_or_a_reason() {
        assert_eq!(check("rootfs/services/a.toml", "memory_max_mib = 1\n").len(), 0);
        assert_eq!(check("rootfs/services/a.toml", "# No memory_max_mib: it is all there is.\n").len(), 0);
        assert_eq!(check("rootfs/services/a.toml", "exec = []\n").len(), 1);
    }

    #[test]
    fn the_top_has_only_rooms_that_are_explained() {
        assert_eq!(top_level(&["core/src/lib.rs", "misc/notes", "Makefile"]).len(), 1);
        assert_eq!(architecture("| `core/` | decides |").len(), ROOMS.len() - 1);
    }
}
