//! What stands against the folders of the new server: what is in them, where they are, and who
//! may write there.
//!
//! A clone makes them ([`crate::Helper::clone`]): as root it gives the last folder of a path to
//! the owner, without root everything is who runs this.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use crate::plan::{Facts, Findings, Tablespace};
use crate::{Options, Owner};

/// The folder of a clone that was killed; the next one removes it.
const LEFT_BEHIND: &str = ".pgherd-clone";

/// A folder that the new server gets.
#[derive(Clone, Debug)]
struct Place {
    about: &'static str,
    /// The data directory, or else that of a tablespace.
    is_data: bool,
    /// What it will be, for people.
    what: String,
    path: PathBuf,
    /// Where that is, without links.
    real: PathBuf,
}

impl Place {
    fn of_data(path: &Path) -> Self {
        let what = "the data directory".to_owned();
        Self { about: "target", is_data: true, what, path: path.to_owned(), real: real(path) }
    }

    fn of_tablespace(name: &str, path: PathBuf) -> Self {
        let (what, real) = (format!("tablespace {name}"), real(&path));
        Self { about: "tablespaces", is_data: false, what, path, real }
    }
}

pub(crate) fn judge(facts: &Facts, options: &Options, findings: &mut Findings) {
    mappings(facts, options, findings);
    let mut places = vec![Place::of_data(&options.target)];
    for tablespace in &facts.tablespaces {
        let Some(location) = &tablespace.location else { continue };
        let place = options.place_of(location);
        if place == *location && !is_free(&place) {
            findings.stop("tablespaces", in_use(tablespace, &place));
        } else {
            places.push(Place::of_tablespace(&tablespace.name, place));
        }
    }
    let writer = Writer::new(options.owner.as_ref());
    for (number, place) in places.iter().enumerate() {
        let others = places.iter().take(number);
        let against = content(&place.path)
            .or_else(|| above(&place.real))
            .or_else(|| others.rev().find_map(|other| in_the_way(other, place)))
            .or_else(|| writer.refusal(place));
        let shown = place.path.display();
        match against {
            Some(reason) => findings.stop(place.about, reason),
            None => findings.ok(place.about, format!("{shown}: {}", place.what)),
        }
    }
}

fn mappings(facts: &Facts, options: &Options, findings: &mut Findings) {
    for (number, (old, _)) in options.mapping.iter().enumerate() {
        if !facts.tablespaces.iter().any(|it| it.location.as_ref() == Some(old)) {
            findings.stop("tablespaces", format!("no tablespace is at {}", old.display()));
        }
        if options.mapping.iter().take(number).any(|(earlier, _)| earlier == old) {
            let text = format!("{} is mapped twice: leave one of them out", old.display());
            findings.stop("tablespaces", text);
        }
    }
}

fn in_use(tablespace: &Tablespace, place: &Path) -> String {
    let (name, place) = (&tablespace.name, place.display());
    format!("{name} is at {place}, which is in use here: --tablespace-mapping {place}=NEW")
}

fn is_free(path: &Path) -> bool {
    fs::read_dir(path).map_or_else(
        |error| error.kind() == ErrorKind::NotFound,
        |mut entries| entries.next().is_none(),
    )
}

/// What is there, where nothing should be.
fn content(path: &Path) -> Option<String> {
    let shown = path.display();
    match fs::read_dir(path) {
        Ok(mut entries) => entries
            .any(|it| it.is_ok_and(|it| it.file_name() != LEFT_BEHIND))
            .then(|| format!("{shown} is not empty")),
        Err(error) if error.kind() == ErrorKind::NotFound => fs::symlink_metadata(path)
            .is_ok()
            .then(|| format!("{shown} is a link to something that is not there: remove it")),
        Err(error) => Some(format!("{shown}: {error}")),
    }
}

