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
# crun refuses hosts that have both cgroup hierarchies: hide the second one.
if [ -d /sys/fs/cgroup/unified ] && [ "${runtime##*/}" = crun ]; then
    unshare --mount sh -c 'umount /sys/fs/cgroup/unified; exec "$@"' sh \
        "$runtime" run "$name"
else
    "$runtime" run "$name"
fi
