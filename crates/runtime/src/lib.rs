//! Instances.

pub mod model;