/// The files of a server, of the source or another, that the folder would be among.
fn above(real: &Path) -> Option<String> {
    let found = real.ancestors().skip(1).find(|it| holds_a_server(it))?;
    Some(format!(
        "{} is inside {}, where the files of a server are: choose another folder",
        real.display(),
        found.display()
    ))
}

/// A data directory, or the folder of a tablespace (`TABLESPACE_VERSION_DIRECTORY`, relpath.h).
fn holds_a_server(folder: &Path) -> bool {
    let of_tablespace = |name: &str| {
        let parts = name.strip_prefix("PG_").and_then(|it| it.split_once('_'));
        let is_number = |it: &str| !it.is_empty() && it.bytes().all(|it| it.is_ascii_digit());
        parts.is_some_and(|(major, catalog)| is_number(major) && is_number(catalog))
    };
    folder.join("PG_VERSION").exists()
        || fs::read_dir(folder).is_ok_and(|entries| {
            entries.flatten().any(|it| it.file_name().to_str().is_some_and(of_tablespace))
        })
}

/// Two new folders that are one, or of which one is inside the other.
fn in_the_way(first: &Place, second: &Place) -> Option<String> {
    let (shown, what, other) = (second.path.display(), &second.what, &first.what);
    if first.real == second.real {
        return Some(format!("{shown} for {what} is that of {other} too: choose another folder"));
    }
    let (inner, outer) = if second.real.starts_with(&first.real) {
        (second, first)
    } else if first.real.starts_with(&second.real) {
        (first, second)
    } else {
        return None;
    };
    Some(format!(
        "{} for {} is inside {}, {}: choose a folder outside of it",
        inner.path.display(),
        inner.what,
        outer.path.display(),
        outer.what
    ))
}

/// Whether two folders are one, or one is inside the other.
pub(crate) fn overlap(one: &Path, other: &Path) -> bool {
    let (one, other) = (real(one), real(other));
    one.starts_with(&other) || other.starts_with(&one)
}

