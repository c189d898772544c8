//! The sockets of the adapter.

#[test]
fn sockets_have_the_options_for_tcp() {
    async_std::task::block_on(puka_test_suite::dialling::check_tcp_options(
        &puka_async_std::Dialer,
        &puka_async_std::Clock,
    ))
    .unwrap();
}
