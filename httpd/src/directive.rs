//! Directives of a module, and the tree of all directives.
// spec: httpd-ffi 2.2

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::slice;

use crate::ffi;
use crate::guard::guard;
use crate::module::{Module, config_mut};
use crate::pool::Pool;
use crate::requests::RequestModule;
use crate::server::{Server, bytes};

/// Where a directive may stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// Only outside of all sections: one value for the whole server.
    Global,
    /// In the main server and in `<VirtualHost>`.
    Server,
}

/// Stores the words of a directive; an error text appears with file and line.
pub type Setter<C> = fn(&mut C, &Params<'_>, &[&[u8]]) -> Result<(), String>;

/// One directive.
pub struct Directive<M: Module> {
    /// Its name.
    pub name: &'static CStr,
    /// One line of help, shown for a wrong number of arguments.
    pub help: &'static CStr,
    /// Where it may stand.
    pub scope: Scope,
    /// Fewest arguments.
    pub min: usize,
    /// Most arguments.
    pub max: usize,
    /// Takes the words. An error text appears with file and line.
    pub set: Setter<M::ServerConfig>,
}

/// The place of a directive.
#[derive(Debug)]
pub struct Params<'a> {
    raw: *mut ffi::cmd_parms,
    life: PhantomData<&'a ffi::cmd_parms>,
}

impl<'a> Params<'a> {
    /// The server whose configuration is read.
    pub fn server(&self) -> Server<'a> {
        // SAFETY: the parameters are live during the callback, and their server is set.
        unsafe { Server::from_raw((*self.raw).server) }
    }

    /// The pool of the configuration.
    pub fn pool(&self) -> Pool<'a> {
        // SAFETY: as above; configuration is read by one thread.
        unsafe { Pool::from_raw((*self.raw).pool) }
    }
}

impl Params<'_> {
    /// A path of the configuration, relative to `ServerRoot`.
    pub fn path(&self, path: &[u8]) -> Option<PathBuf> {
        let pool = self.pool();
        // SAFETY: a live pool and a NUL-terminated text; the result is null or lives in the pool.
        let full = unsafe { bytes(ffi::ap_server_root_relative(pool.raw(), pool.text(path).as_ptr())) }?;
        Some(PathBuf::from(OsStr::from_bytes(full)))
    }
}

/// One directive of the settings of a directory: allowed outside of sections, in `<VirtualHost>`, `<Directory>`,
/// `<Location>`, `<Files>` and `<If>`, not in `.htaccess`.
pub struct DirDirective<M: RequestModule> {
    /// Its name.
    pub name: &'static CStr,
    /// One line of help, shown for a wrong number of arguments.
    pub help: &'static CStr,
    /// Fewest arguments.
    pub min: usize,
    /// Most arguments.
    pub max: usize,
    /// Takes the words. An error text appears with file and line.
    pub set: Setter<M::DirConfig>,
}

impl<M: RequestModule> DirDirective<M> {
    /// The entry of the server's table.
    pub const fn entry(&'static self) -> ffi::command_rec {
        ffi::command_rec {
            name: self.name.as_ptr(),
            func: ffi::cmd_func { take_argv: Some(set_dir::<M>) },
            cmd_data: std::ptr::from_ref(self).cast_mut().cast(),
            req_override: (ffi::RSRC_CONF | ffi::ACCESS_CONF) as c_int,
            args_how: ffi::cmd_how_TAKE_ARGV,
            errmsg: self.help.as_ptr(),
        }
    }
}

impl<M: Module> Directive<M> {
    /// The entry of the server's table.
    pub const fn entry(&'static self) -> ffi::command_rec {
        ffi::command_rec {
            name: self.name.as_ptr(),
            func: ffi::cmd_func { take_argv: Some(set::<M>) },
            cmd_data: std::ptr::from_ref(self).cast_mut().cast(),
            req_override: ffi::RSRC_CONF as c_int,
            args_how: ffi::cmd_how_TAKE_ARGV,
            errmsg: self.help.as_ptr(),
        }
    }
}

/// The last entry of the server's table.
pub const fn end_of_table() -> ffi::command_rec {
    ffi::command_rec {
        name: std::ptr::null(),
        func: ffi::cmd_func { no_args: None },
        cmd_data: std::ptr::null_mut(),
        req_override: 0,
        args_how: ffi::cmd_how_RAW_ARGS,
        errmsg: std::ptr::null(),
    }
}

/// A table for the server.
#[repr(transparent)]
pub struct Table<const N: usize>(pub [ffi::command_rec; N]);

// SAFETY: the table holds pointers to statics only and is never written.
unsafe impl<const N: usize> Sync for Table<N> {}

