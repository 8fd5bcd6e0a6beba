//! Compiles the .proto files with protox, so that no protoc is needed on the machine.

use std::error::Error;
use std::path::PathBuf;

use protox::Compiler;

const FILES: [&str; 4] = [
    "graticule/v1/fleet.proto",
    "graticule/v1/fleet_admin.proto",
    "graticule/v1/qgis_admin.proto",
    "graticule/v1/qgis_server.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let commented = compiled(true)?;
    // The messages of prost-types have no place for options of others, such as `google.api.http`: they are in these bytes and
    // in no `FileDescriptorSet`.
    std::fs::write(out.join("descriptors.bin"), commented.encode_file_descriptor_set())?;
    std::fs::write(out.join("bare.bin"), compiled(false)?.encode_file_descriptor_set())?;
    tonic_prost_build::configure().compile_fds(commented.file_descriptor_set())?;
    Ok(())
}

fn compiled(with_comments: bool) -> Result<Compiler, protox::Error> {
    let mut compiler = Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(with_comments);
    compiler.open_files(FILES)?;
    Ok(compiler)
}
