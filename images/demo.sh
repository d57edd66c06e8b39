#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# demo - the main job, narrated: three versions of a disk become three layers,
# a virtual machine boots from the stack of them over NBD, writes to a layer on
# top of it, which becomes the fourth, and loses its disk's server in mid-write.
# Then the image is pushed to a registry, and machines boot straight from there;
# at the end the same image is the root of a container.
#
#   make demo
#
# Fails unless every guest prints what only the layers can tell it. What is made
# stays in .demo/work, what was downloaded in .demo/cache.
set -eu
cd "$(dirname "$0")/.."
if [ -z "${registry:-}" ]; then
    made=${OBD_DEMO_DIR:-$PWD/.demo}/work
    rm -rf "$made"
    exec images/registry.sh "$made/registry" images/demo.sh
fi
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
echo "obdengine: one disk in three versions, layers, and machines that use them"
echo
"$images/fetch.sh" "$demo/cache"

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
grep -E '^(format|virtual size|index)' info.txt | indent
show obd map config.v1.json
obd map config.v1.json >map.txt
sed -n '1,3p;$p' map.txt | indent
show obd check config.v1.json
obd check --no-progress config.v1.json | tail -n 1 | indent
show "obd convert -O raw config.v1.json - | cmp - disk2.raw"
obd convert --no-progress -O raw config.v1.json - 2>>convert.log | cmp - disk2.raw
echo "     the same bytes"

# fail WORDS - end, with what was printed last
fail() {
    cat boot.log >&2
    echo "FAILED: $*" >&2
    exit 1
}

# machine OPTION... -- COMMAND... - boot from an image; its words to `printed`
machine() {
    step=$(now)
    rm -f serial.log
    obd serve "$@" >boot.log 2>&1 || fail "the machine, or what it ran"
    sed -n '/^OBD-BEGIN/,/^OBD-END/p' serial.log | sed '1d;$d' >printed
}

# expect FILE - fail unless the guest printed that; show it, and the time
expect() {
    cmp -s printed "$1" || {
        cat "$1" >boot.log
        fail "the guest printed '$(cat printed)', and should have printed this"
    }
    sed 's/^/     guest: /;$s/$/'"  ($(took "$step"))/" printed
}

echo "4. A virtual machine whose disk is that stack, from start to power off"
show obd serve config.v1.json -- images/boot.sh
machine config.v1.json -- "$images/boot.sh" .
expect expected
echo "     as expected, $(sed -n 's/^OBD-MACHINE //p' boot.log)"

notes=/opt/report/notes
echo "5. It writes, to a layer of its own; that becomes the fourth, and boots"
show obd create config.v1.json machine
obd create config.v1.json machine >create.txt
config=machine/config.v1.json
word=$(od -An -N4 -tx1 /dev/urandom | tr -d ' \n')
echo "motd written by the guest, note $word" >written
show obd serve --read-write $config -- images/boot.sh -w
machine --read-write $config -- "$images/boot.sh" -w . $notes write "$word"
expect written
obd commit --no-progress --config second.v1.json $config notes.obd >commit.txt
line=$(show obd commit --config second.v1.json $config notes.obd)
printf '%-73s %s\n' "$line" "$(size notes.obd)"
show obd serve second.v1.json -- images/boot.sh
machine second.v1.json -- "$images/boot.sh" . $notes show
expect written

echo "6. Its server is killed in the middle of writes, and started again"
show obd serve --read-write $config -- images/cut.sh
step=$(now)
obd serve --read-write $config -- "$images/cut.sh" . 20 >boot.log 2>&1 ||
    fail "the guest should have gone on until its disk failed"
echo "     guest: file after file, $(cat synced) known to be synced, then I/O errors  ($(took "$step"))"
# Mounting replays the journal, as after any power cut.
show obd serve --read-write $config -- images/boot.sh -w
machine --read-write $config -- "$images/boot.sh" -w . $notes count
whole=$(sed -n 's/^whole //p' printed)
[ "$whole" -ge "$(cat synced)" ] || fail "only $whole of the synced files are whole"
echo "     guest: $whole files are whole  ($(took "$step"))"
show "obd convert -O raw $config after.raw; e2fsck -fn after.raw"
obd convert --no-progress -O raw $config after.raw >>convert.log 2>&1
PATH=$PATH:/usr/sbin:/sbin e2fsck -fn after.raw >boot.log 2>&1 ||
    fail "the file system is damaged"
obd check --no-progress $config >check.txt
echo "     clean"

export OBD_CACHE=$PWD/cache
# here - bytes of the image that are in the cache
here() {
    obd cache show --output json |
        sed -n 's/^ *"present": \([0-9]*\),$/\1/p' | awk '{ n += $1 } END { print n + 0 }'
}
# from_registry OPTION... - boot from the registry, say what was fetched for it
from_registry() {
    before=$(here)
    machine "$@" "$name" -- "$images/boot.sh" .
    cmp -s printed expected || fail "the guest printed something else"
    awk "BEGIN { f = $(here) - $before; printf \
        \"     as expected, %.2f of %.2f MiB fetched: %.0f %%  ($(took "$step"))\\n\", \
        f / 2^20, $total / 2^20, 100 * f / $total }"
}
name=docker://$registry/demo:latest
total=$(cat base.obd runtime.obd report.obd | wc -c)
echo "7. The image moves to a registry; machines boot from there, fetching what they read"
show "obd push config.v1.json $name"
step=$(now)
obd push --no-progress config.v1.json "$name" >push.txt
rm base.obd runtime.obd report.obd
echo "     pushed, and removed here  ($(took "$step"))"
echo "   nothing of it is here:"
show "obd serve --record boot.trace $name -- images/boot.sh"
from_registry --record boot.trace
echo "   what was read is here:"
show "obd serve $name -- images/boot.sh"
from_registry
echo "   nothing is here, and what was read then is fetched ahead:"
show "obd cache prune --all; obd serve --trace boot.trace $name -- images/boot.sh"
obd cache prune --all >prune.txt
from_registry --trace boot.trace

# container RUNTIME - the report again, as a container; its words to `printed`
container() {
    step=$(now)
    obd mount --overlay "$image" mounted >boot.log 2>&1 || fail "the mount"
    code=0
    "$images/run.sh" mounted "$1" /opt/report/report >printed 2>boot.log || code=$?
    obd umount mounted
    [ $code -eq 0 ] || fail "the container"
}

# Its layers are in the registry only, by now.
image=$name
echo "8. The same image as a container: no machine, the host's own kernel"
runtime=$(command -v runc || command -v crun || true)
if [ "$(id -u)" -ne 0 ] || [ -z "$runtime" ] || [ ! -e /dev/fuse ]; then
    echo "     left out: it takes root, crun or runc, and /dev/fuse"
else
    mkdir -p mounted
    show "obd mount --overlay $name mounted"
    show "images/run.sh mounted ${runtime##*/} /opt/report/report"
    container "$runtime"
    cmp -s printed expected || fail "the container printed '$(cat printed)'"
    sed 's/^/     container: /;$s/$/'"  ($(took "$step"))/" printed
    show obd umount mounted
    echo "     the words that the machine printed"
fi
echo
echo "All of it took $(took "$started"). The files are in ${PWD#"$OLDPWD/"}."
