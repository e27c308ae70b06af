#!/usr/bin/env bash
# Builds the usrsctp peer into the folder that is given. Status 77: the library is not installed.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:?where to put it}
[ -e /usr/include/usrsctp.h ] || {
  echo "usrsctp-peer: no /usr/include/usrsctp.h: install Debian's libusrsctp-dev (scripts/setup does)" >&2
  exit 77
}
mkdir -p "$out"
compiler=$(command -v cc || command -v clang || command -v gcc)
"$compiler" -O2 -Wall -Wextra -Werror -DINET -DINET6 -o "$out/usrsctp-peer" "$here/usrsctp-peer.c" -lusrsctp -lpthread
