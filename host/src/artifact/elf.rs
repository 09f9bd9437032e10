//! Native executables.
//!
//! Contract: [`inspect`] says whether this machine can execute a file, and whether it brings
//! everything along or asks for a dynamic loader. It reads headers only.

use std::borrow::Cow;
use std::io::{Read, Seek};

use object::elf::{self, FileHeader64};
use object::read::elf::{Dyn, FileHeader, ProgramHeader};
use object::{Endianness, ReadCache, ReadRef};

/// How an executable gets the code that it does not contain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Linkage {
    /// It contains all of it, and can run in an empty root.
    Static,
    /// The loader at this path brings it from libraries.
    Dynamic {
        /// The path, as it is in the file.
        interpreter: String,
    },
}

/// Why a file cannot be executed here.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// It is something else.
    #[error("is not an executable but {0}")]
    Other(&'static str),
    /// It is in the right format but not a program.
    #[error("is {0}, not an executable")]
    NotProgram(&'static str),
    /// It is for another kind of processor.
    #[error("is an executable for {found}, and this machine is {here}")]
    Architecture {
        /// What it is for.
        found: Cow<'static, str>,
        /// What runs here.
        here: &'static str,
    },
    /// Its headers contradict themselves.
    #[error("is a damaged executable: {0}")]
    Damaged(&'static str),
}

/// No loader's path and no table of a real executable is longer.
const SEGMENT_MAX: u64 = 1 << 20;

/// Looks at an executable.
pub fn inspect(file: impl Read + Seek) -> Result<Linkage, ElfError> {
    let data = &ReadCache::new(file);
    let length = data.len().map_err(|()| ElfError::Damaged("it cannot be read"))?;
    let start = data.read_bytes_at(0, length.min(8)).unwrap_or_default();
    let [0x7f, b'E', b'L', b'F', class, ..] = start else {
        return Err(ElfError::Other(kind_of(start)));
    };
    if *class != elf::ELFCLASS64 {
        let found = Cow::Borrowed("a 32-bit processor");
        return Err(ElfError::Architecture { found, here: std::env::consts::ARCH });
    }
    let damaged = |problem| move |_| ElfError::Damaged(problem);
    let header =
        FileHeader64::<Endianness>::parse(data).map_err(damaged("its header is cut off"))?;
    let endian = header.endian().map_err(damaged("its byte order is unknown"))?;
    let found = architecture(header.e_machine(endian), endian);
    if found != std::env::consts::ARCH {
        return Err(ElfError::Architecture { found, here: std::env::consts::ARCH });
    }
    let segments =
        header.program_headers(endian, data).map_err(damaged("its program headers are cut off"))?;
    let (mut interpreter, mut is_pie) = (None, false);
    for segment in segments {
        let described = matches!(segment.p_type(endian), elf::PT_INTERP | elf::PT_DYNAMIC);
        if described && segment.p_filesz(endian) > SEGMENT_MAX {
            return Err(ElfError::Damaged("a segment is too long"));
        }
        let path =
            segment.interpreter(endian, data).map_err(damaged("its loader's path is cut off"))?;
        interpreter = interpreter.or(path.map(|path| String::from_utf8_lossy(path).into_owned()));
        let entries =
            segment.dynamic(endian, data).map_err(damaged("its dynamic table is cut off"))?;
        is_pie |= entries.unwrap_or_default().iter().any(|entry| {
            entry.tag(endian) == elf::DT_FLAGS_1
                && entry.val(endian) & u64::from(elf::DF_1_PIE) != 0
        });
    }
    match (header.e_type(endian), interpreter) {
        (elf::ET_EXEC | elf::ET_DYN, Some(interpreter)) => Ok(Linkage::Dynamic { interpreter }),
        (elf::ET_EXEC, None) => Ok(Linkage::Static),
        (elf::ET_DYN, None) if is_pie => Ok(Linkage::Static),
        (elf::ET_DYN, None) => Err(ElfError::NotProgram("a shared library")),
        (elf::ET_REL, _) => Err(ElfError::NotProgram("an object file")),
        (elf::ET_CORE, _) => Err(ElfError::NotProgram("a core dump")),
        _ => Err(ElfError::Damaged("its type is unknown")),
    }
}

/// What a file that is not an executable seems to be, from how it begins.
fn kind_of(start: &[u8]) -> &'static str {
    match start {
        [] => "empty",
        [b'#', b'!', ..] => "a script, which needs a rootfs with its interpreter",
        [0, b'a', b's', b'm', ..] => "WebAssembly, which belongs in `component`",
        [0xcf | 0xce, 0xfa, 0xed, 0xfe, ..] | [0xca, 0xfe, 0xba, 0xbe, ..] => "a program for macOS",
        [b'M', b'Z', ..] => "a program for Windows",
        [b'P', b'K', ..] => "a zip archive",
        [0x1f, 0x8b, ..] => "compressed data",
        _ => "an unknown kind of file",
    }
}

/// The name that Rust gives to a machine of the ELF header.
fn architecture(machine: u16, endian: Endianness) -> Cow<'static, str> {
    let little = endian == Endianness::Little;
    Cow::Borrowed(match machine {
        elf::EM_X86_64 => "x86_64",
        elf::EM_AARCH64 if little => "aarch64",
        elf::EM_RISCV => "riscv64",
        elf::EM_LOONGARCH => "loongarch64",
        elf::EM_S390 => "s390x",
        elf::EM_PPC64 => "powerpc64",
        other => return Cow::Owned(format!("the ELF machine {other}")),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Cursor;

    use super::*;

    /// A 64-bit executable of nothing but headers.
    pub(in crate::artifact) fn executable(
        machine: u16,
        kind: u16,
        interpreter: Option<&str>,
    ) -> Vec<u8> {
        let path = interpreter.map(|path| format!("{path}\0")).unwrap_or_default();
        let mut file = Vec::new();
        file.extend([0x7f, b'E', b'L', b'F', 2, 1, 1, 0]);
        file.extend([0; 8]);
        file.extend(kind.to_le_bytes());
        file.extend(machine.to_le_bytes());
        file.extend(1u32.to_le_bytes());
        file.extend(0x40_1000u64.to_le_bytes()); // entry
        file.extend(64u64.to_le_bytes()); // program headers
        file.extend(0u64.to_le_bytes()); // section headers
        file.extend(0u32.to_le_bytes()); // flags
        for word in [64u16, 56, u16::from(interpreter.is_some()), 64, 0, 0] {
            file.extend(word.to_le_bytes());
        }
        if interpreter.is_some() {
            file.extend(elf::PT_INTERP.to_le_bytes());
            file.extend(4u32.to_le_bytes());
            let length = u64::try_from(path.len()).unwrap();
            for word in [120, 0, 0, length, length, 1] {
                file.extend(u64::to_le_bytes(word));
            }
            file.extend(path.bytes());
        }
        file
    }

    /// The machine that the tests run on, in the ELF header's words.
    pub(in crate::artifact) fn here() -> u16 {
        match std::env::consts::ARCH {
            "x86_64" => elf::EM_X86_64,
            "aarch64" => elf::EM_AARCH64,
            other => panic!("no ELF machine for {other}"),
        }
    }

    pub(in crate::artifact) fn elsewhere() -> u16 {
        if here() == elf::EM_AARCH64 { elf::EM_X86_64 } else { elf::EM_AARCH64 }
    }

    fn said(file: &[u8]) -> String {
        inspect(Cursor::new(file)).unwrap_err().to_string()
    }

    #[test]
    fn a_static_executable_asks_for_no_loader() {
        let file = executable(here(), elf::ET_EXEC, None);
        assert_eq!(inspect(Cursor::new(file)).unwrap(), Linkage::Static);
    }

    #[test]
    fn a_dynamic_executable_names_its_loader() {
        let loader = "/lib64/ld-linux-x86-64.so.2";
        let file = executable(here(), elf::ET_DYN, Some(loader));
        let interpreter = loader.to_owned();
        assert_eq!(inspect(Cursor::new(file)).unwrap(), Linkage::Dynamic { interpreter });
    }

    #[test]
    fn the_test_itself_is_a_dynamic_executable() {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let Linkage::Dynamic { interpreter } = inspect(file).unwrap() else { panic!("static") };
        assert!(interpreter.starts_with("/lib"), "{interpreter}");
    }

    #[test]
    fn another_architecture_is_named_beside_this_one() {
        let said = said(&executable(elsewhere(), elf::ET_EXEC, None));
        let here = std::env::consts::ARCH;
        let there = if here == "aarch64" { "x86_64" } else { "aarch64" };
        assert_eq!(said, format!("is an executable for {there}, and this machine is {here}"));
    }

    #[test]
    fn what_is_not_an_executable_is_called_by_its_kind() {
        let said = [
            said(b""),
            said(b"#!/bin/sh\n"),
            said(b"\0asm\x0d\0\x01\0"),
            said(b"MZ\x90\0"),
            said(b"hello"),
            said(b"\x7fELF\x01\x01\x01\0"),
            said(b"\x7fELF\x02\x01\x01\0"),
            said(&executable(here(), elf::ET_REL, None)),
            said(&executable(here(), elf::ET_DYN, None)),
        ];
        insta::assert_snapshot!(said.join("\n").replace(std::env::consts::ARCH, "ARCH"), @"
        is not an executable but empty
        is not an executable but a script, which needs a rootfs with its interpreter
        is not an executable but WebAssembly, which belongs in `component`
        is not an executable but a program for Windows
        is not an executable but an unknown kind of file
        is an executable for a 32-bit processor, and this machine is ARCH
        is a damaged executable: its header is cut off
        is an object file, not an executable
        is a shared library, not an executable
        ");
    }

    proptest::proptest! {
        #[test]
        fn damage_anywhere_is_an_answer_and_never_a_panic(
            at in 0usize..148,
            byte: u8,
            cut in 0usize..148,
        ) {
            let mut file = executable(here(), elf::ET_DYN, Some("/lib64/ld-linux-x86-64.so.2"));
            file[at] = byte;
            file.truncate(cut.max(at));
            let _answer = inspect(Cursor::new(file));
        }
    }
}
