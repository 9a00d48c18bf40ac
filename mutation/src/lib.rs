//! Rules of a crate that tests can take out, one at a time, to see whether anybody notices.
#![forbid(unsafe_code)]

/// Makes the enum `Rule` and the function `without(Rule)`, which says whether the rule is taken out.
///
/// Only with the feature `mutations` of the crate that uses it, which nothing but the simulator turns on, and in
/// that crate's own unit tests: then `take_out` does it, for the thread that calls it. Everywhere else `without` is
/// the constant `false`, and the rules are not even branches.
#[macro_export]
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

        #[cfg(any(test, feature = "mutations"))]
        std::thread_local! {
            static OUT: std::cell::Cell<Option<Rule>> = const { std::cell::Cell::new(None) };
        }

        /// Takes a rule out for this thread; `None` puts it back.
        #[cfg(any(test, feature = "mutations"))]
        pub fn take_out(rule: Option<Rule>) {
            OUT.set(rule);
        }

        /// Whether the rule is taken out.
        #[cfg(any(test, feature = "mutations"))]
        pub(crate) fn without(rule: Rule) -> bool {
            OUT.get() == Some(rule)
        }

        /// Whether the rule is taken out: never.
        #[cfg(not(any(test, feature = "mutations")))]
        pub(crate) const fn without(_: Rule) -> bool {
            false
        }
    };
}
