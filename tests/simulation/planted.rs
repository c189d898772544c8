//! Proof that the simulation can fail: what a layer in between does wrong on purpose is noticed.

use crate::ledger::Violation;
use crate::plan::{Mischief, Plan};
use crate::run::run;
use crate::seeds::{SEEDS, on_all_cores};

/// What is noticed first, within the seeds that are run by default.
fn noticed(mischief: Mischief) -> Violation {
    let found = on_all_cores(SEEDS, 1, |seed| run(Plan::new(seed).with(mischief), false).violation);
    found.into_iter().next().unwrap_or_else(|| panic!("{mischief:?} goes unnoticed"))
}

macro_rules! planted {
    ($($name:ident: $mischief:ident => $words:literal;)*) => {
        $(
            #[test]
            fn $name() {
                let Violation(what) = noticed(Mischief::$mischief);
                let expected: Vec<&str> = $words.split(" | ").collect();
                assert!(expected.iter().any(|words| what.contains(words)), "{what}");
            }
        )*
    };
}

planted! {
    a_swapped_confirm_is_noticed: SwappedConfirm => "nacked | confirmed";
}
