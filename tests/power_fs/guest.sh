#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# guest - the first process of a User-Mode Linux: mounts a disk, runs a job, ends.
# Its root is the host's, which it cannot write to. From the kernel's command
# line it has OUTSIDE, a folder that it can write to, and which has the same path
# here, with JOB, a shell script in it. Its exit code is printed as GUEST-EXIT.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs run /run
# The host's /dev, which the folder may be in, cannot be seen.
mkdir -p "$OUTSIDE"
mount -t hostfs -o "$OUTSIDE" outside "$OUTSIDE"
# Programs of the host look for modules in /lib, where those of the host are.
mkdir -p /run/m/lib/modules /run/disk
ln -s "/usr/lib/uml/modules/$(uname -r)" /run/m/lib/modules/
sh -eu "$OUTSIDE/$JOB"
echo "GUEST-EXIT=$?"
sync
echo o >/proc/sysrq-trigger
# Power off comes a moment later; if the first process ended, it were a panic.
read -r _
