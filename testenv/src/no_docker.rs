//! Replaces the docker backend in builds without it.

use std::convert::Infallible;
use std::path::PathBuf;

use crate::Error;
use crate::addresses::Addresses;
use crate::backend::external::Variables;
use crate::options::Options;

/// Never constructed.
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

/// Returns false: this build cannot talk to a Docker engine.
pub(crate) fn responds() -> bool {
    false
}

/// Does nothing, since no container was started.
pub(crate) fn remove_labelled(_: &str) {}
