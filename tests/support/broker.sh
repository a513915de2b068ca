#!/usr/bin/env bash
# A private RabbitMQ node for tests and demos, beside and independent of any broker on the machine:
# own node name, files, cookie and epmd, free ports on 127.0.0.1. Needs Debian's rabbitmq-server.
#
#   broker.sh start NODE        start it and wait until it serves; prints its AMQP URL
#   broker.sh start NODE TLS    the same; when it is new it has a TLS listener too, with ca.pem, server.pem and
#                               server.key of the folder TLS, and lets in who proves by a certificate to be a user
#   broker.sh join NODE OTHER   the same, in one cluster with OTHER, which runs; OTHER is to be removed last
#   broker.sh wait NODE         wait until it serves
#   broker.sh stop NODE         stop it in good order; its files and ports stay for the next start
#   broker.sh kill NODE         end it with SIGKILL
#   broker.sh remove NODE       stop it, end its epmd, delete its files (the log becomes NODE.log)
#   broker.sh ctl NODE ARG...   rabbitmqctl on it
#   broker.sh running NODE      exit 0 when it runs
#   broker.sh url NODE          its AMQP URL
#   broker.sh tls-port NODE     the port of its TLS listener
#
# NODE is a name, kept under build/broker, or the path of its folder. NODE/env holds its variables.
#
# What start and join make new takes from the environment: LOPE_TEST_NODE_HOST=NAME=ADDRESS, where it is instead of
# localhost=127.0.0.1 (NAME is found in /etc/hosts), and LOPE_TEST_NODE_CONF, more lines of its rabbitmq.conf.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
rabbitmq=/usr/lib/rabbitmq/bin # those on PATH change the user
start_deadline=60
stop_deadline=30

die() {
  echo "broker.sh: $*" >&2
  exit 1
}

usage() {
  sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
}

# Asks again every 20 ms until the command succeeds; fails after $1 seconds.
eventually() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < end)) || return 1
    read -r -t 0.02 <> <(:) || true
  done
}

