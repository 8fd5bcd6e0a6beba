//! Brings the descriptors of Envoy's messages into the binary: they are needed to read what users write in Envoy's own
//! words. The package `envoy-types` ships them beside its generated code and does not export them, so they are looked up
//! where cargo keeps that package.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    // Another version of the package is another place.
    println!("cargo:rerun-if-changed=../Cargo.lock");
    let (cargo, target) = (std::env::var("CARGO")?, std::env::var("TARGET")?);
    let told = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--filter-platform", &target])
        .output()?;
    if !told.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&told.stderr)).into());
    }
    let told: serde_json::Value = serde_json::from_slice(&told.stdout)?;
    let packages = told["packages"].as_array().ok_or("cargo metadata names no packages")?;
    let package = packages.iter().find(|package| package["name"] == "envoy-types");
    let manifest = package
        .and_then(|package| package["manifest_path"].as_str())
        .ok_or("cargo metadata does not know envoy-types")?;
    let root = Path::new(manifest).parent().ok_or("envoy-types is nowhere")?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("envoy.bin");
    std::fs::copy(root.join("src/generated/types.bin"), out)?;
    Ok(())
}
