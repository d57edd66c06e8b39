# SPDX-License-Identifier: Apache-2.0
# libvirt-scene - a machine of libvirt from start to end, see test_libvirt.py.
vm() {
    command=$1
    shift
    "$OBD" vm "$command" --connect "$URI" "$@"
}

# said WORD - wait until the guest has said it
said() {
    tries=0
    until grep -q "$1" "$PLACE/console" 2>/dev/null; do
        tries=$((tries + 1))
        [ $tries -lt 1200 ]
        sleep 0.1
    done
}

cd "$PLACE"
touch console
chmod 666 console
# Nothing runs on where something fails.
trap '[ $? = 0 ] || vm stop --force machine >/dev/null 2>&1 || true' EXIT
vm start --define --emulate --upper own/root --form "$FORM" --kernel kernel \
    --initrd "$INITRD" --console console --memory 256M \
    --append "console=ttyS0 quiet panic=-1 nokaslr no_timer_check tsc=reliable" \
    machine image.obd
said FIRST
# It is defined, and its disk will be there when it starts after a reboot.
"$OBD" ps --output json | grep -q '"keep": true'
vm attach machine --disk more --upper own/more --form "$FORM" --rate 50M image.obd
said SECOND
vm attach machine --disk fixed image.obd
said THIRD
"$OBD" ps | grep -q vm-machine.more
vm snapshot machine
vm detach machine --disk fixed
vm detach machine --disk more
said GONE
! "$OBD" ps | grep -q vm-machine.more
vm stop --force machine
! "$OBD" ps | grep -q vm-machine
[ -z "$(ls "$OBD_STATE")" ]
# Its name is free again, and it has nothing left.
vm stop machine
