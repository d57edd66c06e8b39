#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# rootfs - a Debian root file system of packages as a tar, made once.
#
#   images/rootfs.sh CACHE NAME PACKAGE... [-- OPTION...]
#
# Leaves CACHE/NAME.tar; OPTION... are further ones of mmdebstrap. The packages
# come from where this machine's own apt gets them. The same packages give the
# same bytes. Root is not needed where ordinary users may have namespaces.
set -eu
cache=$1 name=$2
shift 2
packages=
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    packages=$packages${packages:+,}$1
    shift
done
[ $# -eq 0 ] || shift

command -v mmdebstrap >/dev/null || {
    echo "rootfs.sh: mmdebstrap is not installed" >&2
    exit 1
}
mkdir -p "$cache"
exec 9>"$cache/.lock"
flock 9
# What is there counts as long as it was asked for in the same words.
asked="$packages $*"
if [ -e "$cache/$name.tar" ] && [ "$(cat "$cache/$name.asked" 2>/dev/null)" = "$asked" ]; then
    exit 0
fi

# shellcheck source=/dev/null
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
sources=
for file in /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources; do
    [ ! -s "$file" ] || sources="$sources $file"
done
# Documentation is for people who log in; the licences stay.
# shellcheck disable=SC2086
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-1577836800} mmdebstrap --quiet --variant=minbase \
    --include="$packages" \
    --aptopt='APT::Install-Recommends "false"' \
    --aptopt='Acquire::Languages "none"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --customize-hook='rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/*' \
    --customize-hook='rm -f "$1"/etc/resolv.conf "$1"/etc/hostname' \
    "$@" "$suite" "$cache/$name.part.tar" $sources >"$cache/$name.log" 2>&1 || {
    tail -n 20 "$cache/$name.log" >&2
    echo "rootfs.sh: mmdebstrap failed, see $cache/$name.log" >&2
    exit 1
}
mv "$cache/$name.part.tar" "$cache/$name.tar"
echo "$asked" >"$cache/$name.asked"
