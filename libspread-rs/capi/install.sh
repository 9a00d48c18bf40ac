#!/bin/sh
# Builds the C libraries and installs them under PREFIX (default /usr/local): include, lib, lib/pkgconfig.
# DESTDIR is put before PREFIX, for packages.
set -eu

prefix=${1:-/usr/local}
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
to=${DESTDIR:-}$prefix

cargo build --manifest-path "$root/Cargo.toml" --release -p spread-core -p tspread-core -p spread-full

mkdir -p "$to/include" "$to/lib/pkgconfig"
for header in sp.h sp_func.h sp_events.h fl.h; do
    install -m 644 "$here/include/$header" "$to/include/"
done

# What cargo calls it, what programs call it, what it is.
library() {
    install -m 755 "$target/release/lib$1.so" "$to/lib/lib$2.so.3.0.0"
    install -m 644 "$target/release/lib$1.a" "$to/lib/lib$2.a"
    ln -sf "lib$2.so.3.0.0" "$to/lib/lib$2.so.3"
    ln -sf "lib$2.so.3.0.0" "$to/lib/lib$2.so"
    cat > "$to/lib/pkgconfig/$2.pc" <<PC
prefix=$prefix
includedir=\${prefix}/include
libdir=\${prefix}/lib

Name: $2
Description: $3
Version: 5.0.1
Cflags: -I\${includedir}
Libs: -L\${libdir} -l$2
Libs.private: -lgcc_s -lutil -lrt -lpthread -lm -ldl -lc
PC
}
library spread_core spread-core "Client library for Spread daemons"
library tspread_core tspread-core "Client library for Spread daemons, for programs with threads"
library spread_full spread "Client library for Spread daemons, with the flush layer"
