//! Proof that the simulation can fail: it detects planted faults.

use crate::plan::{Plan, PlantedFault};
use crate::run::run;
use crate::seeds::{SEEDS, on_all_cores};
use crate::violation::Violation;

/// Returns the first violation among the default number of seeds.
fn first_violation(planted_fault: PlantedFault) -> Violation {
    let found = on_all_cores(SEEDS, 1, |seed| {
        run(Plan::new(seed).with(planted_fault), false).violation
    });
    found
        .into_iter()
        .next()
        .unwrap_or_else(|| panic!("{planted_fault:?} is not detected"))
}

macro_rules! planted {
    ($($name:ident: $planted_fault:ident => $words:literal;)*) => {
        $(
            #[test]
            fn $name() {
                let Violation(what) = first_violation(PlantedFault::$planted_fault);
                let expected: Vec<&str> = $words.split(" | ").collect();
                assert!(expected.iter().any(|words| what.contains(words)), "{what}");
            }
        )*
    };
}

planted! {
    swapped_confirm_is_detected: SwappedConfirm => "nacked | confirmed";
    lost_confirm_is_detected: LostConfirm => "Publish | nacked and";
    swapped_return_is_detected: SwappedReturns => "I3 | refused";
    lost_reply_is_detected: LostReply => "Queue | consumers | bindings | declared | I15";
    lost_ack_is_detected: LostAck => "acknowledged | unsettled";
    too_wide_ack_is_detected: WideAck =>
        "I4 | unknown delivery tag | prefetch | stale without a reason";
    repeated_bytes_are_detected: RepeatedBytes => "reason | I6 | completed";
    forgotten_redelivery_is_detected: ForgottenRedelivery => "I5 | out of order";
    wrong_outcome_is_detected: WrongOutcome => "I1:";
    missing_outcome_is_detected: LostOutcome => "is pending for | never completed";
    repeated_publish_is_detected: RepeatedPublish => "twice | reason";
    lost_cancel_is_detected: LostCancel => "Cancel | reason | are expected";
    delayed_close_is_detected: LateClose => "Close";
    lost_byte_is_detected: LostByte => "reason | panic | I9";
    empty_queue_name_is_detected: EmptyName => "empty queue name";
    too_wide_confirm_is_detected: WideConfirm => "has not confirmed it | nacked";
    message_to_another_name_is_detected: OtherName => "reached no queue";
    channel_kept_after_its_close_is_detected: KeptChannel =>
        "are expected | had to succeed | reason | acknowledged | unsettled";
    channels_exhausted_by_gets_are_detected: CrowdedChannels =>
        "had to succeed | reason | is pending";
    resurrected_queue_is_detected: Resurrection => "was restored";
    endless_content_is_detected: EndlessContent => "reason | had to succeed | waited for";
    unanswered_cancel_is_detected: UnansweredCancel => "are expected | reason | I4";
    unbounded_contents_are_detected: UnboundContents => "partly received";
    silent_close_is_detected: SilentClose => "left";
    consumer_refused_too_early_is_detected: RefusedForGood => "too early | reason";
    timeout_handled_before_reading_is_detected: HastyTimeout => "reason";
    lost_notice_of_an_interruption_is_detected: LostInterruption => "not as missing before";
    other_reason_of_an_interruption_is_detected: OtherCause => "was interrupted by | reason";
    consumer_ended_by_a_crash_is_detected: EndedByCrash => "without a reason | interrupted by";
    stale_delivery_is_detected: StaleDelivery => "of a closed channel";
    client_that_gives_up_is_detected: GivenUp => "I14";
    kept_endpoint_is_detected: KeptEndpoint => "is not open";
    short_report_is_detected: ShortReport => "I15";
    dials_without_delays_are_detected: HastyDial => "I13";
    restarts_without_delays_are_detected: HastyRestart => "I13 | reason | early | refused restart";
    endless_redeliveries_are_detected: ReturnedDeliveries => "I13";
    channels_beyond_a_lowered_limit_are_detected: KeptChannelMax => "the channel_max is | 530";
}
