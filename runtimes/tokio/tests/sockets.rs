//! The sockets of the adapter.

#[tokio::test]
async fn sockets_have_the_options_for_tcp() {
    puka_test_suite::dialling::check_tcp_options(&puka_tokio::Dialer, &puka_tokio::Clock)
        .await
        .unwrap();
}
