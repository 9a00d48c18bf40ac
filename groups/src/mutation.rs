//! Rules of this crate that tests and the simulator can take out, one at a time; see the crate `mutation`.
#![cfg_attr(not(feature = "mutations"), allow(unreachable_pub, reason = "public with the feature"))]

mutation::rules! {
    Signal: "no transitional signal",
    Tables: "the exchange ends with the first table",
    Generation: "requests given to an earlier daemon view take effect",
    Renew: "requests that an exchange made stale are not given again",
    Survivors: "members of departed daemons stay in the table",
    OwnSets: "after a merge all members are in one set",
    Parted: "sides with the same id of a view are one set, also if they left it apart",
    SelfDiscard: "a self-discard message goes to its sender",
    Count: "a change does not raise the view's number",
    Changed: "a group that lost members is not announced",
    TransitionView: "a change in transition is announced like any other",
}
