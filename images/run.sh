#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# run - run a program of a mounted image as a container.
#
#   images/run.sh FOLDER RUNTIME PROGRAM [ARGUMENT...]
#
# FOLDER is where `obd mount` put the image, RUNTIME crun or runc (or another
# that takes OCI bundles). Makes a bundle, runs it to its end, removes it. The
# exit code is the program's.
set -eu
root=$(cd "$1" && pwd)
runtime=$2
shift 2

bundle=$(mktemp -d)
trap 'rm -rf "$bundle"' EXIT

# json WORD... - the words as JSON strings, with commas
json() {
    python3 -c 'import json, sys; print(json.dumps(sys.argv[1:])[1:-1])' "$@"
}

cat >"$bundle/config.json" <<CONFIG
{
  "ociVersion": "1.0.2",
  "process": {
    "user": {"uid": 0, "gid": 0},
    "args": [$(json "$@")],
    "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"],
    "cwd": "/",
    "noNewPrivileges": true
  },
  "root": {"path": $(json "$root"), "readonly": false},
  "hostname": "container",
  "mounts": [
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
     "options": ["nosuid", "mode=755", "size=64k"]}
  ],
  "linux": {
    "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"},
                   {"type": "uts"}, {"type": "network"}]
  }
}
CONFIG

cd "$bundle"
name=obd-$$
# Who is root in a user namespace only cannot keep states in /run, and has no
# control groups.
set --
if [ "$(awk 'NR == 1 { print $3 }' /proc/self/uid_map)" != 4294967295 ]; then
    set -- --root "$bundle/state"
    [ "${runtime##*/}" != crun ] || set -- "$@" --cgroup-manager=disabled
fi
# crun refuses hosts that have both cgroup hierarchies: hide the second one, or
# both from who may not do that.
if [ -d /sys/fs/cgroup/unified ] && [ "${runtime##*/}" = crun ]; then
    unshare --mount sh -c 'umount /sys/fs/cgroup/unified 2>/dev/null ||
        mount -t tmpfs none /sys/fs/cgroup; exec "$@"' sh \
        "$runtime" "$@" run "$name"
else
    "$runtime" "$@" run "$name"
fi
