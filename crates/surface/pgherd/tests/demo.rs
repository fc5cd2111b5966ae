//! What `make demo` shows is true: with the filter the standby holds what it should.

use std::path::PathBuf;

use demo::{Interrupt, Options, Outcome};

#[test]
fn the_demo_finds_the_standby_as_planned() -> anyhow::Result<()> {
    let options = Options {
        keep: false,
        seconds: 1,
        bin: None,
        pgherd: Some(PathBuf::from(env!("CARGO_BIN_EXE_pgherd"))),
    };
    assert_eq!(demo::run(&options, &Interrupt::default())?, Outcome::Equal);
    Ok(())
}
