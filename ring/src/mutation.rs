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
    Freeze: "packets of the old ring count after they were reported",
    Veto: "the old ring's token is processed while a new ring is gathered",
    Base: "the safe line of the others of the old ring is not taken over",
    Obligations: "what was agreed to in a failed attempt need not be delivered after a gap",
    ObligationsEnd: "obligations outlive the install",
    Gap: "after a gap, messages of anybody are delivered in transition",
    SafeWaits: "SAFE messages are delivered like AGREED ones",
    SafeTwoVisits: "one visit of the token makes everything safe that it acknowledges",
    SafeAllMembers: "what one member has counts as what all have",
    AruOwner: "a member raises the token's aru that another one lowered",
    AruTrue: "a member reports that it has all packets up to the last one",
    Requests: "nobody asks for missing packets",
    Retransmit: "nobody answers requests",
    KeepUnsafe: "packets are given up once delivered, also if others lack them",
    TokenOnce: "a token is processed each time that it comes",
    TokenCopy: "a lost token is not sent again",
    TokenWakes: "nobody asks for a resting token, and it never goes round by itself",
    ParkSafe: "the token rests before all know that everything is safe",
    CommitFresh: "commit tokens of earlier attempts are accepted",
    CommitMembers: "a commit token with other members than agreed on is accepted",
    CommitPromise: "accepting a commit token promises nothing",
    InstallAll: "a member installs once itself is complete",
    DoneRunReset: "a member that lacks packets does not end the run of complete ones",
    TransSameRing: "the transitional configuration has all members of the new ring that were in the old one's list",
    RestartSent: "a message sent in part is not begun again in the next ring",
    SessionCounts: "a restarted daemon counts as the one before",
    JoinEqual: "a ring is formed although not all joins are equal",
    Consensus: "who does not agree in time never fails",
    Superseded: "the process that a restarted daemon replaced does not fail",
    EpochSeen: "a new ring's epoch is not above those of the others",
    TransGroups: "all members of the new ring get one transitional configuration id",
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
