#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# cut - boot a guest that writes, and kill its disk's server in the middle.
#
#   obd serve -w IMAGE -- images/cut.sh DIR COUNT
#
# The server ends by SIGKILL when the guest has said that COUNT of its files
# were synced, and goes on writing. Succeeds if that was so; DIR/synced then
# says of how many files the guest said it before its disk failed.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
dir=$1
count=$2

server=
for status in $(grep -lsx "PPid:.$PPID" /proc/[0-9]*/status); do
    ! grep -qsx 'Name:.nbdkit' "$status" || server=$(basename "${status%/status}")
done
: "${server:?obd serve must be the parent of cut.sh}"

rm -f "$dir/synced"
"$here/boot.sh" -w "$dir" /opt/report/notes many | while read -r word number; do
    case $word in
    synced)
        last=$number
        [ "$number" != "$count" ] || kill -KILL "$server"
        ;;
    OBD-END)
        [ "$number" = "${number#0 }" ] && echo "${last:-0}" >"$dir/synced"
        ;;
    esac
done
[ "$(cat "$dir/synced")" -ge "$count" ]
