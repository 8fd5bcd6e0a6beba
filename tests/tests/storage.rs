//! What must hold of every storage, of the plainest one: a directory.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::PathBuf;

use stack::storage_cases::{self, Colour, Outage, Sheets, Store};
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
