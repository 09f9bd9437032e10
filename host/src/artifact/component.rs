//! WebAssembly components.
//!
//! Contract: [`inspect`] says from a component's imports and exports which generation of wasi:http
//! it speaks, or what it is instead. It does not validate the code: compiling does.

use wasmparser::{Encoding, Parser, Payload};

use crate::wasm;

/// The generation of wasi:http that a component answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Generation {
    /// `wasi:http/incoming-handler@0.2.x`.
    P2 {
        /// The version, `0.2.x`.
        version: String,
    },
    /// `wasi:http/handler@0.3.x`.
    P3 {
        /// The version, `0.3.x`.
        version: String,
    },
}

impl Generation {
    /// The engine's view of it, without the version.
    #[must_use]
    pub fn engine(&self) -> wasm::Generation {
        match self {
            Self::P2 { .. } => wasm::Generation::Second,
            Self::P3 { .. } => wasm::Generation::Third,
        }
    }
}

/// Why a file cannot be served as a component.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// It is something else.
    #[error("is not a WebAssembly binary but {0}")]
    Other(&'static str),
    /// It is a core module.
    #[error("is a core WebAssembly module, not a component")]
    CoreModule,
    /// It has been compiled already, by whomever.
    #[error("is a precompiled component")]
    Precompiled,
    /// It exports no HTTP handler.
    #[error("exports {}", list(exports, "nothing"))]
    World {
        /// What it exports.
        exports: Vec<String>,
    },
    /// It imports what Baton does not provide.
    #[error("imports {}, which Baton does not provide", list(imports, "nothing"))]
    Imports {
        /// Those imports.
        imports: Vec<String>,
    },
    /// It cannot be read to its end.
    #[error("is damaged at byte {offset}: {problem}")]
    Damaged {
        /// Where.
        offset: usize,
        /// What was found there.
        problem: String,
    },
}

impl InspectError {
    /// What would have been right.
    pub fn expected(&self) -> &'static str {
        match self {
            Self::World { .. } => {
                "an export of wasi:http/incoming-handler@0.2.x or wasi:http/handler@0.3.x"
            }
            Self::CoreModule => {
                "a component, as the target wasm32-wasip2 or `wasm-tools component new` makes it"
            }
            Self::Precompiled => {
                "a component, or the option --allow-precompiled if you trust who compiled it"
            }
            Self::Imports { .. } => {
                "imports of wasi:cli, clocks, config, filesystem, http, io, random and sockets only"
            }
            Self::Other(_) | Self::Damaged { .. } => "a WebAssembly component",
        }
    }
}

fn list(names: &[String], none: &str) -> String {
    if names.is_empty() { none.to_owned() } else { names.join(", ") }
}

/// Packages that every component may import; sockets are linked and refuse every use.
const PROVIDED: [&str; 8] = [
    "wasi:cli/",
    "wasi:clocks/",
    "wasi:config/",
    "wasi:filesystem/",
    "wasi:http/",
    "wasi:io/",
    "wasi:random/",
    "wasi:sockets/",
];

/// Looks at a component.
pub fn inspect(bytes: &[u8]) -> Result<Generation, InspectError> {
    match bytes {
        [0, b'a', b's', b'm', ..] => {}
        // The OS ABI of the ELF files that Wasmtime writes.
        [0x7f, b'E', b'L', b'F', _, _, _, 200, ..] => return Err(InspectError::Precompiled),
        other => return Err(InspectError::Other(kind_of(other))),
    }
    let (imports, exports) = outline(bytes)?;
    let foreign = |name: &String| !PROVIDED.iter().any(|package| name.starts_with(package));
    let generation = exports.iter().find_map(|export| generation(export));
    let foreign: Vec<_> = imports.into_iter().filter(foreign).collect();
    match generation {
        None => Err(InspectError::World { exports }),
        Some(_) if !foreign.is_empty() => Err(InspectError::Imports { imports: foreign }),
        Some(generation) => Ok(generation),
    }
}

fn generation(export: &str) -> Option<Generation> {
    let (interface, version) = export.split_once('@')?;
    let version = version.to_owned();
    match interface {
        "wasi:http/incoming-handler" if version.starts_with("0.2.") => {
            Some(Generation::P2 { version })
        }
        "wasi:http/handler" if version.starts_with("0.3.") => Some(Generation::P3 { version }),
        _ => None,
    }
}

