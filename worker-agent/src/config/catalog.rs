//! `[catalog]`: whether clients may see which projects there are.

use graticule_daemon::config::ConfigError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::wrong;
use crate::core::catalog::Hidden;

/// `[catalog]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Catalog {
    /// Whether there is a catalog at `/catalog`.
    pub enabled: bool,
    /// Locations or folders whose projects it does not show, such as `/private`. They are served all the same.
    pub hidden: Vec<String>,
    /// Whether it draws a small map of each project.
    pub preview: bool,
}

impl Default for Catalog {
    fn default() -> Self {
        Self {
            enabled: true,
            hidden: Vec::new(),
            preview: true,
        }
    }
}

impl Catalog {
    /// What is not shown.
    ///
    /// # Errors
    /// When a location is no path from the top.
    pub fn hidden(&self) -> Result<Hidden, ConfigError> {
        if let Some(bad) = self.hidden.iter().find(|location| !location.starts_with('/')) {
            return Err(wrong(
                "catalog.hidden",
                format!("`{bad}` does not begin with a slash; write such as \"/private\""),
            ));
        }
        Ok(Hidden::new(self.hidden.iter().map(String::as_str)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hidden_location_is_a_path_from_the_top() {
        let catalog = |location: &str| Catalog {
            hidden: vec![location.into()],
            ..Catalog::default()
        };
        assert!(catalog("/private").hidden().unwrap().hides("/private/roads"));
        let error = catalog("private").hidden().unwrap_err().to_string();
        assert!(
            error.contains("catalog.hidden") && error.contains("/private"),
            "{error}"
        );
    }
}
