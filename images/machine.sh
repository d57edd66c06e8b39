#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# machine - a bootable disk of a Debian virtual machine, made of packages.
#
#   images/machine.sh CACHE OUT [PACKAGE...]
#
# Leaves in OUT:
#   system.obd           the root file system alone, ext4 with a journal
#   vmlinuz, initrd.img  what boots it with qemu -kernel, root=LABEL=root
#   disk.obd             a whole disk: MBR, GRUB, and that file system; a BIOS
#                        boots it
#
# PACKAGE... are put in besides systemd and a kernel. Nothing is mounted and
# nothing installed here. OBD=... is the obd to use; SIZE=... MiB of the disk.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cache=$1 out=$2
shift 2
obd=${OBD:-$here/../.venv/bin/obd}
size=${SIZE:-4096}

# Where a partition begins since disks have large sectors, in MiB.
GAP=1
# The first sectors of a disk hold the partition table behind this many bytes.
CODE_BYTES=440
WORDS="root=LABEL=root console=ttyS0 quiet panic=-1"

# get PACKAGE - unpack a package of Debian into CACHE/PACKAGE
get() {
    [ ! -e "$cache/$1.done" ] || return 0
    (cd "$cache" && apt-get -qq -o APT::Sandbox::User= download "$1")
    rm -rf "${cache:?}/$1"
    dpkg-deb -x "$cache/$1"_*.deb "$cache/$1"
    rm "$cache/$1"_*.deb
    touch "$cache/$1.done"
}

# A machine that says that it is up, and powers off when it was asked to.
service='[Unit]
Description=Say that the machine is up
After=basic.target systemd-user-sessions.service
# A getty begins by hanging the line up, and what was said is lost.
Before=serial-getty@ttyS0.service

[Service]
Type=oneshot
StandardOutput=tty
TTYPath=/dev/ttyS0
ExecStart=/bin/sh -c "echo OBD-READY $(uname -r); ! grep -q obd.poweroff /proc/cmdline || systemctl poweroff"

[Install]
WantedBy=multi-user.target
'

mkdir -p "$cache" "$out"
work=$(mktemp -d "$out/machine.XXXXXX")
trap 'rm -rf "$work"' EXIT

"$here/rootfs.sh" "$cache" machine \
    systemd-sysv udev linux-image-cloud-amd64 initramfs-tools "$@" -- \
    --customize-hook='echo "LABEL=root / ext4 rw,errors=remount-ro 0 1" >"$1/etc/fstab"' \
    --customize-hook='echo machine >"$1/etc/hostname"' \
    --customize-hook="printf '%s' '$service' >\"\$1/etc/systemd/system/obd-ready.service\"" \
    --customize-hook='mkdir -p "$1/etc/systemd/system/multi-user.target.wants"' \
    --customize-hook='ln -sf ../obd-ready.service "$1/etc/systemd/system/multi-user.target.wants/obd-ready.service"'

for name in vmlinuz initrd.img; do
    file=$(tar -tf "$cache/machine.tar" | grep "^\./boot/$name-" | sort -V | tail -n 1)
    tar -xOf "$cache/machine.tar" "$file" >"$out/$name"
    eval "$(echo "$name" | tr -d .)=\${file#.}"
done

"$obd" convert --size "$((size - GAP))M" --label root --journal \
    "$cache/machine.tar" "$out/system.obd"

# GRUB, without a step on the machine: its second stage is in the gap before
# the partition, with all that it needs to read the kernel.
get grub-pc-bin
get grub-common
modules=$cache/grub-pc-bin/usr/lib/grub/i386-pc
# shellcheck disable=SC2154
cat >"$work/grub.cfg" <<END
set root=(hd0,msdos1)
linux $vmlinuz $WORDS
initrd $initrdimg
boot
END
"$cache/grub-common/usr/bin/grub-mkimage" -O i386-pc -d "$modules" -o "$work/core.img" \
    -p '(hd0,msdos1)/boot/grub' -c "$work/grub.cfg" biosdisk part_msdos ext2 linux normal
[ "$(stat -c %s "$work/core.img")" -lt $((GAP * 1048576 - 512)) ]

# le32 NUMBER - its four bytes, the lowest first
le32() {
    for shift in 0 8 16 24; do
        printf "\\$(printf %03o $(($1 >> shift & 255)))"
    done
}

"$obd" convert -O raw "$out/system.obd" "$work/disk.raw"
truncate -s "${size}M" "$work/disk.raw"
# Make room for the gap in front; the file system moves with its holes.
fallocate --insert-range --offset 0 --length "${GAP}MiB" "$work/disk.raw" 2>/dev/null || {
    mv "$work/disk.raw" "$work/system.raw"
    truncate -s "${size}M" "$work/disk.raw"
    dd if="$work/system.raw" of="$work/disk.raw" bs=1M seek=$GAP conv=sparse,notrunc status=none
    rm "$work/system.raw"
}
truncate -s "${size}M" "$work/disk.raw"
put() { dd of="$work/disk.raw" bs=1 seek="$1" conv=notrunc status=none; }
head -c $CODE_BYTES "$modules/boot.img" | put 0
# One partition, active, of Linux.
{
    printf '\200\376\377\377\203\376\377\377'
    le32 $((GAP * 2048))
    le32 $(((size - GAP) * 2048))
} | put 446
printf '\125\252' | put 510
dd if="$work/core.img" of="$work/disk.raw" bs=512 seek=1 conv=notrunc status=none
"$obd" convert "$work/disk.raw" "$out/disk.obd"
