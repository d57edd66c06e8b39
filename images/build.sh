#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# build - a small system as three versions of one disk, without root or mounts.
#
#   images/build.sh CACHE OUT [TOKEN]
#
# Leaves in OUT:
#   disk0.raw   ext4: busybox, a Debian kernel and its modules
#   disk1.raw   the same disk with libc and jq added
#   disk2.raw   the same disk with a program that prints TOKEN and one that
#               writes, one file rewritten and one removed
#   vmlinuz, initrd.gz   what boots it (boot.sh)
#   expected    what the program in disk2.raw must print, line by line
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cache=$1
out=$2
token=${3:-$(od -An -N8 -tx1 /dev/urandom | tr -d ' \n')}
PATH=$PATH:/usr/sbin:/sbin

# What the disk in OUT/disk0.raw can grow to; it is sparse.
DISK_SIZE=512M
# Modules that the initrd loads before it can see the disk, and for its root.
MODULES="virtio_pci virtio_blk overlay"

"$here/fetch.sh" "$cache"
version=$(ls "$cache/kernel/lib/modules")
mkdir -p "$out"
work=$(mktemp -d "$out/build.XXXXXX")
trap 'rm -rf "$work"' EXIT

# add_tree DISK TREE - copy the files of TREE into the file system in DISK
add_tree() {
    # debugfs says "exists" for a folder that is there already, and goes on.
    (cd "$2" && find . -mindepth 1 -type d -printf 'mkdir /%P\n' | sort
        find . -type f -printf "cd /%h\nwrite $2/%p %f\n"
        find . -type l -printf 'symlink /%P %l\n') >"$work/script"
    debugfs -w -f "$work/script" "$1" >"$work/debugfs.log" 2>&1
    e2fsck -fn "$1" >>"$work/debugfs.log" 2>&1 || {
        cat "$work/debugfs.log" >&2
        echo "build.sh: debugfs did not leave a sound file system" >&2
        return 1
    }
}

base_tree() {
    mkdir -p "$1/bin" "$1/etc" "$1/boot" "$1/lib" "$1/dev" "$1/proc" \
        "$1/sys" "$1/tmp" "$1/run"
    cp "$(command -v busybox)" "$1/bin/busybox"
    for name in $(busybox --list); do
        [ "$name" = busybox ] || ln -s busybox "$1/bin/$name"
    done
    cp -r "$cache/kernel/lib/modules" "$1/lib/"
    cp "$cache/kernel/boot/vmlinuz-$version" "$1/boot/vmlinuz"
    echo "the base" >"$1/etc/motd"
    echo "removed by the top layer" >"$1/etc/first-boot"
}

report_tree() {
    mkdir -p "$1/opt/report" "$1/etc"
    cp "$here/guest/report" "$here/guest/notes" "$1/opt/report"
    chmod 755 "$1/opt/report/report" "$1/opt/report/notes"
    printf '{"token": "%s", "layers": ["base", "runtime", "report"]}\n' \
        "$token" >"$1/opt/report/facts.json"
    echo "the report" >"$1/etc/motd"
}

expected() {
    sum=$(cat "$work/base/boot/vmlinuz" "$cache/runtime/usr/bin/jq" \
        "$work/report/opt/report/facts.json" | sha256sum | cut -c1-16)
    echo "token $token"
    echo "layers base, runtime, report"
    echo "motd the report"
    echo "first-boot absent"
    echo "sha256 $sum"
}

disks() {
    base_tree "$work/base"
    rm -f "$out"/disk?.raw
    truncate -s "$DISK_SIZE" "$out/disk0.raw"
    mke2fs -q -F -t ext4 -b 4096 -E root_owner=0:0,lazy_itable_init=0 \
        -d "$work/base" "$out/disk0.raw" >"$work/mke2fs.log"
    cp --sparse=always "$out/disk0.raw" "$out/disk1.raw"
    add_tree "$out/disk1.raw" "$cache/runtime"
    report_tree "$work/report"
    cp --sparse=always "$out/disk1.raw" "$out/disk2.raw"
    for name in motd first-boot; do
        debugfs -w -R "rm /etc/$name" "$out/disk2.raw" >"$work/debugfs.log" 2>&1
    done
    add_tree "$out/disk2.raw" "$work/report"
}

# initrd - busybox, guest/init and the modules of MODULES with what they need
initrd() {
    root=$work/initrd
    modules=lib/modules/$version
    mkdir -p "$root/bin" "$root/$modules"
    cp "$(command -v busybox)" "$root/bin/busybox"
    cp "$here/guest/init" "$root/init"
    chmod 755 "$root/init"
    for name in $MODULES; do
        grep "/$name\.ko:" "$cache/kernel/$modules/modules.dep"
    done >"$work/needed"
    tr -d : <"$work/needed" | tr ' ' '\n' | sort -u | while read -r file; do
        [ -z "$file" ] || (cd "$cache/kernel/$modules" &&
            cp --parents "$file" "$root/$modules/")
    done
    busybox depmod -b "$root" "$version"
    (cd "$root" && find . | cpio --quiet -o -H newc) | gzip -1 >"$out/initrd.gz"
}

disks
initrd
cp "$cache/kernel/boot/vmlinuz-$version" "$out/vmlinuz"
expected >"$out/expected"
