#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# boot - boot what build.sh left in DIR from an NBD export and run a program.
#
#   uri=NBD-URI images/boot.sh [-w] DIR [PROGRAM [ARGUMENT...]]
#
# With -w the guest may write to the disk; without, its writes go to memory.
# Copies the guest's serial port to standard output; succeeds if and only if
# the program ran and its exit code was 0. KVM is used where it really boots
# this kernel, else QEMU's emulation; OBD_ACCEL=tcg or =kvm decides instead.
set -eu
mode=readonly=on words=
if [ "$1" = -w ]; then
    mode=readonly=off words=obd.write
    shift
fi
dir=$1
shift
words="$words obd.run=${1:-/opt/report/report}"
[ $# -eq 0 ] || shift
for argument in "$@"; do
    words="$words obd.arg=$argument"
done
: "${uri:?must be the NBD URI of the disk to boot from}"

# A boot takes 1 s with KVM, 6 s without: these limits are for hangs.
PROBE_SECONDS=10
BOOT_SECONDS=120

# No timer tests and no mitigations: they cost half of an emulated boot.
WORDS="console=ttyS0 quiet panic=-1 nokaslr mitigations=off no_timer_check tsc=reliable"

# machine ACCEL SECONDS WORDS [OPTION...] - a PC whose serial port is our stdout
machine() {
    cpu=qemu64
    [ "$1" != kvm ] || cpu=host
    accel=$1 limit=$2 word=$3
    shift 3
    timeout -k 5 "$limit" "${QEMU:-qemu-system-x86_64}" \
        -nodefaults -no-user-config -display none -no-reboot -monitor none \
        -machine "q35,accel=$accel" -cpu $cpu -m 512 -serial stdio \
        -kernel "$dir/vmlinuz" -initrd "$dir/initrd.gz" \
        -append "$WORDS $word" "$@" </dev/null
}

# /dev/kvm is often there and of no use, in a virtual machine above all: some
# abort at once, some hang. So boot without a disk, and believe the serial port.
kvm_works() {
    [ -w /dev/kvm ] || return 1
    (ulimit -c 0 && machine kvm "$PROBE_SECONDS" obd.probe) 2>/dev/null |
        grep -q '^OBD-END 0 '
}

accel=${OBD_ACCEL:-}
if [ -z "$accel" ]; then
    accel=tcg
    ! kvm_works || accel=kvm
fi
echo "OBD-MACHINE $accel"

# QEMU's own exit code is 0 even after a kernel panic.
machine "$accel" "$BOOT_SECONDS" "$words" \
    -drive "file=$uri,format=raw,if=none,id=disk,$mode" \
    -device virtio-blk-pci,drive=disk |
    sed -u 's/\r//g' | tee "$dir/serial.log"
grep -q '^OBD-END 0 ' "$dir/serial.log"