# A process is known by its id and its start time, so that a number used again is never taken for it.
start_time() {
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  stat=${stat##*) }
  # shellcheck disable=SC2086
  set -- $stat
  [[ $1 != Z ]] && echo "${20}"
}

remember() { # FILE PID
  echo "$2 $(start_time "$2")" >"$1"
}

# Prints the process id that FILE remembers when that process is still there.
recall() {
  local pid started
  [[ -r $1 ]] && read -r pid started <"$1" || return 1
  [[ -n ${started:-} && $(start_time "$pid") == "$started" ]] && echo "$pid"
}

gone() {
  ! recall "$1" >/dev/null
}

# Four free ports below the range the kernel takes client ports from: there nobody is given one by
# chance while the node is down, and no client that retries connects to itself.
free_ports() {
  python3 - <<'PY'
import random
import socket

with open("/proc/sys/net/ipv4/ip_local_port_range") as f:
    low, high = (int(word) for word in f.read().split())
wanted = range(15000, low) if low > 16000 else range(min(high + 1, 65000), 65535)
found = []
for port in random.sample(wanted, min(500, len(wanted))):
    with socket.socket() as s:
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            continue
    found.append(str(port))
    if len(found) == 4:
        break
else:
    raise SystemExit("no four free ports on 127.0.0.1")
print(*found)
PY
}

create() {
  [[ -x $rabbitmq/rabbitmq-server ]] || die "$rabbitmq/rabbitmq-server is not there: run ./dev setup"
  local amqp dist epmd tls_port cookie other=${1:-} tls=${2:-} at=${LOPE_TEST_NODE_HOST:-localhost=127.0.0.1}
  local host=${at%%=*} address=${at#*=}
  read -r amqp dist epmd tls_port < <(free_ports) || die "cannot find free ports"
  mkdir -p "$dir"/{home,data,log}
  if [[ -n $other ]]; then
    [[ -r $other/env ]] || die "no node '$other' to join"
    epmd=$(dir=$other value_of ERL_EPMD_PORT)
    cookie=$(cat "$other/home/.erlang.cookie")
  else
    cookie=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
  fi
  (umask 077 && echo -n "$cookie" >"$dir/home/.erlang.cookie" && chmod 400 "$dir/home/.erlang.cookie")
  echo '[].' >"$dir/enabled_plugins"
  : >"$dir/rabbitmq-env.conf"
  cat >"$dir/rabbitmq.conf" <<CONF
listeners.tcp.1 = $address:$amqp
loopback_users = none
${LOPE_TEST_NODE_CONF:-}
CONF
  if [[ -n $other ]]; then
    cat >>"$dir/rabbitmq.conf" <<CONF
cluster_formation.peer_discovery_backend = classic_config
cluster_formation.classic_config.nodes.1 = $(dir=$other value_of RABBITMQ_NODENAME)
CONF
  fi
  if [[ -n $tls ]]; then
    echo '[rabbitmq_auth_mechanism_ssl].' >"$dir/enabled_plugins"
    cat >>"$dir/rabbitmq.conf" <<CONF
listeners.ssl.1 = $address:$tls_port
ssl_options.cacertfile = $tls/ca.pem
ssl_options.certfile = $tls/server.pem
ssl_options.keyfile = $tls/server.key
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = false
auth_mechanisms.1 = PLAIN
auth_mechanisms.2 = EXTERNAL
ssl_cert_login_from = common_name
CONF
  fi
  # A node that starts serves its queues before it knows its exchanges again. What quorum queues were
  # to dead-letter in that moment they try again only after this time, 3 minutes by default.
  echo '[{rabbit, [{dead_letter_worker_publisher_confirm_timeout, 2000}]}].' >"$dir/advanced.config"
  cat >"$dir/env" <<ENV
export LOPE_TEST_AMQP_URL=amqp://guest:guest@$address:$amqp
export LOPE_TEST_BROKER_DIR=$(printf %q "$dir")
export HOME=$(printf %q "$dir/home")
export ERL_EPMD_ADDRESS=$([[ $host != localhost ]] || echo "$address")
export ERL_EPMD_PORT=$epmd
export RABBITMQ_NODENAME=lope-$(basename "$dir")-$$@$host
export RABBITMQ_DIST_PORT=$dist
export NODE_ADDRESS=$address
export LOPE_TEST_TLS_PORT=$tls_port
ENV
}

# Becomes a command with the node's environment and nothing of ours that could change it.
exec_in_node() {
  # shellcheck source=/dev/null
  . "$dir/env"
  local own="{${NODE_ADDRESS//./,}}" # what it says to other nodes comes from there
  exec env -i PATH="$PATH" LANG=C.UTF-8 HOME="$HOME" \
    ${ERL_EPMD_ADDRESS:+ERL_EPMD_ADDRESS="$ERL_EPMD_ADDRESS"} ERL_EPMD_PORT="$ERL_EPMD_PORT" \
    RABBITMQ_NODENAME="$RABBITMQ_NODENAME" RABBITMQ_DIST_PORT="$RABBITMQ_DIST_PORT" \
    RABBITMQ_CONF_ENV_FILE="$dir/rabbitmq-env.conf" \
    RABBITMQ_CONFIG_FILE="$dir/rabbitmq.conf" \
    RABBITMQ_ADVANCED_CONFIG_FILE="$dir/advanced.config" \
    RABBITMQ_ENABLED_PLUGINS_FILE="$dir/enabled_plugins" \
    RABBITMQ_MNESIA_BASE="$dir/data" RABBITMQ_LOG_BASE="$dir/log" RABBITMQ_LOGS="$dir/log/node.log" \
    RABBITMQ_PID_FILE="$dir/node.pid" \
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-kernel inet_dist_use_interface $own inet_dist_connect_options [{ip,$own}]" \
    RABBITMQ_CTL_ERL_ARGS="-kernel inet_dist_use_interface $own inet_dist_connect_options [{ip,$own}]" \
    "$@"
}

in_node() {
  (exec_in_node "$@")
}

port_open() {
  (exec 3<>"/dev/tcp/$(value_of NODE_ADDRESS)/$1") 2>/dev/null
}

value_of() { # VARIABLE of the node's environment
  # shellcheck source=/dev/null
  (. "$dir/env" && echo "${!1}")
}

start_epmd() {
  local port
  port=$(value_of ERL_EPMD_PORT)
  ! port_open "$port" || return 0 # its own of before, or that of the node it has joined
  exec_in_node setsid epmd -port "$port" </dev/null >"$dir/log/epmd.log" 2>&1 &
  remember "$dir/epmd.process" $!
  eventually 10 port_open "$port" || die "epmd does not answer on port $port: see $dir/log/epmd.log"
}

stop_epmd() {
  local pid
  pid=$(recall "$dir/epmd.process") || return 0
  in_node epmd -port "$(value_of ERL_EPMD_PORT)" -kill >/dev/null 2>&1 || true
  if ! eventually 3 gone "$dir/epmd.process"; then
    kill -KILL "$pid" 2>/dev/null || true
    eventually 3 gone "$dir/epmd.process" || die "epmd $pid does not end"
  fi
}

# The node has logged, since its last start, that it is up, or it is no longer there.
started_or_gone() {
  tail -c "+$(($(cat "$dir/log.offset") + 1))" "$dir/log/node.log" 2>/dev/null |
    grep -q 'Server startup complete' || gone "$dir/node.process"
}

wait_ready() {
  eventually "$start_deadline" started_or_gone ||
    die "node '$dir' is not up after $start_deadline s: see $dir/log/node.log"
  ! gone "$dir/node.process" || die "node '$dir' ended while starting: see $dir/log"
  port_open "$(value_of LOPE_TEST_AMQP_URL | sed 's/.*://')" ||
    die "node '$dir' is up but does not accept connections: see $dir/log/node.log"
}

start() { # [OTHER [TLS]]
  [[ -r $dir/env ]] || create "$@"
  if gone "$dir/node.process"; then
    stat -c %s "$dir/log/node.log" >"$dir/log.offset" 2>/dev/null || echo 0 >"$dir/log.offset"
    start_epmd
    # A session of its own: a Ctrl-C at the terminal is not for the node.
    exec_in_node setsid "$rabbitmq/rabbitmq-server" </dev/null >>"$dir/log/console.log" 2>&1 &
    remember "$dir/node.process" $!
  fi
  wait_ready
  value_of LOPE_TEST_AMQP_URL
}

stop_node() {
  local pid
  if pid=$(recall "$dir/node.process"); then
    kill -TERM "$pid" 2>/dev/null || true
    eventually "$stop_deadline" gone "$dir/node.process" || true
  fi
  kill_node
}

# The node's processes, also when the first of them has died: those of its session with its files.
node_processes() {
  local session pid
  read -r session _ 2>/dev/null <"$dir/node.process" || return 0
  for pid in $(pgrep -s "$session" -r D,R,S,T); do
    ! tr '\0' '\n' 2>/dev/null <"/proc/$pid/environ" | grep -qxF "RABBITMQ_MNESIA_BASE=$dir/data" || echo "$pid"
  done
}

no_node_processes() {
  [[ -z $(node_processes) ]]
}

kill_node() {
  local pid
  for pid in $(node_processes); do kill -KILL "$pid" 2>/dev/null || true; done
  eventually 10 no_node_processes || die "node '$dir' does not end: $(node_processes | xargs)"
}

remove() {
  [[ -d $dir ]] || return 0
  if [[ -r $dir/env ]]; then
    stop_node
    stop_epmd
  fi
  [[ ! -r $dir/log/node.log ]] || cp "$dir/log/node.log" "$dir.log"
  rm -rf "$dir"
}

if (($# < 2)); then
  usage
  [[ ${1:-} == help ]] && exit 0 || exit 64
fi
folder() {
  case $1 in
    */*) realpath -m "$1" ;;
    *) realpath -m "$root/build/broker/$1" ;;
  esac
}

verb=$1
dir=$(folder "$2")
shift 2

case $verb in
  start) start "" "${1:+$(realpath -m "$1")}" ;;
  join) start "$(folder "${1:?expected the node to join}")" ;;
  wait) wait_ready ;;
  stop) stop_node ;;
  kill) kill_node ;;
  remove) remove ;;
  ctl) in_node "$rabbitmq/rabbitmqctl" "$@" ;;
  running) [[ -r $dir/env ]] && ! gone "$dir/node.process" ;;
  url) value_of LOPE_TEST_AMQP_URL ;;
  tls-port) value_of LOPE_TEST_TLS_PORT ;;
  *) die "unknown verb '$verb': expected start, join, wait, stop, kill, remove, ctl, running, url or tls-port" ;;
esac
