//! The list of all cases, and the macros that make tests of it.

/// Makes a `#[test]` of every case, for a [`Runtime`](crate::Runtime): the modules `in_memory`, `rabbitmq`, `faults`,
/// `dialling`, `recovering`, `stopping` and `unix`. With the name of one of them behind the runtime, only that.
#[macro_export]
macro_rules! tests {
    ($Runtime:ty) => {
        $crate::tests!($Runtime, in_memory);
        $crate::tests!($Runtime, rabbitmq);
        $crate::tests!($Runtime, faults);
        $crate::tests!($Runtime, dialling);
        $crate::tests!($Runtime, recovering);
        $crate::tests!($Runtime, stopping);
        $crate::tests!($Runtime, unix);
    };
    ($Runtime:ty, recovering) => {
        $crate::theme! { $Runtime, in_memory, recovering:
            a_cut_is_survived_by_a_consumer_and_a_publish_that_waits
            s2_a_broker_that_restarts_is_taken_up_again
            notices_tell_of_the_loss_the_tries_and_the_recovery
            without_recovery_a_cut_ends_everything
            s10_a_close_during_a_recovery_wins
            s13_when_the_tries_are_used_up_whoever_waits_is_told
            a_client_that_is_dropped_during_a_recovery_is_not_dialled_for
            s17_the_first_connect_waits_for_the_broker_when_asked_to
        }
    };
    ($Runtime:ty, stopping) => {
        $crate::theme! { $Runtime, in_memory, stopping:
            a_server_that_stops_in_the_handshake_is_given_up
            a_server_that_stops_in_a_request_is_given_up
            a_server_that_stops_in_the_close_is_given_up
        }
    };
    ($Runtime:ty, unix) => {
        $crate::theme! { $Runtime, rabbitmq, unix:
            rabbitmq_can_be_reached_over_a_unix_socket
            a_missing_socket_is_a_broken_connection
        }
    };
    ($Runtime:ty, faults) => {
        $crate::theme! { $Runtime, in_memory, faults:
            a_blocked_connection_goes_on_when_the_alarm_is_over
            a_blocked_connection_can_be_closed
            a_forced_close_is_told_to_everyone
            a_cut_transport_ends_everything
            permissions_are_checked_request_by_request
            nothing_is_left_at_the_broker
            an_ended_consumer_is_delivered_nothing_again
            a_consumer_that_timed_out_empties_no_queue
        }
    };
    ($Runtime:ty, dialling) => {
        $crate::theme! { $Runtime, in_memory, dialling:
            a_host_that_does_not_resolve_is_a_broken_connection
            a_port_where_nobody_listens_is_a_broken_connection
            a_web_server_is_not_amqp
            a_server_that_speaks_another_version_is_an_unsupported_protocol
            a_server_that_says_nothing_is_given_up_in_time
            a_server_that_closes_at_once_is_a_broken_connection
        }
    };
    ($Runtime:ty, $broker:ident) => {
        mod $broker {
            use super::*;
            $crate::cases!($Runtime, $broker);
        }
    };
}

