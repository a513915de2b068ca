/* What a bare loop gets out of the broker when it publishes as well: rabbitmq-c and nothing else.
 *
 *   bare_forward HOST PORT FROM TO PREFETCH COUNT persistent|transient
 *
 * Consumes COUNT messages from queue FROM on one connection, publishes each body to queue TO on a
 * second one (mandatory, with a message id), and acks those whose publication the broker has
 * confirmed, as many at a time as there are. Prints "done" and waits for SIGTERM. */
#include <amqp.h>
#include <amqp_framing.h>
#include <amqp_tcp_socket.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

static void die(const char* what) {
  fprintf(stderr, "bare_forward: %s\n", what);
  exit(1);
}

static void check(amqp_connection_state_t connection, const char* what) {
  if (amqp_get_rpc_reply(connection).reply_type != AMQP_RESPONSE_NORMAL) die(what);
}

static amqp_connection_state_t connect_to(const char* host, int port) {
  amqp_connection_state_t connection = amqp_new_connection();
  amqp_socket_t* socket = amqp_tcp_socket_new(connection);
  if (socket == NULL || amqp_socket_open(socket, host, port) != AMQP_STATUS_OK) die("connect");
  if (amqp_login(connection, "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, "guest", "guest")
          .reply_type != AMQP_RESPONSE_NORMAL)
    die("login");
  amqp_channel_open(connection, 1);
  check(connection, "channel.open");
  return connection;
}

/* Returns 0 when nothing is there to be read. */
static int next_frame(amqp_connection_state_t connection, amqp_frame_t* frame) {
  struct timeval now = {0, 0};
  amqp_maybe_release_buffers_on_channel(connection, 1);
  const int status = amqp_simple_wait_frame_noblock(connection, frame, &now);
  if (status == AMQP_STATUS_TIMEOUT) return 0;
  if (status != AMQP_STATUS_OK) die("connection lost");
  return 1;
}

static void need_frame(amqp_connection_state_t connection, amqp_frame_t* frame, int type) {
  if (amqp_simple_wait_frame(connection, frame) != AMQP_STATUS_OK) die("connection lost");
  if (frame->frame_type != type) die("frame of another type expected");
}

/* Delivery and publication carry the same number, for both are counted from 1. */
static void forward(amqp_connection_state_t in, amqp_connection_state_t out, const char* to,
                    uint8_t delivery_mode, uint64_t number) {
  static char* body = NULL;
  static size_t capacity = 0;
  amqp_frame_t frame;
  need_frame(in, &frame, AMQP_FRAME_HEADER);
  const size_t size = (size_t)frame.payload.properties.body_size;
  if (size > capacity) {
    free(body);
    body = malloc(capacity = size);
    if (body == NULL) die("out of memory");
  }
  for (size_t have = 0; have < size;) {
    need_frame(in, &frame, AMQP_FRAME_BODY);
    memcpy(body + have, frame.payload.body_fragment.bytes, frame.payload.body_fragment.len);
    have += frame.payload.body_fragment.len;
  }
  char id[32];
  snprintf(id, sizeof id, "m-%llu", (unsigned long long)number);
  amqp_basic_properties_t properties;
  memset(&properties, 0, sizeof properties);
  properties._flags = AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_MESSAGE_ID_FLAG;
  properties.delivery_mode = delivery_mode;
  properties.message_id = amqp_cstring_bytes(id);
  const amqp_bytes_t bytes = {size, body};
  if (amqp_basic_publish(out, 1, amqp_empty_bytes, amqp_cstring_bytes(to), 1, 0, &properties,
                         bytes) != AMQP_STATUS_OK)
    die("publish");
}

int main(int argc, char** argv) {
  if (argc != 8) {
    die("usage: bare_forward HOST PORT FROM TO PREFETCH COUNT persistent|transient");
  }
  const uint8_t delivery_mode = strcmp(argv[7], "persistent") == 0 ? 2 : 1;
  const int port = atoi(argv[2]);
  const uint64_t prefetch = strtoull(argv[5], NULL, 10);
  const uint64_t count = strtoull(argv[6], NULL, 10);
  char* confirmed = calloc(count + 1, 1);
  if (confirmed == NULL) die("out of memory");
  amqp_connection_state_t in = connect_to(argv[1], port);
  amqp_connection_state_t out = connect_to(argv[1], port);
  amqp_confirm_select(out, 1);
  check(out, "confirm.select");
  amqp_basic_qos(in, 1, 0, (uint16_t)prefetch, 0);
  check(in, "basic.qos");
  amqp_basic_consume(in, 1, amqp_cstring_bytes(argv[3]), amqp_empty_bytes, 0, 0, 0,
                     amqp_empty_table);
  check(in, "basic.consume");

  uint64_t acked = 0;   /* all up to this one */
  uint64_t covered = 0; /* a confirm with `multiple` covered all up to this one */
  while (acked < count) {
    amqp_frame_t frame;
    /* Some at a time, so that the confirms get their turn. */
    for (uint64_t n = 0; n < 64 && next_frame(in, &frame); ++n) {
      if (frame.frame_type != AMQP_FRAME_METHOD ||
          frame.payload.method.id != AMQP_BASIC_DELIVER_METHOD)
        die("expected a delivery");
      forward(in, out, argv[4], delivery_mode,
              ((amqp_basic_deliver_t*)frame.payload.method.decoded)->delivery_tag);
    }
    while (next_frame(out, &frame)) {
      if (frame.frame_type != AMQP_FRAME_METHOD || frame.payload.method.id != AMQP_BASIC_ACK_METHOD)
        die("expected a confirm");
      const amqp_basic_ack_t* ack = frame.payload.method.decoded;
      if (ack->delivery_tag > count) die("confirm of a number never sent");
      if (ack->multiple) {
        if (ack->delivery_tag > covered) covered = ack->delivery_tag;
      } else {
        confirmed[ack->delivery_tag] = 1;
      }
    }
    uint64_t upto = acked > covered ? acked : covered;
    while (upto < count && confirmed[upto + 1]) ++upto;
    if (upto > acked) {
      if (amqp_basic_ack(in, 1, upto, 1) != AMQP_STATUS_OK) die("ack");
      acked = upto;
    } else {
      struct pollfd fds[2] = {{amqp_get_sockfd(in), POLLIN, 0}, {amqp_get_sockfd(out), POLLIN, 0}};
      if (!amqp_frames_enqueued(in) && !amqp_data_in_buffer(in)) poll(fds, 2, 1000);
    }
  }
  puts("done");
  fflush(stdout);
  for (;;) pause();
}
