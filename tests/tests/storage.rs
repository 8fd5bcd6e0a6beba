//! What must hold of every storage, of those that are files: a directory, and a GeoPackage.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::PathBuf;

use stack::storage_cases::{self, Colour, Outage, Sheets, Store, put_with_qgis, remove_with_qgis};
use tempfile::TempDir;

struct Directory {
    sheets: Sheets,
    folder: TempDir,
}

impl Directory {
    fn projects(&self) -> PathBuf {
        self.folder.path().join("projects")
    }
}

impl Store for Directory {
    fn root(&self) -> String {
        self.projects().display().to_string()
    }

    async fn put(&mut self, name: &str, colour: Colour) {
        let file = self.projects().join(format!("{name}.qgs"));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        // As editors do it: nobody sees half a file.
        let half = file.with_extension("half");
        fs::copy(self.sheets.file(colour), &half).unwrap();
        fs::rename(half, file).unwrap();
    }

    async fn remove(&mut self, name: &str) {
        fs::remove_file(self.projects().join(format!("{name}.qgs"))).unwrap();
    }

    fn outages(&self) -> Vec<Outage> {
        vec![Outage::Refuses]
    }

    async fn stop(&mut self, _: Outage) {
        fs::rename(self.projects(), self.folder.path().join("away")).unwrap();
    }

    async fn start(&mut self) {
        fs::rename(self.folder.path().join("away"), self.projects()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_of_projects() {
    let (sheets, folder) = (Sheets::make(None), tempfile::tempdir().unwrap());
    storage_cases::run(&mut Directory { sheets, folder }).await;
}

struct GeoPackage {
    sheets: Sheets,
    folder: TempDir,
}

impl GeoPackage {
    fn file(&self) -> PathBuf {
        self.folder.path().join("all maps.gpkg")
    }

    fn uri(&self, name: &str) -> String {
        let file = self.file().display().to_string().replace(' ', "%20");
        format!(
            "geopackage:{file}?projectName={}",
            name.replace('&', "%26").replace(' ', "%20")
        )
    }
}

impl Store for GeoPackage {
    fn root(&self) -> String {
        format!("geopackage:{}", self.file().display())
    }

    fn named_as(&self) -> String {
        "all maps.gpkg: No such file".into()
    }

    async fn put(&mut self, name: &str, colour: Colour) {
        if !self.file().exists() {
            // QGIS saves projects into a GeoPackage that is there.
            fs::copy(self.sheets.layer(), self.file()).unwrap();
        }
        put_with_qgis(&self.sheets.file(colour), &self.uri(name), &[]);
    }

    async fn remove(&mut self, name: &str) {
        remove_with_qgis(&self.uri(name), &[]);
    }

    fn outages(&self) -> Vec<Outage> {
        vec![Outage::Refuses]
    }

    async fn stop(&mut self, _: Outage) {
        fs::rename(self.file(), self.folder.path().join("away")).unwrap();
    }

    async fn start(&mut self) {
        fs::rename(self.folder.path().join("away"), self.file()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn projects_in_a_geopackage() {
    let (sheets, folder) = (Sheets::make(None), tempfile::tempdir().unwrap());
    storage_cases::run(&mut GeoPackage { sheets, folder }).await;
}