/// The path without links and dots, as far as it exists.
fn real(path: &Path) -> PathBuf {
    let there = existing(path);
    let mut real = fs::canonicalize(there).unwrap_or_else(|_| there.to_owned());
    for part in path.strip_prefix(there).unwrap_or(Path::new("")).components() {
        match part {
            Component::ParentDir => drop(real.pop()),
            Component::Normal(name) => real.push(name),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    real
}

/// `path`, or the first folder above it that exists.
pub(crate) fn existing(path: &Path) -> &Path {
    path.ancestors().find(|it| it.exists()).unwrap_or(Path::new("/"))
}

/// Who writes into the new folders.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    /// Nothing without root: then it is who runs this.
    owner: Option<&'a Owner>,
    name: String,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(owner: Option<&'a Owner>) -> Self {
        let uid = owner.map_or_else(|| rustix::process::geteuid().as_raw(), |owner| owner.uid);
        let mut id = Command::new("id");
        let known = id.args(["-nu", &uid.to_string()]).stdin(Stdio::null()).output();
        let name = known.ok().and_then(|it| String::from_utf8(it.stdout).ok());
        let name = name.map(|it| it.trim().to_owned()).filter(|it| !it.is_empty());
        Self { owner, name: name.unwrap_or_else(|| format!("user {uid}")) }
    }

    /// Why there can be no folder of theirs at the place.
    fn refusal(&self, place: &Place) -> Option<String> {
        let path = &place.path;
        let Some(owner) = self.owner else {
            let euid = rustix::process::geteuid().as_raw();
            let of_another = place.is_data.then(|| self.is_of_another(path, euid)).flatten();
            return of_another.or_else(|| self.cannot_write(path));
        };
        self.is_missing(path).or_else(|| self.cannot_enter(path.parent()?)).or_else(|| {
            // Root gives a folder away, and of a link only the link.
            let of_link = || match place.is_data {
                true => self.is_of_another(path, owner.uid),
                false => self.cannot_write(path),
            };
            path.is_symlink().then(of_link).flatten()
        })
    }

    /// Why nothing can be made in `path`, nor what is missing of it.
    pub(crate) fn cannot_write(&self, path: &Path) -> Option<String> {
        let (place, name) = (existing(path), &self.name);
        let may = self.may("-w", place) && self.may("-x", place);
        let shown = place.display();
        (!may).then(|| {
            format!("{shown} cannot be written by {name}: let {name} write there, or choose another folder")
        })
    }

    /// What root makes above the last folder, nobody else may enter; and the file with the password
    /// of its clone is there.
    fn is_missing(&self, path: &Path) -> Option<String> {
        let (above, name) = (path.parent()?, &self.name);
        let shown = above.display();
        (!above.exists()).then(|| format!("{shown} is not there: make it, and let {name} into it"))
    }

    /// As root, which makes the folder in this one: why the owner does not get there.
    fn cannot_enter(&self, above: &Path) -> Option<String> {
        let (shown, name) = (above.display(), &self.name);
        if !self.may("-x", above) {
            let ways = format!("let {name} into it, choose another folder, or see --owner");
            return Some(format!("{shown} cannot be entered by {name}: {ways}"));
        }
        Writer { owner: None, name: "root".to_owned() }.cannot_write(above)
    }

    /// A server takes a data directory of nobody else (`checkDataDir`, miscinit.c).
    fn is_of_another(&self, path: &Path, uid: u32) -> Option<String> {
        let (shown, name) = (path.display(), &self.name);
        let is_other = fs::metadata(path).is_ok_and(|it| it.uid() != uid);
        is_other.then(|| format!("{shown} belongs to somebody else: give it to {name}"))
    }

    /// Asks the system, which knows more than the mode: groups, lists of access, read-only disks.
    fn may(&self, what: &str, folder: &Path) -> bool {
        let mut test = Command::new("test");
        test.arg(what).arg(folder).stdin(Stdio::null());
        if let Some(owner) = self.owner {
            test.uid(owner.uid).gid(owner.gid).current_dir("/");
        }
        // What cannot be asked is not in the way.
        !test.status().is_ok_and(|it| it.code() == Some(1))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn folders_in_each_others_way() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("a")).unwrap();
        symlink(at("a"), at("link")).unwrap();
        for (one, other, expected) in [
            ("a", "b", None),
            ("a", "ab", None),
            ("a", "a/", Some("that of tablespace one too")),
            ("a", "link", Some("that of tablespace one too")),
            ("new/x", "new/y/../x", Some("that of tablespace one too")),
            ("a", "link/new", Some("link/new for tablespace other is inside")),
            ("link/new/er", "a/new", Some("link/new/er for tablespace one is inside")),
        ] {
            let places = [("one", one), ("other", other)];
            let [one, other] = places.map(|(name, path)| Place::of_tablespace(name, at(path)));
            let found = in_the_way(&one, &other);
            match expected {
                Some(part) => assert!(found.is_some_and(|it| it.contains(part)), "{other:?}"),
                None => assert_eq!(found, None),
            }
            assert_eq!(overlap(&one.path, &other.path), expected.is_some());
        }
    }

    #[test]
    fn files_of_servers() {
        let folder = tempfile::tempdir().unwrap();
        for (name, is_one) in [
            ("PG_VERSION", true),
            ("PG_18_202506291", true),
            ("PG_9.6_1", false),
            ("PG_x_1", false),
            ("PG_18", false),
        ] {
            let path = folder.path().join(name);
            fs::create_dir(&path).unwrap();
            assert_eq!(holds_a_server(folder.path()), is_one, "{name}");
            let inside = above(&real(&folder.path().join("not/there")));
            assert_eq!(inside.is_some(), is_one, "{name}");
            fs::remove_dir(path).unwrap();
        }
    }

    #[test]
    fn a_link_to_nothing_is_no_folder() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        assert_eq!(content(&link), None);
        symlink("/nonexistent/x", &link).unwrap();
        assert!(content(&link).is_some_and(|it| it.contains("is a link")));
    }
}
