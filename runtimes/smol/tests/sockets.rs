//! The sockets of the adapter.

#[test]
fn sockets_have_the_options_for_tcp() {
    smol::block_on(puka_test_suite::dialling::check_tcp_options(
        &puka_smol::Dialer,
        &puka_smol::Clock,
    ))
    .unwrap();
}
