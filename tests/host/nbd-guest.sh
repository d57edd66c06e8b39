# SPDX-License-Identifier: Apache-2.0
# nbd-guest - what a guest with a kernel NBD client does with images: attach,
# write, lose the server, mount, detach. It runs in a User-Mode Linux, see
# test_kernel_nbd.py; IMAGE is a layer with KIND on it, OWN a folder that lasts,
# FORM that of the writable layer there.
export OBD_RUN=/run/obd OBD_STATE=/run/state TMPDIR=/run/tmp
mkdir -p /run/tmp
modprobe -d /run/m nbd nbds_max=1
modprobe -d /run/m overlay || true
modprobe -d /run/m fuse || true

fact() {
    "$OBD" ps --output json | tr -d ' ",' | sed -n "s/^$1://p" | head -n 1
}

# The device is what the tool says, and outlives it.
"$OBD" attach --name disk --upper "$OWN" --form "$FORM" --reconnect 30 "$IMAGE"
[ "$(fact via)" = nbd ]
device=$(fact device)
[ "$(cat "/sys/block/${device#/dev/}/backend")" = obd:/run/obd/disk ]
[ "$(blockdev --getsize64 "$device")" = "$(fact virtual-size)" ]
[ "$(cat "/sys/block/${device#/dev/}/ro")" = 0 ]

# A file system on it; the server dies in the middle, and nothing is lost.
modprobe -d /run/m "$KIND" || true
case $KIND in
ntfs) ntfs-3g "$device" /run/disk ;;
*) mount -t "$KIND" -o discard "$device" /run/disk ;;
esac
echo one >/run/disk/one
sync
kill -KILL "$(fact server-pid)"
"$OBD" ps | grep -q down
(dd if=/dev/zero of=/run/disk/zeros bs=64k count=64 conv=fsync 2>/run/dd &&
    echo done >>/run/dd) &
writer=$!
"$OBD" attach --all
wait "$writer"
grep -q done /run/dd
echo two >/run/disk/two
sync
! dmesg | grep -iE 'I/O error|EXT4-fs error|XFS.*error'

# A mounted device stays.
! "$OBD" detach disk
umount /run/disk
"$OBD" detach disk
[ ! -e "/sys/block/${device#/dev/}/pid" ]

# Mounted by obd: read-only, with an overlay, and what was written is there.
"$OBD" mount "$OWN" /run/disk -w
[ "$(cat /run/disk/one)$(cat /run/disk/two)" = onetwo ]
rm /run/disk/one
"$OBD" umount /run/disk
# An overlay does not take NTFS by FUSE below it, which has no owners of files.
over=--overlay
[ "$KIND" != ntfs ] || over=
"$OBD" mount $over "$IMAGE" /run/disk
[ ! -e /run/disk/two ]
[ -z "$over" ] || echo three >/run/disk/three
"$OBD" umount /run/disk
[ -z "$(ls /run/disk)" ]
[ "$("$OBD" ps | wc -l)" = 1 ]

# More than the module was told to have.
for number in 1 2 3; do
    "$OBD" attach --name "many-$number" "$IMAGE" >/dev/null
done
[ "$("$OBD" ps | grep -c /dev/nbd)" = 3 ]
"$OBD" detach many-1 many-2 many-3
