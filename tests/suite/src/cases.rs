//! The list of all cases, and the macros that turn them into tests.

/// Defines a `#[test]` for every case on a [`Runtime`](crate::Runtime): the modules `in_memory`,
/// `rabbitmq`, `faults`, `dialling`, `recovering`, `stopping` and `unix`. With the name of one of
/// them after the runtime, only that one.
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
            consumer_and_pending_publish_survive_a_loss
            s2_client_recovers_after_a_broker_restart
            notices_report_loss_attempts_and_recovery
            loss_without_recovery_ends_everything
            s10_close_during_recovery_wins
            s13_last_attempt_completes_everything_pending
            dropping_the_client_ends_its_recovery
            s17_first_connect_can_wait_for_the_broker
        }
    };
    ($Runtime:ty, stopping) => {
        $crate::theme! { $Runtime, in_memory, stopping:
            server_stopping_in_the_handshake_is_given_up
            server_stopping_in_a_request_is_given_up
            server_stopping_in_the_close_is_given_up
        }
    };
    ($Runtime:ty, unix) => {
        $crate::theme! { $Runtime, rabbitmq, unix:
            rabbitmq_can_be_reached_over_a_unix_socket
            missing_socket_is_a_broken_connection
        }
    };
    ($Runtime:ty, faults) => {
        $crate::theme! { $Runtime, in_memory, faults:
            blocked_connection_continues_after_the_alarm
            blocked_connection_can_be_closed
            forced_close_ends_everything_with_its_text
            cut_transport_ends_everything
            permissions_are_checked_request_by_request
            nothing_is_left_at_the_broker
            ended_consumer_is_delivered_nothing_again
            consumer_that_timed_out_empties_no_queue
        }
    };
    ($Runtime:ty, dialling) => {
        $crate::theme! { $Runtime, in_memory, dialling:
            unresolvable_host_is_a_broken_connection
            closed_port_is_a_broken_connection
            web_server_is_not_amqp
            another_version_is_an_unsupported_protocol
            silent_server_is_given_up_in_time
            immediate_close_is_a_broken_connection
            every_endpoint_has_its_own_cause
            silent_endpoint_does_not_delay_the_next
        }
    };
    ($Runtime:ty, $broker:ident) => {
        mod $broker {
            use super::*;
            $crate::cases!($Runtime, $broker);
        }
    };
}

