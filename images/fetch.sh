#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# fetch - unpack the Debian packages that the images are made of into a cache.
#
#   images/fetch.sh CACHE
#
# Leaves CACHE/kernel (a kernel and its modules, with modules.dep) and
# CACHE/runtime (libc and jq). Nothing is installed on this machine, nothing
# needs root, and a second run needs no network.
set -eu
cache=$1

[ "$(dpkg --print-architecture)" = amd64 ] || {
    echo "fetch.sh: the images are amd64 Debian, this machine is not" >&2
    exit 1
}
mkdir -p "$cache/debs"
# Tests and the demo share the cache and may run at once.
exec 9>"$cache/.lock"
flock 9

download() {
    # The default download user, _apt, cannot write into somebody's checkout.
    (cd "$cache/debs" && apt-get -qq -o Acquire::Retries=5 -o APT::Sandbox::User= download "$@")
}

# get DIRECTORY PACKAGE... - unpack packages into CACHE/DIRECTORY
get() {
    into=$cache/$1
    shift
    [ ! -e "$into.done" ] || return 0
    if ! download "$@" 2>"$cache/apt.log"; then
        # No package lists, or older than the archive: only root can renew them.
        { [ "$(id -u)" -eq 0 ] && apt-get -qq update && download "$@"; } || {
            cat "$cache/apt.log" >&2
            echo "fetch.sh: cannot download $*; try apt-get update" >&2
            return 1
        }
    fi
    rm -rf "$into"
    for package in "$@"; do
        dpkg-deb -x "$cache/debs/${package}"_*.deb "$into"
        rm "$cache/debs/${package}"_*.deb
    done
    touch "$into.done"
}

# The package of the name without a version only depends on the real one.
kernel_package() {
    apt-cache depends linux-image-cloud-amd64 |
        sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1
}

if [ ! -e "$cache/kernel.done" ]; then
    name=$(kernel_package)
    if [ -z "$name" ] && [ "$(id -u)" -eq 0 ]; then
        apt-get -qq update
        name=$(kernel_package)
    fi
    get kernel "${name:-linux-image-cloud-amd64}"
    busybox depmod -b "$cache/kernel" "$(ls "$cache/kernel/lib/modules")"
fi
get runtime libc6 libjq1 libonig5 jq
