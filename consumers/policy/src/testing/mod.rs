//! A bundle's own tests.