unsafe extern "C" fn set<M: Module>(
    parms: *mut ffi::cmd_parms,
    _dir_config: *mut c_void,
    argc: c_int,
    argv: *const *mut c_char,
) -> *const c_char {
    // SAFETY: the server calls with live parameters; the command is the entry made by `entry`, whose data is a
    // static `Directive<M>`.
    let (params, directive) = unsafe {
        let directive = (*(*parms).cmd).cmd_data.cast::<Directive<M>>();
        (Params { raw: parms, life: PhantomData }, &*directive)
    };
    let pool = params.pool();
    let body = || {
        if directive.scope == Scope::Global {
            // SAFETY: live parameters.
            let refusal = unsafe { ffi::ap_check_cmd_context(parms, ffi::GLOBAL_ONLY) };
            if !refusal.is_null() {
                return refusal;
            }
        }
        let count = usize::try_from(argc).unwrap_or(0);
        // SAFETY: the server gives `argc` pointers to NUL-terminated words.
        let words: Vec<&[u8]> = unsafe {
            let pointers = if count == 0 { &[][..] } else { slice::from_raw_parts(argv, count) };
            pointers.iter().filter_map(|word| bytes(*word)).collect()
        };
        let name = directive.name.to_string_lossy();
        let result = if (directive.min..=directive.max).contains(&words.len()) {
            // SAFETY: the server's configuration vector holds what `create_server` of the same module made; while
            // directives are read nothing else refers to it.
            let config = unsafe { config_mut::<M>(params.server()) };
            match config {
                Some(config) => (directive.set)(config, &params, &words).map_err(|e| format!("{name}: {e}")),
                None => Err(format!("{name}: the module has no configuration here")),
            }
        } else {
            Err(format!("{name} takes {}", directive.help.to_string_lossy()))
        };
        match result {
            Ok(()) => std::ptr::null(),
            Err(text) => pool.text(text.as_bytes()).as_ptr(),
        }
    };
    guard("a directive", c"internal error in the module".as_ptr(), body)
}

unsafe extern "C" fn set_dir<M: RequestModule>(
    parms: *mut ffi::cmd_parms,
    dir_config: *mut c_void,
    argc: c_int,
    argv: *const *mut c_char,
) -> *const c_char {
    // SAFETY: as in `set`; the settings of the directory were made by `create_dir` of the same module, and while
    // directives are read nothing else refers to them.
    let (params, directive, config) = unsafe {
        let directive = (*(*parms).cmd).cmd_data.cast::<DirDirective<M>>();
        (Params { raw: parms, life: PhantomData }, &*directive, dir_config.cast::<M::DirConfig>().as_mut())
    };
    let body = || {
        let count = usize::try_from(argc).unwrap_or(0);
        // SAFETY: the server gives `argc` pointers to NUL-terminated words.
        let words: Vec<&[u8]> = unsafe {
            let pointers = if count == 0 { &[][..] } else { slice::from_raw_parts(argv, count) };
            pointers.iter().filter_map(|word| bytes(*word)).collect()
        };
        let name = directive.name.to_string_lossy();
        let result = match config {
            Some(config) if (directive.min..=directive.max).contains(&words.len()) => {
                (directive.set)(config, &params, &words).map_err(|e| format!("{name}: {e}"))
            }
            Some(_) => Err(format!("{name} takes {}", directive.help.to_string_lossy())),
            None => Err(format!("{name}: the module has no configuration here")),
        };
        match result {
            Ok(()) => std::ptr::null(),
            Err(text) => params.pool().text(text.as_bytes()).as_ptr(),
        }
    };
    guard("a directive", c"internal error in the module".as_ptr(), body)
}

/// One directive of the configuration files.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    raw: *const ffi::ap_directive_t,
    pool: Pool<'a>,
}

impl<'a> Node<'a> {
    /// Name as written.
    pub fn name(&self) -> &'a [u8] {
        // SAFETY: nodes of the tree and their texts live as long as the configuration pool.
        unsafe { bytes((*self.raw).directive) }.unwrap_or_default()
    }

    /// The arguments, split into words as the server does it (quotes, backslashes).
    pub fn words(&self) -> Vec<&'a [u8]> {
        let mut words = Vec::new();
        // SAFETY: the arguments are a NUL-terminated text (or null); the server's own function moves the pointer
        // behind each word and gives copies in the pool. It stops at the end of the text.
        unsafe {
            let mut rest = (*self.raw).args;
            while !rest.is_null() && *rest != 0 {
                let word = ffi::ap_getword_conf(self.pool.raw(), &raw mut rest);
                words.extend(bytes(word));
            }
        }
        words
    }

    /// File, or the description of a macro's use.
    pub fn file(&self) -> &'a [u8] {
        // SAFETY: as above.
        unsafe { bytes((*self.raw).filename) }.unwrap_or_default()
    }

    /// Line in the file.
    pub fn line(&self) -> i32 {
        // SAFETY: as above.
        unsafe { (*self.raw).line_num }
    }
}

/// All directives of the configuration, sections before their content. Complete in `check_config`.
pub fn tree(pool: Pool<'_>) -> Vec<Node<'_>> {
    let mut nodes = Vec::new();
    // SAFETY: the tree is complete, read by the one thread that configures, and its links are null or live.
    unsafe {
        let mut stack = vec![ffi::ap_conftree.cast_const()];
        while let Some(raw) = stack.pop() {
            if raw.is_null() {
                continue;
            }
            nodes.push(Node { raw, pool });
            stack.push((*raw).next);
            stack.push((*raw).first_child);
        }
    }
    nodes
}
