#!/bin/sh
# Installs what a fresh Debian 12 needs to build and boot Perigee. Asks nothing, says what it does,
# changes nothing when all is there. Run by `make`; needs root (or sudo) only when something is missing.
set -eu

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else die "missing packages and neither root nor sudo; install them as root: $*"
    fi
}

have() { dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q '^install ok installed'; }

# What each package is for stands behind it; order does not matter.
bookworm='
build-essential:the host compiler
gcc-aarch64-linux-gnu:the cross compiler
libc6-dev-arm64-cross:static glibc for aarch64
flex:kernel
bison:kernel
bc:kernel
libelf-dev:kernel
libssl-dev:kernel
cpio:kernel
kmod:kernel
zstd:kernel and archives
xz-utils:kernel source
python3:kernel-hardening-checker and nftables
linux-source-6.12:the kernel (security suite)
dosfstools:mkfs.vfat for the ESP
mtools:files into the ESP without a mount
e2fsprogs:mkfs.ext4 and debugfs for the data partition
ovmf:UEFI firmware, x86_64
qemu-efi-aarch64:UEFI firmware, aarch64
libseccomp-dev:runc
libmnl-dev:nft
libjansson-dev:nft
autoconf:nft
automake:nft
libtool:nft
pkg-config:runc and nft
dpkg-dev:source packages
curl:looking around
ca-certificates:package downloads
'
# Foreign-architecture packages: headers and static libraries for runc and nft.
foreign='libseccomp-dev:arm64 libmnl-dev:arm64 libjansson-dev:arm64'
# bookworm's QEMU 7.2 and erofs-utils 1.5 are too old (no sdhci-pci eMMC machine we use, no zstd).
backports='qemu-system-x86 qemu-system-arm qemu-utils ipxe-qemu'

missing=''
for line in $(printf '%s' "$bookworm" | cut -d: -f1) $foreign; do
    have "$line" || missing="$missing $line"
done
missing_backports=''
for p in $backports; do
    v=$(dpkg-query -W -f='${Version}' "$p" 2>/dev/null || true)
    [ -n "$v" ] || { missing_backports="$missing_backports $p"; continue; }
    case $p in qemu-*) dpkg --compare-versions "$v" ge 1:9 || missing_backports="$missing_backports $p" ;; esac
done

if [ -n "$missing$missing_backports" ]; then
    say "this takes one or two minutes; installing:$missing$missing_backports"
    dpkg --print-foreign-architectures | grep -qx arm64 || as_root dpkg --add-architecture arm64
    # The backports and source suites come from the mirror this machine already uses.
    if ! apt-cache policy | grep -q 'n=bookworm-backports' || ! grep -rqs perigee /etc/apt/sources.list.d; then
        mirror=$( (grep -hE '^URIs:' /etc/apt/sources.list.d/*.sources 2>/dev/null | awk '{print $2}'
                   grep -hE '^deb ' /etc/apt/sources.list 2>/dev/null | awk '{print $2}') | grep -v security | grep debian | head -n 1)
        [ -n "$mirror" ] || die "no Debian mirror found in /etc/apt; add one and run again"
        printf '# Written by image/setup.sh of perigee.\nTypes: deb deb-src\nURIs: %s\nSuites: bookworm-backports\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\nTypes: deb-src\nURIs: %s\nSuites: bookworm\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n' \
            "$mirror" "$mirror" | as_root tee /etc/apt/sources.list.d/perigee.sources >/dev/null
    fi
    as_root apt-get update -qq
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086
    [ -z "$missing" ] || as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
    # shellcheck disable=SC2086
    [ -z "$missing_backports" ] || as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends -t bookworm-backports $missing_backports >/dev/null
fi
say "packages: all there"
