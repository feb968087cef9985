//! In place of the docker backend in an executable that is built without it.

use std::convert::Infallible;
use std::path::PathBuf;

use crate::Error;
use crate::addresses::Addresses;
use crate::backend::external::Variables;
use crate::options::Options;

/// No stack is one.
pub(crate) struct Docker(Infallible);

impl Docker {
    pub(crate) fn start(_: &Options, _: Variables<'_>) -> Result<(Self, Addresses), Error> {
        Err(Error::NoDocker)
    }

    pub(crate) fn logs(&self) -> PathBuf {
        match self.0 {}
    }

    pub(crate) fn stop(&self) -> Result<(), Error> {
        match self.0 {}
    }
}

/// An engine may answer, but nothing here can talk to it.
pub(crate) fn answers() -> bool {
    false
}

/// Nothing was started that would have to be removed.
pub(crate) fn remove_labelled(_: &str) {}
