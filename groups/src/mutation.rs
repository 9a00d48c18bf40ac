//! Rules of this crate that the simulator can take out, one at a time, to see whether its oracles notice.
//!
//! Only with the feature `mutations`, which nothing but the simulator turns on. Without it [`without`] is the
//! constant `false` and the rules are not even branches.
#![cfg_attr(not(feature = "mutations"), allow(unreachable_pub, reason = "public with the feature"))]

macro_rules! rules {
    ($($name:ident: $what:literal,)+) => {
        /// A rule that can be taken out.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Rule {
            $(#[doc = $what] $name,)+
        }

        #[cfg(feature = "mutations")]
        impl Rule {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// What happens without it.
            pub fn what(self) -> &'static str {
                match self {
                    $(Self::$name => $what,)+
                }
            }
        }
    };
}

rules! {
    Signal: "no transitional signal",
    Tables: "the exchange ends with the first table",
    Generation: "requests given to an earlier daemon view take effect",
    Renew: "requests that an exchange made stale are not given again",
    Survivors: "members of departed daemons stay in the table",
    OwnSets: "after a merge all members are in one set",
    SelfDiscard: "a self-discard message goes to its sender",
    Count: "a change does not raise the view's number",
    Changed: "a group that lost members is not announced",
    TransitionView: "a change in transition is announced like any other",
}

#[cfg(feature = "mutations")]
thread_local! {
    static OUT: std::cell::Cell<Option<Rule>> = const { std::cell::Cell::new(None) };
}

/// Takes a rule out for this thread; `None` puts it back.
#[cfg(feature = "mutations")]
pub fn take_out(rule: Option<Rule>) {
    OUT.set(rule);
}

/// Whether the rule is taken out.
#[cfg(feature = "mutations")]
pub(crate) fn without(rule: Rule) -> bool {
    OUT.get() == Some(rule)
}

/// Whether the rule is taken out: never.
#[cfg(not(feature = "mutations"))]
pub(crate) const fn without(_: Rule) -> bool {
    false
}
