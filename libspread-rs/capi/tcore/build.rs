//! Gives the shared library its name for the loader.

fn main() {
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libtspread-core.so.3");
    println!("cargo::rerun-if-changed=build.rs");
}
