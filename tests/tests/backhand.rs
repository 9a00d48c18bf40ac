//! mod_backhand in real Apaches.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use tests::apache::Mpm;
use tests::backhand::{Webs, get, status};

const CHAIN: &str =
    "<Location /who>\n  Backhand byAge 2\n  Backhand removeSelf\n  BackhandExplain On\n</Location>\n";

#[test]
fn requests_are_proxied_to_the_other_server() {
    for mpm in [Mpm::Event, Mpm::Prefork] {
        let webs = Webs::start(2, mpm, |_| CHAIN.to_owned()).unwrap();
        webs.wait_all_up().unwrap();
        let answer = get(webs.web(1).address(), "/who").unwrap();
        assert_eq!(
            (answer.status, &*answer.body),
            (200, "www-2\n"),
            "{answer:?}\n{}",
            webs.web(1).error_log()
        );
        // And not back again.
        assert_eq!(get(webs.web(2).address(), "/who").unwrap().body, "www-1\n");
        println!("{answer:?}\n{}", status(webs.web(1)).unwrap());
    }
}