/// Lists the cases that need a broker. [`tests`](crate::tests) calls it.
#[doc(hidden)]
#[macro_export]
macro_rules! cases {
    ($Runtime:ty, $broker:ident) => {
        $crate::theme! { $Runtime, $broker, connecting:
            connect_returns_the_server_properties
            message_is_published_and_consumed
            wrong_password_is_refused
            unknown_virtual_host_is_not_allowed
            either_mechanism_logs_in
            requests_do_not_wait_for_the_handshake
            small_frames_and_few_channels_are_enough
            frame_limit_below_the_minimum_is_refused
            limits_can_be_left_to_the_server
            single_channel_is_enough
        }
        $crate::theme! { $Runtime, $broker, scenarios:
            connection_may_have_custom_properties
            channels_of_four_gets_are_reused
            bad_publishes_leak_no_channel
            immediate_message_is_refused
            delivery_mode_is_absent_by_default
            consumer_is_cancelled_after_an_ack
            queue_is_deleted_during_an_unsettled_get
            acks_are_written_before_everything_is_dropped
            consumer_survives_deletion_of_two_queues
            consumer_tags_are_unique_with_a_chosen_part
            good_and_bad_publishes_take_turns
            publishes_directly_after_the_connect_succeed
        }
        $crate::theme! { $Runtime, $broker, queues:
            declare_returns_message_and_consumer_counts
            server_names_queues_without_a_name
            thousand_queues_are_declared_at_once
            delete_and_purge_return_message_counts
            delete_accepts_conditions
            missing_queue_is_not_found
            queue_is_declared_again_only_identically
            exclusive_queue_is_locked_for_others
            e45_auto_delete_queue_ends_with_its_last_consumer
            reserved_names_are_refused
            invalid_arguments_are_refused_locally
            limited_queue_keeps_the_newest_messages
            names_may_be_any_text
        }
        $crate::theme! { $Runtime, $broker, exchanges:
            direct_exchange_routes_by_the_key
            fanout_exchange_routes_to_all
            topic_exchange_routes_by_patterns
            headers_exchange_routes_by_headers
            exchanges_are_bound_to_exchanges
            alternate_exchange_receives_unroutable_messages
            exchange_is_declared_again_only_identically
            exchanges_are_deleted
            auto_delete_exchange_ends_with_its_last_binding
            binding_needs_both_ends
            internal_exchange_refuses_publishes
            unknown_type_is_an_error
        }
        $crate::theme! { $Runtime, $broker, publishing:
            missing_exchange_fails_only_its_own_publishes
            unroutable_message_is_returned_complete
            return_without_headers_has_no_headers
            unroutable_message_is_confirmed_unless_mandatory
            publish_to_a_refusing_queue_is_nacked
            foreign_user_id_fails_its_own_publish
            cc_and_bcc_route_copies
            order_of_publishes_is_kept
            unconfirmed_messages_arrive_in_order_before_the_close
            unconfirmed_message_to_a_missing_exchange_is_lost
            message_expires
            forwarded_message_has_its_own_outcome
            channel_error_leaves_other_publishes_unconfirmed
            more_exchanges_than_channels_are_published_to
            exchange_can_be_deleted_and_declared_again
        }
        $crate::theme! { $Runtime, $broker, messages:
            every_property_arrives
            headers_of_every_type_arrive
            properties_replace_an_invalid_value
            s50_bodies_of_every_size_arrive
            invalid_messages_are_refused_locally
            headers_larger_than_a_frame_are_refused
        }
        $crate::theme! { $Runtime, $broker, getting:
            message_from_get_is_acknowledged
            get_from_an_empty_queue_is_none
            no_ack_has_nothing_to_settle
            dropped_get_requeues_its_message
            concurrent_gets_return_every_message_once
        }
        $crate::theme! { $Runtime, $broker, consuming:
            consumer_is_a_stream_of_deliveries
            failed_consume_affects_nothing_else
            cancel_requeues_buffered_deliveries
            m03_dropped_consumer_requeues_buffered_deliveries
            cancel_keeps_buffered_no_ack_deliveries
            basic_cancel_ends_a_consumer
            s57_deleting_the_queue_ends_its_consumers
            consumers_of_a_queue_share_its_messages
            hundred_consumers_share_one_connection
            consumer_beyond_the_channels_is_refused
        }
        $crate::theme! { $Runtime, $broker, consuming_multi:
            several_queues_share_a_consumer
            several_queues_share_a_prefetch_count
            either_all_queues_are_consumed_or_none
            consumer_ends_with_its_last_queue
        }
        $crate::theme! { $Runtime, $broker, sharing:
            consumers_of_higher_priority_are_served_first
            non_numeric_priority_is_refused
            next_consumer_replaces_the_single_active_one
            takeover_keeps_unsettled_deliveries
            single_active_consumer_can_not_be_exclusive
            m13_each_end_of_a_consumer_has_its_reason
            m08_headers_larger_than_a_frame_arrive
        }
        $crate::theme! { $Runtime, $broker, arguments:
            typed_arguments_are_the_brokers_own
            full_queue_refuses_the_publish
            copies_are_routed_to_more_queues
            binding_matches_any_header
        }
        $crate::theme! { $Runtime, $broker, prefetch:
            prefetch_is_respected
            higher_prefetch_count_allows_exactly_more
            lower_prefetch_count_limits_later_deliveries
            prefetch_count_of_zero_is_no_limit
            exclusive_consumer_keeps_its_prefetch_count
            changing_the_prefetch_count_loses_nothing
            cancel_during_a_prefetch_change_ends_one_consumer
            last_of_several_prefetch_counts_applies
        }
        $crate::theme! { $Runtime, $broker, settling:
            requeued_message_is_delivered_again
            message_rejected_without_requeue_is_removed
            refused_message_is_dead_lettered
            multiple_nack_refuses_everything_before
            s56_multiple_ack_settles_everything_before
            dropped_delivery_is_requeued
            acks_in_any_order_settle_their_own
            ack_is_not_lost_with_its_channel
            deliveries_are_settled_on_any_thread
            delivery_of_a_lost_connection_is_stale
        }
        $crate::theme! { $Runtime, $broker, calling:
            call_is_replied_to
            many_calls_have_their_own_replies
            unroutable_call_fails
            call_without_a_reply_ends_in_time
            call_may_choose_its_reply_queue
            caller_address_can_be_checked
        }
        $crate::theme! { $Runtime, $broker, transactions:
            s63_committed_work_takes_effect_together
            s63_rolled_back_work_has_no_effect
            s63_commit_returns_unroutable_messages
            s63_transaction_with_a_fault_has_no_effect
            s63_many_transactions_leak_no_channel
        }
        $crate::theme! { $Runtime, $broker, notices:
            notices_report_events_in_order
            listener_alone_lets_the_connection_close
            s61_secret_is_renewed
            recovered_deliveries_are_delivered_again
        }
        $crate::theme! { $Runtime, $broker, closing:
            close_requeues_unsettled_messages
            close_flushes_accepted_messages
            close_waits_for_pending_promises
            closed_client_returns_closed
            dropping_the_last_handle_closes_gracefully
            driver_ends_with_the_connection
            dropping_the_driver_breaks_the_connection
            dropping_the_driver_ends_the_handshake
            many_connections_open_and_close
            waiting_for_capacity_ends_with_the_connection
        }
        $crate::theme! { $Runtime, $broker, limits:
            publishes_in_flight_are_bounded
            refused_recover_keeps_deliveries
            outgoing_bytes_are_bounded
            requests_are_bounded
            dropped_future_passes_its_turn_on
            tasks_waiting_for_capacity_all_complete
            buffered_deliveries_are_bounded
            too_large_message_is_an_error
        }
        $crate::theme! { $Runtime, $broker, concurrency:
            m01_publishes_of_eight_threads_have_own_outcomes
            s53_full_queue_contains_exactly_the_confirmed_messages
            m02_requests_of_eight_tasks_stay_separate
            m02_m03_dropped_futures_are_harmless
            errors_among_ten_thousand_messages_stay_separate
        }
    };
}

/// Defines the tests of one file of cases. [`tests`](crate::tests) calls it.
#[doc(hidden)]
#[macro_export]
macro_rules! theme {
    ($Runtime:ty, $broker:ident, $theme:ident: $($case:ident)*) => {
        mod $theme {
            use super::*;
            $(
                #[test]
                fn $case() -> $crate::Outcome {
                    $crate::run::<$Runtime>(
                        stringify!($case),
                        $crate::Target::$broker(),
                        $crate::$theme::$case,
                    )
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
