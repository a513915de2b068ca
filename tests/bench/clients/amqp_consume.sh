#!/bin/sh
# amqp-consume as a contender: HOST PORT QUEUE PREFETCH COUNT, and the command for each message. One
# that does not read its input ends it.
host=$1 port=$2 queue=$3 prefetch=$4 count=$5
shift 5
amqp-consume --server="$host" --port="$port" --queue="$queue" --prefetch-count="$prefetch" --count="$count" "$@" &&
  echo 'done'