/// The names of a component's own imports and exports, without those of what is nested in it.
fn outline(bytes: &[u8]) -> Result<(Vec<String>, Vec<String>), InspectError> {
    let damaged = |error: wasmparser::BinaryReaderError| InspectError::Damaged {
        offset: error.offset(),
        problem: error.message().to_owned(),
    };
    let (mut imports, mut exports, mut depth) = (vec![], vec![], 0usize);
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(damaged)? {
            Payload::Version { encoding: Encoding::Module, .. } if depth == 0 => {
                return Err(InspectError::CoreModule);
            }
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    imports.push(import.map_err(damaged)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    exports.push(export.map_err(damaged)?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok((imports, exports))
}

/// What a file that is not WebAssembly seems to be, from how it begins.
fn kind_of(start: &[u8]) -> &'static str {
    let blank = |byte: &u8| byte.is_ascii_whitespace();
    let text = start.iter().position(|byte| !blank(byte)).map_or(start, |at| &start[at..]);
    match text {
        [] => "empty",
        [0x7f, b'E', b'L', b'F', ..] => "an executable, which belongs in `native`",
        [b'(', ..] => "WebAssembly text, which `wasm-tools parse` turns into a binary",
        [0x1f, 0x8b, ..] => "compressed data",
        _ => "an unknown kind of file",
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A component without code that exports an instance of this name.
    pub(in crate::artifact) fn exporting(name: &str) -> Vec<u8> {
        let text = format!(r#"(component (instance $i) (export "{name}" (instance $i)))"#);
        wat::parse_str(text).unwrap()
    }

    fn said(bytes: &[u8]) -> String {
        let error = inspect(bytes).unwrap_err();
        format!("{error}; expected {}", error.expected())
    }

    #[test]
    fn the_generation_and_version_follow_from_the_export() {
        let version = "0.2.3".to_owned();
        let p2 = inspect(&exporting("wasi:http/incoming-handler@0.2.3")).unwrap();
        assert_eq!(p2, Generation::P2 { version });
        let version = "0.3.0".to_owned();
        let p3 = inspect(&exporting("wasi:http/handler@0.3.0")).unwrap();
        assert_eq!(p3, Generation::P3 { version });
    }

    #[test]
    fn what_is_no_component_is_called_by_its_kind() {
        let said = [
            said(b""),
            said(b"(component)"),
            said(b"hello"),
            said(b"\x7fELF\x02\x01\x01\0"),
            said(b"\x7fELF\x02\x01\x01\xc8"),
            said(&wat::parse_str("(module)").unwrap()),
            said(b"\0asm\x0d\0\x01\0\xff"),
        ];
        insta::assert_snapshot!(said.join("\n"), @"
        is not a WebAssembly binary but empty; expected a WebAssembly component
        is not a WebAssembly binary but WebAssembly text, which `wasm-tools parse` turns into a binary; expected a WebAssembly component
        is not a WebAssembly binary but an unknown kind of file; expected a WebAssembly component
        is not a WebAssembly binary but an executable, which belongs in `native`; expected a WebAssembly component
        is a precompiled component; expected a component, or the option --allow-precompiled if you trust who compiled it
        is a core WebAssembly module, not a component; expected a component, as the target wasm32-wasip2 or `wasm-tools component new` makes it
        is damaged at byte 8: malformed section id; expected a WebAssembly component
        ");
    }

    #[test]
    fn a_wrong_world_is_shown_by_what_it_exports() {
        let said = [
            said(&wat::parse_str("(component)").unwrap()),
            said(&exporting("wasi:cli/run@0.2.0")),
            said(&exporting("wasi:http/incoming-handler@0.1.0")),
        ];
        insta::assert_snapshot!(said.join("\n"), @"
        exports nothing; expected an export of wasi:http/incoming-handler@0.2.x or wasi:http/handler@0.3.x
        exports wasi:cli/run@0.2.0; expected an export of wasi:http/incoming-handler@0.2.x or wasi:http/handler@0.3.x
        exports wasi:http/incoming-handler@0.1.0; expected an export of wasi:http/incoming-handler@0.2.x or wasi:http/handler@0.3.x
        ");
    }

    #[test]
    fn imports_of_foreign_packages_are_named() {
        let text = r#"(component
            (import "wasi:io/poll@0.2.0" (instance))
            (import "wasi:keyvalue/store@0.2.0" (instance))
            (instance $i)
            (export "wasi:http/incoming-handler@0.2.0" (instance $i)))"#;
        insta::assert_snapshot!(said(&wat::parse_str(text).unwrap()), @"imports wasi:keyvalue/store@0.2.0, which Baton does not provide; expected imports of wasi:cli, clocks, config, filesystem, http, io, random and sockets only");
    }

    #[test]
    fn exports_of_nested_components_do_not_count() {
        let text = r#"(component (component (instance $i)
            (export "wasi:http/incoming-handler@0.2.0" (instance $i))))"#;
        let error = inspect(&wat::parse_str(text).unwrap()).unwrap_err();
        assert!(matches!(error, InspectError::World { exports } if exports.is_empty()));
    }
}
