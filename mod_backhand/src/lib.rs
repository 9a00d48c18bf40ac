//! Apache module: each request to the best server of a cluster.
//!
//! ```apache
//! LoadModule backhand_module modules/mod_backhand.so
//! MulticastStats 10.0.5.255:4445
//! AcceptStats 10.0.5.0/24
//! <Directory /data/docs>
//!   Backhand byAge
//!   Backhand byRandom
//! </Directory>
//! ```
//!
//! | file | job |
//! |---|---|
//! | `settings` | directives |
//! | `shared` | the matrix in shared memory, and its view for candidacy functions in C |
//! | `manager` | the process that announces this server and hears the others |
//! | `spread_link` | the same over a Spread group |
//! | `decide` | the decision for a request, and what follows from it |
//! | `receive` | requests that another server sent |
//! | `external` | candidacy functions in shared objects |
//! | `explain` | decisions for people |
//! | `control` | the control socket |
//! | `page` | the diagnostic page |
//! | `module` | the module itself: hooks |

mod control;
mod decide;
mod explain;
mod external;
mod manager;
mod module;
mod page;
mod receive;
mod settings;
mod shared;
mod spread_link;
