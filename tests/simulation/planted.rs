//! Proof that the simulation can fail: what a layer in between does wrong on purpose is noticed.

use crate::ledger::Violation;
use crate::plan::{Mischief, Plan};
use crate::run::run;
use crate::seeds::{SEEDS, on_all_cores};

/// What is noticed first, within the seeds that are run by default.
fn noticed(mischief: Mischief) -> Violation {
    let found = on_all_cores(SEEDS, 1, |seed| {
        run(Plan::new(seed).with(mischief), false).violation
    });
    found
        .into_iter()
        .next()
        .unwrap_or_else(|| panic!("{mischief:?} goes unnoticed"))
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
    a_lost_confirm_is_noticed: LostConfirm => "Publish | nacked and";
    a_return_that_finds_another_publish_is_noticed: SwappedReturns => "I3 | refused";
    a_lost_reply_is_noticed: LostReply => "Queue | consumers | bindings";
    a_lost_ack_is_noticed: LostAck => "acknowledged | unsettled";
    an_ack_that_covers_too_much_is_noticed: WideAck => "I4 | unknown delivery tag | prefetch";
    octets_that_come_twice_are_noticed: RepeatedOctets => "reason | I6 | answered";
    a_forgotten_redelivery_is_noticed: ForgottenRedelivery => "I5 | out of order";
    a_wrong_outcome_is_noticed: WrongOutcome => "I1";
    an_answer_that_is_not_given_is_noticed: LostAnswer => "waits for | never answered";
    a_publish_that_is_sent_twice_is_noticed: RepeatedPublish => "twice | reason";
    a_lost_cancel_is_noticed: LostCancel => "Cancel | reason | are wanted";
    a_close_that_is_not_sent_is_noticed: LateClose => "Close";
    a_lost_octet_is_noticed: LostOctet => "reason | panic | I9";
    an_empty_queue_name_is_noticed: EmptyName => "empty queue name";
    a_confirm_that_covers_too_much_is_noticed: WideConfirm => "has not confirmed it | nacked";
    a_message_to_another_name_is_noticed: OtherName => "reached no queue";
    a_channel_that_is_said_to_live_is_noticed: KeptChannel => "are wanted | had to succeed | reason | acknowledged | unsettled";
    channels_that_gets_use_up_are_noticed: CrowdedChannels => "had to succeed | reason | waited for";
    a_queue_that_is_back_is_noticed: Resurrection => "is back";
    a_content_without_an_end_is_noticed: EndlessContent => "reason | had to succeed | waited for";
    a_consumer_that_is_not_let_go_is_noticed: UnansweredCancel => "are wanted | reason | I4";
    contents_without_a_bound_are_noticed: UnboundContents => "received in part";
    a_close_that_says_nothing_is_noticed: SilentClose => "left";
    a_consumer_refused_for_good_is_noticed: RefusedForGood => "before its patience";
    channels_beyond_a_fallen_limit_are_noticed: KeptChannelMax => "the channel_max is | 530";
}
