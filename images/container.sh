#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# container - a container image of Debian packages, and layers made of it.
#
#   images/container.sh CACHE OUT [PACKAGE...]
#
# Leaves in OUT:
#   layout/   an OCI layout: "debian" is the image in two layers, packages and a
#             program; "debian_obd" the same as an image of overlaybd
#   image/    the same layers with a config.v1.json
#
# PACKAGE... are python3-minimal unless they are given. OBD=... is the obd to
# use, WORDS=... further words for obd convert.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cache=$1 out=$2
shift 2
[ $# -gt 0 ] || set -- python3-minimal
obd=${OBD:-$here/../.venv/bin/obd}

"$here/rootfs.sh" "$cache" container "$@"
mkdir -p "$out"
rm -rf "$out/layout" "$out/image"
work=$(mktemp -d "$out/container.XXXXXX")
trap 'rm -rf "$work"' EXIT

# The second layer: a program of our own, as the tree of a directory.
mkdir -p "$work/tree/opt/hello"
cat >"$work/tree/opt/hello/hello" <<'END'
#!/bin/sh
. /etc/os-release
echo "hello from $PRETTY_NAME, $(find / -xdev | wc -l) files"
END
chmod 755 "$work/tree/opt/hello/hello"
tar -C "$work/tree" --sort=name --mtime=@1577836800 --owner=0 --group=0 \
    --numeric-owner -cf "$work/program.tar" .

umoci init --layout "$out/layout"
umoci new --image "$out/layout:debian"
umoci raw add-layer --image "$out/layout:debian" "$cache/container.tar"
umoci raw add-layer --image "$out/layout:debian" "$work/program.tar"
umoci config --image "$out/layout:debian" --config.cmd /opt/hello/hello

# shellcheck disable=SC2086
"$obd" convert --compress zstd --block-size 64k ${WORDS:-} \
    "oci:$out/layout:debian" "oci:$out/layout:debian_obd"
# The layers are known by now: these are copies.
# shellcheck disable=SC2086
"$obd" convert --compress zstd --block-size 64k --tar ${WORDS:-} \
    "oci:$out/layout:debian" "$out/image"
