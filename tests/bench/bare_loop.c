/* The loop that everything is held against: rabbitmq-c and nothing else.
 *
 *   bare_loop HOST PORT QUEUE PREFETCH COUNT ACK_EVERY [PAUSE_US [STAMPS]]
 *
 * Consumes COUNT messages, copies each body (a handler would want it whole), acks each (ACK_EVERY
 * 1) or every so many with `multiple`, prints "done" and waits for SIGTERM, so that whoever
 * measures can look at it. PAUSE_US: sleeps so long for each message, in place of a handler.
 * STAMPS: a file for a struct stamp of each message. With TLS_HOST, TLS_PORT and TLS_CA (a
 * file) in the environment it goes there, and not to HOST and PORT. */
#include <amqp.h>
#include <amqp_framing.h>
#include <amqp_ssl_socket.h>
#include <amqp_tcp_socket.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "stamp.h"

static void die(const char* what) {
  fprintf(stderr, "bare_loop: %s\n", what);
  exit(1);
}

static void check(amqp_connection_state_t connection, const char* what) {
  if (amqp_get_rpc_reply(connection).reply_type != AMQP_RESPONSE_NORMAL) die(what);
}

static void next_frame(amqp_connection_state_t connection, amqp_frame_t* frame) {
  if (amqp_simple_wait_frame(connection, frame) != AMQP_STATUS_OK) die("connection lost");
}

static void open_socket(amqp_connection_state_t connection, const char* host, int port) {
  const char* const tls_host = getenv("TLS_HOST");
  const char* const tls_port = getenv("TLS_PORT");
  const char* const ca = getenv("TLS_CA");
  amqp_socket_t* socket = NULL;
  if (tls_host != NULL && tls_port != NULL && ca != NULL) {
    host = tls_host; /* a name: rabbitmq-c holds none but names against a certificate */
    port = atoi(tls_port);
    socket = amqp_ssl_socket_new(connection);
    if (socket != NULL && amqp_ssl_socket_set_cacert(socket, ca) != AMQP_STATUS_OK) die("TLS_CA");
  } else {
    socket = amqp_tcp_socket_new(connection);
  }
  if (socket == NULL || amqp_socket_open(socket, host, port) != AMQP_STATUS_OK) die("connect");
}

int main(int argc, char** argv) {
  if (argc < 7)
    die("usage: bare_loop HOST PORT QUEUE PREFETCH COUNT ACK_EVERY [PAUSE_US [STAMPS]]");
  const uint64_t count = strtoull(argv[5], NULL, 10);
  const uint64_t prefetch = strtoull(argv[4], NULL, 10);
  const uint64_t asked = strtoull(argv[6], NULL, 10);
  const uint64_t ack_every = asked < prefetch ? asked : prefetch; /* no more can come before */
  const long pause_us = argc > 7 ? atol(argv[7]) : 0;
  struct stamp* stamps = argc > 8 ? calloc(count, sizeof *stamps) : NULL;

  amqp_connection_state_t connection = amqp_new_connection();
  open_socket(connection, argv[1], atoi(argv[2]));
  if (amqp_login(connection, "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, "guest", "guest")
          .reply_type != AMQP_RESPONSE_NORMAL)
    die("login");
  amqp_channel_open(connection, 1);
  check(connection, "channel.open");
  amqp_basic_qos(connection, 1, 0, (uint16_t)prefetch, 0);
  check(connection, "basic.qos");
  amqp_basic_consume(connection, 1, amqp_cstring_bytes(argv[3]), amqp_empty_bytes, 0, 0, 0,
                     amqp_empty_table);
  check(connection, "basic.consume");

  char* body = NULL;
  size_t capacity = 0;
  for (uint64_t n = 1; n <= count; ++n) {
    amqp_frame_t frame;
    do {
      amqp_maybe_release_buffers_on_channel(connection, 1);
      next_frame(connection, &frame);
    } while (frame.frame_type != AMQP_FRAME_METHOD ||
             frame.payload.method.id != AMQP_BASIC_DELIVER_METHOD);
    const uint64_t tag = ((amqp_basic_deliver_t*)frame.payload.method.decoded)->delivery_tag;
    next_frame(connection, &frame);
    if (frame.frame_type != AMQP_FRAME_HEADER) die("expected a header");
    const size_t size = (size_t)frame.payload.properties.body_size;
    if (size > capacity) {
      free(body);
      body = malloc(capacity = size);
      if (body == NULL) die("out of memory");
    }
    for (size_t have = 0; have < size;) {
      next_frame(connection, &frame);
      if (frame.frame_type != AMQP_FRAME_BODY) die("expected a body");
      memcpy(body + have, frame.payload.body_fragment.bytes, frame.payload.body_fragment.len);
      have += frame.payload.body_fragment.len;
      amqp_maybe_release_buffers_on_channel(connection, 1);
    }
    struct stamp stamp = {tag, 0, stamp_now(), 0};
    if (pause_us > 0) stamp_pause(pause_us);
    if (stamps != NULL && size >= sizeof stamp.published_ns) {
      memcpy(&stamp.published_ns, body, sizeof stamp.published_ns);
      stamp.end_ns = stamp_now();
      stamps[n - 1] = stamp;
    }
    if (n % ack_every == 0 || n == count) {
      if (amqp_basic_ack(connection, 1, tag, ack_every > 1) != AMQP_STATUS_OK) die("ack");
    }
  }
  if (stamps != NULL) {
    FILE* file = fopen(argv[8], "wb");
    if (file == NULL || fwrite(stamps, sizeof *stamps, count, file) != count || fclose(file) != 0)
      die("cannot write the stamps");
  }
  puts("done");
  fflush(stdout);
  for (;;) pause();
}
