/* The work on rabbitmq-c. The arguments are those of every program: KIND SIZE MESSAGES QUEUE, with
 * AMQP_URL. Prints the nanoseconds that it took: elapsed time and CPU time. */

#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { CHANNEL = 1, WINDOW = 1000 };

static amqp_connection_state_t conn;

static void must(int good, const char *what)
{
    if (!good) {
        fprintf(stderr, "rabbitmq-c: %s\n", what);
        exit(1);
    }
}

static void must_reply(const char *what)
{
    must(amqp_get_rpc_reply(conn).reply_type == AMQP_RESPONSE_NORMAL, what);
}

static uint64_t now(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static void connect_to(char *url)
{
    struct amqp_connection_info info;
    must(amqp_parse_url(url, &info) == AMQP_STATUS_OK, "the URL");
    conn = amqp_new_connection();
    amqp_socket_t *socket = amqp_tcp_socket_new(conn);
    must(amqp_socket_open(socket, info.host, info.port) == AMQP_STATUS_OK, "no connection");
    amqp_rpc_reply_t login = amqp_login(conn, info.vhost, 0, 131072, 0, AMQP_SASL_METHOD_PLAIN,
                                        info.user, info.password);
    must(login.reply_type == AMQP_RESPONSE_NORMAL, "the login");
    amqp_channel_open(conn, CHANNEL);
    must_reply("the channel");
}

static void publish_one(amqp_bytes_t body)
{
    int status = amqp_basic_publish(conn, CHANNEL, amqp_cstring_bytes("amq.fanout"),
                                    amqp_empty_bytes, 0, 0, NULL, body);
    must(status == AMQP_STATUS_OK, "a publish");
}

static void publish(uint64_t messages, amqp_bytes_t body)
{
    while (messages-- > 0)
        publish_one(body);
    amqp_basic_qos(conn, CHANNEL, 0, 0, 0);
    must_reply("the end");
}

/* The confirmed publishes behind an unconfirmed one, by tag. */
static char confirmed[2 * WINDOW];

/* Reads the received confirms, at least one. Returns the number of publishes without a gap that are
 * confirmed. */
static uint64_t settle(uint64_t settled)
{
    do {
        amqp_frame_t frame;
        amqp_maybe_release_buffers(conn);
        must(amqp_simple_wait_frame(conn, &frame) == AMQP_STATUS_OK, "a confirm");
        must(frame.frame_type == AMQP_FRAME_METHOD &&
                 frame.payload.method.id == AMQP_BASIC_ACK_METHOD,
             "no ack");
        amqp_basic_ack_t *ack = frame.payload.method.decoded;
        if (ack->multiple)
            for (uint64_t tag = settled + 1; tag < ack->delivery_tag; tag++)
                confirmed[tag % (2 * WINDOW)] = 1;
        confirmed[ack->delivery_tag % (2 * WINDOW)] = 1;
        for (char *next; *(next = &confirmed[(settled + 1) % (2 * WINDOW)]); settled++)
            *next = 0;
    } while (amqp_data_in_buffer(conn) || amqp_frames_enqueued(conn));
    return settled;
}

static void confirm(uint64_t messages, amqp_bytes_t body)
{
    uint64_t settled = 0;
    for (uint64_t sent = 0; sent < messages; sent++) {
        while (sent - settled >= WINDOW)
            settled = settle(settled);
        publish_one(body);
    }
    while (settled < messages)
        settled = settle(settled);
}

static void consume(uint64_t messages, size_t size, const char *queue, int acks)
{
    if (acks) {
        amqp_basic_qos(conn, CHANNEL, 0, WINDOW, 0);
        must_reply("the prefetch");
    }
    amqp_bytes_t tag = amqp_cstring_bytes("tag");
    amqp_basic_consume(conn, CHANNEL, amqp_cstring_bytes(queue), tag, 0, !acks, 0,
                       amqp_empty_table);
    must_reply("the consumer");
    while (messages-- > 0) {
        amqp_envelope_t envelope;
        amqp_maybe_release_buffers(conn);
        amqp_rpc_reply_t reply = amqp_consume_message(conn, &envelope, NULL, 0);
        must(reply.reply_type == AMQP_RESPONSE_NORMAL, "a delivery");
        must(envelope.message.body.len == size, "an incomplete delivery");
        if (acks) {
            int status = amqp_basic_ack(conn, CHANNEL, envelope.delivery_tag, 0);
            must(status == AMQP_STATUS_OK, "an ack");
        }
        amqp_destroy_envelope(&envelope);
    }
    if (acks) {
        amqp_basic_cancel(conn, CHANNEL, tag);
        must_reply("the end");
    }
}

int main(int count, char **arguments)
{
    char *url = getenv("AMQP_URL");
    must(count == 5 && url != NULL, "usage: AMQP_URL=... rabbitmq-c KIND SIZE MESSAGES QUEUE");
    const char *kind = arguments[1];
    size_t size = strtoul(arguments[2], NULL, 10);
    uint64_t messages = strtoull(arguments[3], NULL, 10);
    amqp_bytes_t body = amqp_bytes_malloc(size);
    memset(body.bytes, 'x', size);

    connect_to(url);
    if (strcmp(kind, "confirm") == 0) {
        amqp_confirm_select(conn, CHANNEL);
        must_reply("no confirms");
    }
    uint64_t time = now(CLOCK_MONOTONIC);
    uint64_t cpu = now(CLOCK_PROCESS_CPUTIME_ID);
    if (strcmp(kind, "publish") == 0)
        publish(messages, body);
    else if (strcmp(kind, "confirm") == 0)
        confirm(messages, body);
    else
        consume(messages, size, arguments[4], strcmp(kind, "ack") == 0);
    time = now(CLOCK_MONOTONIC) - time;
    cpu = now(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    printf("%llu %llu\n", (unsigned long long)time, (unsigned long long)cpu);
    return 0;
}
