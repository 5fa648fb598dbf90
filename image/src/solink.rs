//! Turns a shared library into assembler source, so that it can be linked into a static program.
//!
//! Debian ships libnftables and libmnl as shared libraries only, and the image has no dynamic loader. A library's
//! segments are position independent but must keep their distances, and all that a loader would write into them are
//! 8-byte addresses. So each segment becomes a section that the linker is told to place at `base` + its address, the
//! bytes are taken over as they are, and each word that the loader would have written becomes a `.quad` of a symbol,
//! which the static linker resolves from the other objects and from `libc.a`.
//!
//! Constructors run as the program's own. Not taken over: destructors (refused if the library has any beyond the
//! compiler's), unwind tables (C code that throws nothing), thread-local data (refused).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use object::{
    File, Object, ObjectSection, ObjectSegment, ObjectSymbol, ObjectSymbolTable, RelocationFlags, RelocationTarget,
    SectionKind, SegmentFlags, elf,
};

/// One loadable segment: its section's name, and its place in memory and in the file.
struct Segment {
    section: String,
    flags: elf::ProgramFlags,
    address: u64,
    size: u64,
    file_offset: u64,
    file_size: u64,
}

/// Writes the assembler source of `library` to `source`; returns the linker's options that place its sections.
///
/// `name` prefixes the sections, `base` is a multiple of 64 KiB (the largest page) that nothing else occupies.
pub fn to_assembly(library: &Path, name: &str, base: u64, source: &Path) -> Result<Vec<String>> {
    let bytes = fs::read(library).with_context(|| format!("read {}", library.display()))?;
    let file = File::parse(&*bytes).with_context(|| format!("parse {}", library.display()))?;
    let text = assembly(&file, library, name).with_context(|| format!("link {} statically", library.display()))?;
    fs::write(source, text).with_context(|| format!("write {}", source.display()))?;
    Ok(segments(&file, name)
        .iter()
        .map(|segment| format!("-Wl,--section-start={}={:#x}", segment.section, base + segment.address))
        .collect())
}

fn segments(file: &File, name: &str) -> Vec<Segment> {
    file.segments()
        .enumerate()
        .map(|(index, segment)| {
            let (file_offset, file_size) = segment.file_range();
            let flags = match segment.flags() {
                SegmentFlags::Elf { p_flags, .. } => p_flags,
                _ => elf::PF_R,
            };
            let section = format!(".{name}.{index}");
            Segment { section, flags, address: segment.address(), size: segment.size(), file_offset, file_size }
        })
        .collect()
}

fn assembly(file: &File, library: &Path, name: &str) -> Result<String> {
    refuse_what_is_not_taken_over(file)?;
    let segments = segments(file, name);
    // `address` as the assembler writes it: the segment's label plus the distance from there.
    let place = |address: u64| -> Result<String> {
        let index = segments
            .iter()
            .position(|segment| (segment.address..=segment.address + segment.size).contains(&address))
            .with_context(|| format!("address {address:#x} is in no segment"))?;
        Ok(format!(".L{name}_{index} + {:#x}", address - segments[index].address))
    };

    let mut weak = BTreeSet::new();
    let mut words = BTreeMap::new();
    let symbols = file.dynamic_symbol_table().context("it has no dynamic symbols")?;
    for (offset, relocation) in file.dynamic_relocations().context("it has no dynamic relocations")? {
        let RelocationFlags::Elf { r_type } = relocation.flags() else { bail!("it is no ELF file") };
        let value = match (r_type, relocation.target()) {
            (elf::R_X86_64_RELATIVE | elf::R_AARCH64_RELATIVE, RelocationTarget::Absolute) => {
                place(u64::try_from(relocation.addend())?)?
            }
            (
                elf::R_X86_64_GLOB_DAT | elf::R_X86_64_JUMP_SLOT | elf::R_AARCH64_GLOB_DAT | elf::R_AARCH64_JUMP_SLOT,
                RelocationTarget::Symbol(index),
            ) => {
                let symbol = symbols.symbol_by_index(index)?;
                if symbol.is_weak() {
                    weak.insert(symbol.name()?);
                }
                symbol.name()?.to_owned()
            }
            (other, target) => bail!("relocation type {other} of {target:?} at {offset:#x} is not known here"),
        };
        words.insert(offset, value);
    }

    let mut out = String::new();
    for name in weak {
        writeln!(out, ".weak {name}")?;
    }
    for (index, segment) in segments.iter().enumerate() {
        let flags = match (segment.flags.0 & elf::PF_X.0 != 0, segment.flags.0 & elf::PF_W.0 != 0) {
            (true, false) => "ax",
            (false, true) => "aw",
            (false, false) => "a",
            (true, true) => bail!("segment {index} is both writable and executable"),
        };
        writeln!(out, ".section {},\"{flags}\",%progbits\n.L{name}_{index}:", segment.section)?;
        write_bytes(&mut out, library, segment, &words)?;
    }
    if let Some(constructors) = file.section_by_name(".init_array") {
        out.push_str(".section .init_array,\"aw\",%init_array\n");
        for value in words.range(constructors.address()..constructors.address() + constructors.size()).map(|(_, v)| v) {
            writeln!(out, ".quad {value}")?;
        }
    }
    for symbol in file.dynamic_symbols().filter(|symbol| symbol.is_definition() && symbol.address() != 0) {
        let name = symbol.name()?;
        writeln!(out, ".globl {name}\n.set {name}, {}", place(symbol.address())?)?;
    }
    out.push_str(".section .note.GNU-stack,\"\",%progbits\n");
    Ok(out)
}

/// One segment: the file's bytes, interrupted by the words that the linker writes, then zeros.
fn write_bytes(out: &mut String, library: &Path, segment: &Segment, words: &BTreeMap<u64, String>) -> Result<()> {
    let copy = |out: &mut String, from: u64, to: u64| -> Result<()> {
        if from < to {
            let offset = segment.file_offset + from - segment.address;
            writeln!(out, ".incbin \"{}\", {offset}, {}", library.display(), to - from)?;
        }
        Ok(())
    };
    let end = segment.address + segment.file_size;
    let mut at = segment.address;
    for (&offset, value) in words.range(segment.address..end) {
        copy(out, at, offset)?;
        writeln!(out, ".quad {value}")?;
        at = offset + 8;
    }
    copy(out, at, end)?;
    if segment.size > segment.file_size {
        writeln!(out, ".zero {}", segment.size - segment.file_size)?;
    }
    Ok(())
}

fn refuse_what_is_not_taken_over(file: &File) -> Result<()> {
    for section in file.sections() {
        let name = section.name().unwrap_or_default();
        // One pointer is the compiler's __do_global_dtors_aux, which does nothing in a program that ends.
        if name == ".fini_array" && section.size() > 8 {
            bail!("{name} has {} bytes: its destructors would not run", section.size());
        }
        if matches!(section.kind(), SectionKind::Tls | SectionKind::UninitializedTls) {
            bail!("it has thread-local data in {name}");
        }
    }
    Ok(())
}
