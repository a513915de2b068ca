#!/usr/bin/env bash
# templates_test.sh SOURCE_DIR BUILD_DIR: installs Lope into a folder of its own, copies plugins/template
# and plugins/template-c out of the tree, builds them as their READMEs say, has the installed
# `lope inspect` describe them, and the installed `lope run` run them with their own lope.yaml on the
# broker at LOPE_TEST_AMQP_URL.
set -euo pipefail

source_dir=$1
build_dir=$2
umask 022

: "${LOPE_TEST_AMQP_URL:?is not set: ./dev test starts a broker}"
work=$(mktemp -d)
group=
# shellcheck disable=SC2317
clean_up() {
  [[ -z $group ]] || kill -KILL -- "-$group" 2>/dev/null || true
  rm -rf "$work"
}
trap clean_up EXIT
prefix=$work/prefix

fail() {
  echo "templates_test: $*" >&2
  exit 1
}

unset DESTDIR
cmake --install "$build_dir" --prefix "$prefix" >"$work/install.log" 2>&1 || {
  cat "$work/install.log" >&2
  fail "cmake --install failed"
}
lope=$prefix/bin/lope
[[ -x $lope ]] || fail "no program at $lope"

# expect_inspect FILE WORD...: `lope inspect FILE` succeeds and says each word.
expect_inspect() {
  local file=$1 output word
  shift
  output=$("$lope" inspect "$file" 2>&1) || fail "lope inspect $file failed: $output"
  for word in "$@"; do
    [[ $output == *"$word"* ]] || fail "lope inspect $file: expected '$word', found: $output"
  done
}

build_with_cmake() {
  if ! {
    cmake -S "$1" -B "$1/build" -DCMAKE_PREFIX_PATH="$prefix" &&
      cmake --build "$1/build" &&
      cmake --install "$1/build"
  } >"$1.log" 2>&1; then
    cat "$1.log" >&2
    fail "building $1 failed"
  fi
}

cp -r "$source_dir/plugins/template" "$work/template"
cp -r "$source_dir/plugins/template-c" "$work/template-c"

build_with_cmake "$work/template"
expect_inspect "$work/template/build/greet.so" greet 0.1.0 greeting times
expect_inspect "$prefix/lib/lope/handlers/greet.so" greet

build_with_cmake "$work/template-c"
expect_inspect "$work/template-c/build/greet_c.so" greet_c 0.1.0 greeting
expect_inspect "$prefix/lib/lope/handlers/greet_c.so" greet_c

# The one-line build, with nothing but pkg-config to find the header.
pc_file=$(find "$prefix" -name lope.pc)
[[ -n $pc_file ]] || fail "no lope.pc under $prefix"
PKG_CONFIG_PATH=$(dirname "$pc_file")
export PKG_CONFIG_PATH
read -ra cflags <<<"$(pkg-config --cflags lope)"
cc -std=c99 -Wall -Wextra -pedantic -Werror -shared -fPIC -fvisibility=hidden "${cflags[@]}" \
  -o "$work/by_hand.so" "$work/template-c/greet_c.c"
expect_inspect "$work/by_hand.so" greet_c
[[ $(realpath "$(pkg-config --variable=handlersdir lope)") == $(realpath "$prefix/lib/lope/handlers") ]] ||
  fail "lope.pc: handlersdir is $(pkg-config --variable=handlersdir lope)"

# What was installed for the service is accepted as it is.
"$lope" check --config "$prefix/etc/lope/lope.yaml" >"$work/check.log" 2>&1 || {
  cat "$work/check.log" >&2
  fail "lope check refuses the installed lope.yaml"
}

wait_for() { # FILE TEXT
  local end=$((SECONDS + 30))
  until grep -qF "$2" "$1"; do
    ((SECONDS < end)) || {
      cat "$1" >&2
      fail "'$2' was not seen in time"
    }
    read -r -t 0.02 <> <(:) || true
  done
}

# expect_greeting FOLDER: the installed Lope runs the template with its own configuration.
expect_greeting() {
  local config=$1/here.yaml queue=greetings-$$ log=$1/run.log status=0
  sed "s|^broker: .*|broker: $LOPE_TEST_AMQP_URL|; s|^  greetings:|  $queue:|; s|durable: true|auto_delete: true|" \
    "$1/lope.yaml" >"$config"
  set -m
  LOPE_SOCKET=$1/control.sock "$lope" run --config "$config" </dev/null >"$log" 2>&1 &
  group=$!
  set +m
  wait_for "$log" '] ready'
  "$lope" publish --broker "$LOPE_TEST_AMQP_URL" --queue "$queue" World >>"$work/publish.log" 2>&1 ||
    fail "lope publish failed: $(cat "$work/publish.log")"
  wait_for "$log" 'Hello, World!'
  kill -TERM -- "-$group"
  wait "$group" || status=$?
  group=
  ((status == 0)) || {
    cat "$log" >&2
    fail "lope run ended with exit code $status"
  }
}
expect_greeting "$work/template"
expect_greeting "$work/template-c"

# Nothing of the handler's is exported but its table.
exported=$(nm -D --defined-only "$work/template/build/greet.so" | awk '$2 != "W" && $2 != "V" && $2 != "u" {print $3}')
[[ $exported == lope_plugin_v1 ]] || fail "greet.so exports: $exported"
echo "both templates build, are accepted and run"
