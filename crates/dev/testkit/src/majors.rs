//! One test per major version from one function.

use pgtypes::Major;

use crate::install::Install;

/// Makes a test for each major, 12 to 18, of a function that takes a [`Major`].
///
/// ```
/// testkit::on_each_major! {
///     /// Doc comments are kept.
///     fn starts(major) {
///         let pg = testkit::Cluster::builder(major).start()?;
///         assert_eq!(pg.sql("select 1")?, "1");
///         Ok(())
///     }
/// }
/// ```
///
/// The tests are named `starts::v12` and so on. `PGHERD_TEST_MAJORS` narrows them.
#[macro_export]
macro_rules! on_each_major {
    ($($(#[$meta:meta])* fn $name:ident($major:ident) $body:block)+) => {$(
        $crate::on_majors! {
            [v12 V12, v13 V13, v14 V14, v15 V15, v16 V16, v17 V17, v18 V18]
            $(#[$meta])* fn $name($major) $body
        }
    )+};
}

/// As [`on_each_major`] for the given majors: `[v13 V13, v18 V18] fn name(major) { .. }`; with
/// `ignore = "why"; ` before them they run only when they are asked for.
#[macro_export]
macro_rules! on_majors {
    (ignore = $why:literal; $($rest:tt)+) => { $crate::on_majors! { @with (ignore = $why) $($rest)+ } };
    ([$($first:tt)+] $($rest:tt)+) => {
        $crate::on_majors! { @with (cfg(test)) [$($first)+] $($rest)+ }
    };
    (@with ($with:meta) [$($test:ident $variant:ident),+]
        $(#[$meta:meta])* fn $name:ident($major:ident) $body:block) => {
        $(#[$meta])*
        #[cfg(test)]
        mod $name {
            #[allow(unused_imports, reason = "the function's body may use the file's imports")]
            use super::*;

            fn on($major: $crate::Major) -> $crate::private::Result<()> $body

            $(
                #[test]
                #[$with]
                fn $test() -> $crate::private::Result<()> {
                    if $crate::private::wanted($crate::Major::$variant)? {
                        on($crate::Major::$variant)?;
                    }
                    Ok(())
                }
            )+
        }
    };
}

/// Whether tests are to run on `major`.
///
/// # Errors
///
/// As [`Install::majors`].
pub fn wanted(major: Major) -> anyhow::Result<bool> {
    Ok(Install::majors()?.contains(&major))
}
