//! The fuzz targets of the project; see `targets`.

pub mod targets;
