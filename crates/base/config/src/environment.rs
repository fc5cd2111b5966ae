//! What the environment adds to the settings: where a home is, and where state goes.

use std::path::{Path, PathBuf};

/// The folders that the environment names; only absolute ones count.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    pub(crate) home: Option<PathBuf>,
    pub(crate) xdg_state_home: Option<PathBuf>,
}

impl Environment {
    /// The environment of this process.
    pub(crate) fn of_process() -> Self {
        let absolute = |path: &PathBuf| path.is_absolute();
        Self {
            home: std::env::home_dir().filter(absolute),
            xdg_state_home: std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(absolute),
        }
    }

    /// Where state goes unless the file says otherwise.
    pub(crate) fn state_dir(&self) -> Option<PathBuf> {
        let state = self.xdg_state_home.clone();
        let state = state.or_else(|| Some(self.home.as_ref()?.join(".local/state")));
        state.map(|state| state.join("pgherd"))
    }

    /// `text` as an absolute path, `~/` standing for the home.
    pub(crate) fn path(&self, text: &str) -> Option<PathBuf> {
        if let Some(below) = text.strip_prefix("~/") {
            return self.home.as_ref().map(|home| home.join(below));
        }
        Some(Path::new(text)).filter(|path| path.is_absolute()).map(Path::to_path_buf)
    }
}

/// Where state goes unless somebody says otherwise; `None` without a home.
#[must_use]
pub fn state_dir() -> Option<PathBuf> {
    Environment::of_process().state_dir()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_goes_where_xdg_says() {
        let mut environment = Environment { home: Some("/home/x".into()), xdg_state_home: None };
        assert_eq!(environment.state_dir(), Some("/home/x/.local/state/pgherd".into()));
        environment.xdg_state_home = Some("/state".into());
        assert_eq!(environment.state_dir(), Some("/state/pgherd".into()));
        assert_eq!(Environment::default().state_dir(), None);
    }

    #[test]
    fn a_path_is_absolute_or_below_the_home() {
        let environment = Environment { home: Some("/home/x".into()), xdg_state_home: None };
        assert_eq!(environment.path("~/.pgpass"), Some("/home/x/.pgpass".into()));
        assert_eq!(environment.path("/a/b"), Some("/a/b".into()));
        assert_eq!(environment.path("a/b"), None);
        assert_eq!(environment.path("~other/b"), None);
        assert_eq!(Environment::default().path("~/.pgpass"), None);
    }
}
