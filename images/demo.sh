#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# demo - the main job, narrated: three versions of a disk become three layers,
# and a virtual machine boots from the stack of them over NBD.
#
#   make demo
#
# Fails unless the guest prints what only the top layer can tell it. What is
# made stays in .demo/work, what was downloaded in .demo/cache.
set -eu
cd "$(dirname "$0")/.."
demo=${OBD_DEMO_DIR:-$PWD/.demo}
PATH=$PWD/.venv/bin:$PATH
images=$PWD/images

now() {
    date +%s%N
}

# took START - how long that was: "2.1 s"
took() {
    awk "BEGIN { printf \"%.1f s\", ($(now) - $1) / 1e9 }"
}

# size FILE - what it takes on this disk, in MiB
size() {
    du -k "$1" | awk '{ printf "%6.2f MiB", $1 / 1024 }'
}

# show WORDS - a command as a person would type it
show() {
    echo "   \$ $*"
}

indent() {
    sed 's/^/     /'
}

started=$(now)
echo "obdengine: one disk in three versions, three layers, one virtual machine"
echo
"$images/fetch.sh" "$demo/cache"
rm -rf "$demo/work"

step=$(now)
"$images/build.sh" "$demo/cache" "$demo/work"
cd "$demo/work"
echo "1. Three versions of a 512 MiB disk, from Debian's packages ($(took "$step"))"
echo "     disk0.raw $(size disk0.raw)  busybox, a kernel and its modules"
echo "     disk1.raw $(size disk1.raw)  and libc and jq"
echo "     disk2.raw $(size disk2.raw)  and a report that needs them"

echo "2. A layer for each; the upper two hold only what differs"
layer() {
    step=$(now)
    target=$1
    shift
    obd convert --no-progress "$@" "$target" >>convert.log
    line=$(show obd convert "$@" "$target")
    printf '%-73s %s, %s\n' "$line" "$(size "$target")" "$(took "$step")"
}
layer base.obd disk0.raw
layer runtime.obd --base base.obd disk1.raw
layer report.obd --base base.obd --base runtime.obd disk2.raw
cat >config.v1.json <<'CONFIG'
{"lowers": [{"file": "base.obd"}, {"file": "runtime.obd"}, {"file": "report.obd"}]}
CONFIG

echo "3. What the stack is, and where its bytes come from"
show obd info config.v1.json
obd info config.v1.json >info.txt
grep -E '^[a-z]|^ +data:' info.txt | indent
show obd map config.v1.json
obd map config.v1.json >map.txt
sed -n '1,4p;5s/.*/.../p;$p' map.txt | indent
show obd check config.v1.json
obd check --no-progress config.v1.json | tail -n 1 | indent
show "obd convert -O raw config.v1.json - | cmp - disk2.raw"
obd convert --no-progress -O raw config.v1.json - 2>>convert.log | cmp - disk2.raw
echo "     the same bytes"

echo "4. A virtual machine whose disk is that stack"
show obd serve config.v1.json -- images/boot.sh
step=$(now)
obd serve config.v1.json -- "$images/boot.sh" . >boot.log 2>&1 || {
    cat boot.log
    echo "FAILED: the machine did not boot, or its program failed" >&2
    exit 1
}
sed -n '/^OBD-BEGIN/,/^OBD-END/p' serial.log | sed '1d;$d' >printed
sed 's/^/     guest: /' printed
cmp -s printed expected || {
    echo "FAILED: the guest should have printed:" >&2
    cat expected >&2
    exit 1
}
echo "     as expected, $(sed -n 's/^OBD-MACHINE //p' boot.log), from start to power off $(took "$step")"
echo
echo "All of it took $(took "$started"). The files are in ${PWD#"$OLDPWD/"}."
