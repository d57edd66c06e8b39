#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# registry - run Debian's docker-registry on loopback for as long as a command.
#
#   images/registry.sh DIR COMMAND...
#
# It keeps what is pushed in DIR. COMMAND finds its address in $registry.
set -eu
dir=$1
shift
mkdir -p "$dir"
port=$(/usr/bin/python3 -c 'import socket
probe = socket.socket()
probe.bind(("127.0.0.1", 0))
print(probe.getsockname()[1])')
cat >"$dir/config.yml" <<CONFIG
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $dir/blobs}}
http: {addr: "127.0.0.1:$port", secret: demo}
CONFIG
OTEL_TRACES_EXPORTER=none docker-registry serve "$dir/config.yml" >"$dir/log" 2>&1 &
server=$!
trap 'kill $server; wait $server 2>/dev/null || true' EXIT
tries=100
until /usr/bin/python3 -c 'import socket, sys
socket.create_connection(("127.0.0.1", int(sys.argv[1])), 1)' "$port" 2>/dev/null; do
    tries=$((tries - 1))
    if [ $tries -eq 0 ] || ! kill -0 $server 2>/dev/null; then
        cat "$dir/log" >&2
        exit 1
    fi
    sleep 0.1
done
registry=127.0.0.1:$port "$@"
