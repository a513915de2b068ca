#!/usr/bin/env bash
# first_hour_test.sh BUILD_DIR: what somebody does who has just installed Lope's packages, in each language, with an empty
# home and nothing in the environment: `lope new`, make, make test, make install, `lope run` on the broker at LOPE_TEST_AMQP_URL, a
# message that is handled. Prints what each took.
set -euo pipefail

build_dir=$1
umask 022

: "${LOPE_TEST_AMQP_URL:?is not set: ./dev test starts a broker}"
limit=600 # seconds, for all of it
work=$(mktemp -d)
group=
# shellcheck disable=SC2317
clean_up() {
  [[ -z $group ]] || kill -KILL -- "-$group" 2>/dev/null || true
  chmod -R u+w "$work" # Go's caches are read-only
  rm -rf "$work"
}
trap clean_up EXIT
prefix=$work/root/usr

fail() {
  echo "first_hour_test: $*" >&2
  exit 1
}

# What is in the packages, and nothing else of this tree.
source_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
unset DESTDIR
"$source_dir/packaging/package.sh" "$build_dir" "$work/packages" >"$work/package.log" 2>&1 || {
  cat "$work/package.log" >&2
  fail "packaging/package.sh failed"
}
for package in "$work"/packages/*.deb; do dpkg -x "$package" "$work/root"; done
lope=$prefix/bin/lope
[[ -x $lope ]] || fail "no program at $lope"

# in_clean FOLDER COMMAND...: with an empty home. What it says is shown when it fails.
in_clean() {
  local folder=$1 log=$work/command.log
  shift
  (cd "$folder" && exec env -i HOME="$work/home" PATH=/usr/bin:/bin "$@") >"$log" 2>&1 || {
    cat "$log" >&2
    fail "in $folder: $* failed"
  }
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

# The project's own configuration, on the broker of the test, with what `make install` has installed.
run_it() { # FOLDER NAME
  local queue=$2-$$ log=$1/run.log status=0
  sed "s|^broker: .*|broker: $LOPE_TEST_AMQP_URL|; s|^  $2:|  $queue:|; s|durable: true|auto_delete: true|
       s|^handlers_dir: .*||; s|file: .*|file: $prefix/lib/lope/python/$2.py|" "$1/lope.yaml" >"$1/here.yaml"
  : >"$log"
  set -m
  LOPE_SOCKET=$1/control.sock "$lope" run --config "$1/here.yaml" </dev/null >"$log" 2>&1 &
  group=$!
  set +m
  wait_for "$log" '] ready'
  in_clean "$1" "$lope" publish --broker "$LOPE_TEST_AMQP_URL" --queue "$queue" World
  wait_for "$log" 'Hello, World!'
  kill -TERM -- "-$group"
  wait "$group" || status=$?
  group=
  ((status == 0)) || {
    cat "$log" >&2
    fail "lope run ended with exit code $status"
  }
}

# What is missing for a language; nothing when it is all there.
missing() { # LANGUAGE
  case $1 in
    rust) [[ -x /usr/bin/cargo ]] || echo "cargo" ;;
    go) [[ -x /usr/bin/go ]] || echo "golang-go" ;;
    python) [[ -e $prefix/lib/lope/handlers/python.so ]] || echo "the handler python" ;;
  esac
}

seconds() { date +%s%N; }
step() { # COMMAND...: adds what it took to the row
  local start end
  start=$(seconds)
  "$@"
  end=$(seconds)
  row+=$(printf '%9s' "$(((end - start) / 10000000 / 100)).$(printf '%02d' $(((end - start) / 10000000 % 100)))")
}

mkdir "$work/home" "$work/projects"
begin=$SECONDS
table=$(printf '%-8s%9s%9s%9s%9s%9s' seconds new make test install run)
for language in cpp c rust go python; do
  without=$(missing "$language")
  [[ -z $without ]] || fail "$language: expected $without, found none: ./dev setup installs what is needed"
  name=greet-$language
  project=$work/projects/$name
  row=
  step in_clean "$work/projects" "$lope" new "$name" --lang "$language"
  step in_clean "$project" make
  step in_clean "$project" make test
  grep -q '2 passed' "$work/command.log" || {
    cat "$work/command.log" >&2
    fail "$language: expected two cases to pass"
  }
  step in_clean "$project" make install
  step run_it "$project" "$name"
  table+=$'\n'$(printf '%-8s' "$language")$row
  if [[ $language != python ]]; then
    in_clean "$project" "$lope" inspect "build/$name.so"
    grep -q "^$name 0.1.0$" "$work/command.log" || fail "lope inspect build/$name.so: found $(cat "$work/command.log")"
  fi
  in_clean "$project" make clean
  [[ ! -e $project/build ]] || fail "$language: make clean has left build"
done
printf '%s\n%d seconds in all\n' "$table" $((SECONDS - begin))
((SECONDS - begin < limit)) || fail "expected less than $limit seconds"

# The one-line build of the documentation, with nothing but pkg-config to find the header.
pc_file=$(find "$prefix" -name lope.pc)
[[ -n $pc_file ]] || fail "no lope.pc under $prefix"
PKG_CONFIG_PATH=$(dirname "$pc_file")
export PKG_CONFIG_PATH
read -ra cflags <<<"$(pkg-config --cflags lope)"
cc -std=c99 -Wall -Wextra -pedantic -Werror -shared -fPIC -fvisibility=hidden "${cflags[@]}" \
  -o "$work/by_hand.so" "$work/projects/greet-c/greet-c.c"
in_clean "$work" "$lope" inspect "$work/by_hand.so"
[[ $(realpath "$(pkg-config --variable=handlersdir lope)") == $(realpath "$prefix/lib/lope/handlers") ]] ||
  fail "lope.pc: handlersdir is $(pkg-config --variable=handlersdir lope)"

# What was installed for the service is accepted as it is.
in_clean "$work" "$lope" check --config "$work/root/etc/lope/lope.yaml"

# The compiler has filled in each table, and nothing but a relocation writes to it. It is all that a handler exports; Go
# exports what is its own.
for language in cpp c rust go; do
  handler=$prefix/lib/lope/handlers/greet-$language.so
  [[ -e $handler ]] || continue
  section=$(readelf --dyn-syms -W "$handler" | awk '$8 == "lope_plugin_v1" {print $7}')
  readelf -SW "$handler" | grep -E "^ *\[ *$section\] \.(data\.rel\.ro|rodata) " >/dev/null ||
    fail "$handler: lope_plugin_v1 is in section $section: $(readelf -SW "$handler")"
  exported=$(nm -D --defined-only "$handler" | awk '$2 != "W" && $2 != "V" && $2 != "u" {print $3}')
  [[ $language == go || $exported == lope_plugin_v1 ]] || fail "$handler exports: $exported"
done