/// The cases that need a broker. [`tests`](crate::tests) calls it.
#[doc(hidden)]
#[macro_export]
macro_rules! cases {
    ($Runtime:ty, $broker:ident) => {
        $crate::theme! { $Runtime, $broker, connecting:
            connect_tells_who_the_server_is
            a_message_goes_all_the_way
            a_wrong_password_is_refused
            an_unknown_virtual_host_is_not_allowed
            either_mechanism_logs_in
            requests_do_not_wait_for_the_handshake
            small_frames_and_few_channels_are_enough
            a_frame_limit_below_the_least_is_refused
            limits_can_be_left_to_the_server
            a_single_channel_is_enough
        }
        $crate::theme! { $Runtime, $broker, scenarios:
            a_connection_may_have_properties_of_its_own
            four_messages_are_got_and_their_channels_come_back
            bad_publishes_leak_no_channel
            an_immediate_message_is_refused
            a_delivery_mode_is_absent_or_what_was_said
            a_consumer_is_cancelled_after_an_ack
            a_queue_goes_while_its_message_is_held
            acks_are_written_before_everything_is_dropped
            two_queues_of_a_consumer_go_at_once
            consumer_tags_are_chosen_in_part_and_never_the_same
            good_and_bad_publishes_take_turns
            publishes_right_behind_the_connect
        }
        $crate::theme! { $Runtime, $broker, queues:
            a_declare_tells_messages_and_consumers
            the_server_names_queues_that_have_no_name
            a_thousand_queues_are_declared_at_once
            delete_and_purge_tell_how_many_messages_went
            a_delete_can_have_conditions
            a_missing_queue_is_not_found_and_the_client_goes_on
            a_queue_is_declared_again_only_alike
            an_exclusive_queue_is_locked_for_others
            e45_an_auto_delete_queue_goes_with_its_last_consumer
            reserved_names_are_refused
            arguments_that_amqp_does_not_allow_are_refused_at_once
            a_limited_queue_keeps_the_newest
            names_may_be_any_text
        }
        $crate::theme! { $Runtime, $broker, exchanges:
            a_direct_exchange_routes_by_the_key
            a_fanout_exchange_routes_to_all
            a_topic_exchange_routes_by_patterns
            a_headers_exchange_routes_by_headers
            exchanges_are_bound_to_exchanges
            an_alternate_exchange_takes_what_is_unroutable
            an_exchange_is_declared_again_only_alike
            exchanges_are_deleted
            an_auto_delete_exchange_goes_with_its_last_binding
            a_binding_needs_both_ends
            an_internal_exchange_takes_no_publishes
            an_unknown_type_is_an_error
        }
        $crate::theme! { $Runtime, $broker, publishing:
            a_missing_exchange_fails_only_its_own_publishes
            an_unroutable_message_comes_back_whole
            an_unroutable_message_without_headers_comes_back_without
            what_no_queue_wants_is_confirmed_unless_mandatory
            every_property_arrives
            headers_of_every_type_arrive
            s50_bodies_of_every_size_arrive
            a_full_queue_that_refuses_has_the_publish_nacked
            what_the_broker_would_refuse_is_refused_at_once
            a_foreign_user_id_fails_its_own_publish
            copies_go_where_cc_and_bcc_say
            the_order_of_publishes_is_kept
            what_is_not_confirmed_arrives_in_order_and_none_is_lost_by_a_close
            what_is_not_confirmed_is_lost_without_an_exchange
            a_message_expires
            headers_that_do_not_fit_into_a_frame_are_refused
            a_message_that_is_sent_on_has_its_own_outcome
            an_error_of_one_in_many_leaves_the_others_unconfirmed
            more_exchanges_than_channels_are_published_to
            an_exchange_that_goes_and_comes_back
        }
        $crate::theme! { $Runtime, $broker, getting:
            a_message_that_was_got_is_acknowledged
            an_empty_queue_gives_none
            no_ack_has_nothing_to_settle
            a_get_that_nobody_waits_for_gives_its_message_back
            many_gets_at_once_give_every_message_once
        }
        $crate::theme! { $Runtime, $broker, consuming:
            a_consumer_is_a_stream_of_deliveries
            a_consume_fails_alone
            a_cancel_gives_back_what_was_not_handed_out
            m03_a_dropped_consumer_gives_back_what_it_has_buffered
            a_cancel_hands_out_the_rest_of_what_needs_no_ack
            basic_cancel_ends_a_consumer
            s57_deleting_the_queue_ends_its_consumers
            consumers_of_a_queue_share_its_messages
            a_hundred_consumers_live_on_one_connection
            a_consumer_beyond_the_channels_is_refused
        }
        $crate::theme! { $Runtime, $broker, consuming_multi:
            several_queues_share_a_consumer
            several_queues_share_a_prefetch_count
            either_all_queues_are_consumed_or_none
            it_ends_with_the_last_of_its_queues
        }
        $crate::theme! { $Runtime, $broker, sharing:
            consumers_of_higher_priority_come_first
            a_priority_that_is_no_number_is_refused
            a_single_active_consumer_is_followed_by_the_next
            a_takeover_leaves_what_is_held_where_it_is
            a_single_active_consumer_can_not_be_exclusive
            m13_each_end_of_a_consumer_has_its_reason
            m08_headers_larger_than_a_frame_arrive
        }
        $crate::theme! { $Runtime, $broker, arguments:
            typed_arguments_are_the_brokers_own
            a_full_queue_refuses_the_publish
            copies_go_to_further_queues
            a_binding_matches_any_header
        }
        $crate::theme! { $Runtime, $broker, prefetch:
            prefetch_is_respected
            a_higher_prefetch_count_raises_by_just_that
            a_lower_prefetch_count_holds_for_what_comes_next
            a_prefetch_count_of_zero_is_no_limit
            an_exclusive_consumer_keeps_its_prefetch_count
            changing_the_prefetch_count_in_full_flow_loses_nothing
            a_cancel_right_behind_a_change_of_the_prefetch_count_ends_one_consumer
            the_last_of_several_prefetch_counts_holds
        }
        $crate::theme! { $Runtime, $broker, settling:
            what_is_requeued_comes_again
            what_is_not_requeued_is_gone
            a_refused_message_is_dead_lettered
            a_multiple_nack_refuses_everything_before
            s56_a_multiple_ack_settles_everything_before
            a_dropped_delivery_goes_back
            acks_in_any_order_settle_their_own
            an_ack_is_not_lost_with_its_channel
            deliveries_are_settled_on_any_thread
            a_delivery_outlives_its_connection_only_as_stale
        }
        $crate::theme! { $Runtime, $broker, calling:
            a_call_is_replied_to
            many_calls_have_their_own_replies
            a_call_that_nobody_takes_says_so
            a_call_without_a_reply_ends_in_time
            a_call_chooses_its_own_way_back
            the_address_of_a_caller_can_be_asked_for
        }
        $crate::theme! { $Runtime, $broker, transactions:
            s63_what_is_committed_takes_effect_together
            s63_what_is_rolled_back_does_not_take_effect
            s63_a_commit_tells_what_came_back
            s63_a_transaction_with_a_fault_has_no_effect
            s63_many_transactions_come_and_go
        }
        $crate::theme! { $Runtime, $broker, notices:
            notices_tell_what_happened
            a_listener_alone_lets_the_connection_close
            s61_a_secret_is_renewed
            what_is_taken_back_comes_again
        }
        $crate::theme! { $Runtime, $broker, closing:
            what_was_not_settled_comes_again
            a_close_flushes_what_was_accepted
            a_close_waits_for_what_is_under_way
            a_closed_client_says_so
            dropping_the_last_handle_closes_gracefully
            the_driver_ends_with_the_connection
            dropping_the_driver_breaks_the_connection
            dropping_the_driver_early_ends_what_waits_for_the_handshake
            many_connections_open_and_close
            what_waits_for_room_ends_with_the_connection
        }
        $crate::theme! { $Runtime, $broker, limits:
            publishes_in_flight_are_bounded
            outgoing_octets_are_bounded
            requests_are_bounded
            a_dropped_future_passes_its_turn_on
            tasks_that_wait_for_room_all_have_their_turn
            buffered_deliveries_are_bounded
            a_message_that_is_too_large_says_so
        }
        $crate::theme! { $Runtime, $broker, concurrency:
            m01_every_publish_of_eight_threads_has_its_own_outcome
            s53_what_a_full_queue_has_is_what_was_confirmed
            m02_requests_of_eight_tasks_do_not_get_mixed_up
            m02_m03_dropped_futures_harm_nobody
            an_error_in_the_middle_of_ten_thousand_messages_disturbs_nothing
        }
    };
}

/// The cases of one file. [`tests`](crate::tests) calls it.
#[doc(hidden)]
#[macro_export]
macro_rules! theme {
    ($Runtime:ty, $broker:ident, $theme:ident: $($case:ident)*) => {
        mod $theme {
            use super::*;
            $(
                #[test]
                fn $case() -> $crate::Outcome {
                    $crate::run::<$Runtime>(stringify!($case), $crate::Target::$broker(), $crate::$theme::$case)
                }
            )*
        }
    };
}

/// Asserts that a result is an error of this kind.
macro_rules! assert_error {
    ($result:expr, $pattern:pat $(if $guard:expr)?) => {{
        let result = $result;
        assert!(matches!(&result, Err($pattern) $(if $guard)?), "{result:?}");
    }};
}

pub(crate) use assert_error;
