//! The C libraries: the names that programs link to and the loader looks for, headers, pkg-config.

use std::path::Path;

use crate::tree::Tree;

/// Version of the C interface, which is that of Spread 5.0.1.
const VERSION: &str = "5.0.1";

/// A library: what cargo calls it, what programs call it, what it is.
const LIBRARIES: [(&str, &str, &str); 3] = [
    ("spread_core", "spread-core", "Client library for Spread daemons"),
    ("tspread_core", "tspread-core", "Client library for Spread daemons, for programs with threads"),
    ("spread_full", "spread", "Client library for Spread daemons, with the flush layer"),
];

const HEADERS: [&str; 4] = ["sp.h", "sp_func.h", "sp_events.h", "fl.h"];

/// Stages the C interface: `built` is the folder with cargo's libraries, `root` that of the sources.
///
/// # Errors
/// If something is not there or cannot be written.
pub fn stage(tree: &mut Tree, built: &Path, root: &Path) -> anyhow::Result<()> {
    for header in HEADERS {
        let from = root.join("libspread-rs/capi/include").join(header);
        tree.copy(&from, Path::new("include").join(header), 0o644)?;
    }
    let libdir = tree.libdir.clone();
    for (cargo, name, what) in LIBRARIES {
        let file = format!("lib{name}.so.3.0.0");
        tree.copy_binary(&built.join(format!("lib{cargo}.so")), libdir.join(&file), 0o755)?;
        tree.copy_binary(&built.join(format!("lib{cargo}.a")), libdir.join(format!("lib{name}.a")), 0o644)?;
        tree.link(&file, libdir.join(format!("lib{name}.so.3")))?;
        tree.link(&file, libdir.join(format!("lib{name}.so")))?;
        let pc = pkg_config(&tree.prefix, &tree.installed(&libdir), name, what);
        tree.write(libdir.join("pkgconfig").join(format!("{name}.pc")), pc, 0o644)?;
    }
    Ok(())
}

fn pkg_config(prefix: &Path, libdir: &Path, name: &str, what: &str) -> String {
    let (prefix, libdir) = (prefix.display(), libdir.display());
    format!(
        "prefix={prefix}\nincludedir=${{prefix}}/include\nlibdir={libdir}\n\n\
         Name: {name}\nDescription: {what}\nVersion: {VERSION}\n\
         Cflags: -I${{includedir}}\nLibs: -L${{libdir}} -l{name}\n\
         Libs.private: -lgcc_s -lutil -lrt -lpthread -lm -ldl -lc\n"
    )
}
