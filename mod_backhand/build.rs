//! Linker settings of a module.

fn main() {
    // The server closes and opens modules at each restart. Code with thread-local destructors must stay mapped.
    // spec: httpd-ffi 6
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo::rerun-if-changed=build.rs");
}
