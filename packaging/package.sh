#!/usr/bin/env bash
# Makes lope_*.deb, lope-dev_*.deb and lope-python_*.deb of what a CMake build folder has: package.sh BUILD OUTPUT
# The same build gives the same files, byte by byte. Everything but OUTPUT's packages is made below OUTPUT/work.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
if (($# != 2)) || [[ ! -r $1/CMakeCache.txt ]]; then
  echo "usage: package.sh BUILD OUTPUT: expected a CMake build folder, found '${1:-nothing}'" >&2
  exit 64
fi
LOPE_BUILD=$(realpath "$1")
LOPE_PACKAGES=$(realpath -m "$2")
export LOPE_BUILD LOPE_PACKAGES

# The time of the last change, where there is a repository to ask.
: "${SOURCE_DATE_EPOCH:=$(git -C "$root" log -1 --format=%ct 2>/dev/null || stat -c %Y "$root/CHANGELOG.md")}"
export SOURCE_DATE_EPOCH
version=$(sed -n 's/^CMAKE_PROJECT_VERSION:STATIC=//p' "$LOPE_BUILD/CMakeCache.txt")
work=$LOPE_PACKAGES/work
rm -rf "$work"
mkdir -p "$work"
cp -r "$root/packaging/debian" "$work/"
cat >"$work/debian/changelog" <<CHANGELOG
lope ($version) unstable; urgency=medium

  * /usr/share/doc/lope/CHANGELOG.md says what is new.

 -- $(sed -n 's/^Maintainer: //p' "$root/packaging/debian/control")  $(date -u -R -d "@$SOURCE_DATE_EPOCH")
CHANGELOG

rm -f "$LOPE_PACKAGES"/*.deb
cd "$work"
DEB_BUILD_OPTIONS=noautodbgsym debian/rules binary >"$LOPE_PACKAGES/work.log" 2>&1 || {
  cat "$LOPE_PACKAGES/work.log" >&2
  exit 1
}
rm -rf "$work"
