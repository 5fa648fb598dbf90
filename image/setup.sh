#!/bin/sh
# Installs what a fresh Debian 12 needs to build and boot Perigee. Asks nothing, says what it does, and changes
# nothing when all is there. Run by `make`; needs root (or sudo) only when something is missing.
set -eu
export LC_ALL=C

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else die "needs root for: $* (there is no sudo; run image/setup.sh once as root)"
    fi
}

# What each package is for stands behind it.
bookworm='
build-essential:the host compiler
gcc-aarch64-linux-gnu:the cross compiler
libc6-dev-arm64-cross:static glibc for aarch64
flex:kernel
bison:kernel
bc:kernel, util-linux
libelf-dev:kernel
libssl-dev:kernel
cpio:kernel
kmod:kernel
zstd:kernel and archives
xz-utils:source packages
python3:kernel-hardening-checker
linux-source-6.12:the kernel (security suite)
cryptsetup-bin:veritysetup for the slots
dosfstools:mkfs.vfat for the ESP
mtools:files into the ESP without a mount
e2fsprogs:mkfs.ext4 and debugfs for the data partition
ovmf:UEFI firmware, x86_64
qemu-efi-aarch64:UEFI firmware, aarch64
u-boot-qemu:another UEFI firmware, aarch64
sbsigntool:signatures for Secure Boot
libseccomp-dev:runc
libseccomp-dev@arm64:runc
autoconf:erofs-utils
automake:erofs-utils
libtool:erofs-utils
liblz4-dev:erofs-utils
libzstd-dev:erofs-utils
uuid-dev:erofs-utils
zlib1g-dev:erofs-utils
pkg-config:runc, erofs-utils
dpkg-dev:source packages
ca-certificates:package downloads
'
# bookworm's QEMU 7.2 lacks the sdhci-pci eMMC machine that we use.
backports='qemu-system-x86 qemu-system-arm qemu-utils ipxe-qemu'
# Debian 12 keeps a current Rust for its browsers, with the compiled standard library for aarch64.
rust='rustc-web cargo-web rustfmt-web rust-web-clippy rust-web-src libstd-rust-web-dev libstd-rust-web-dev:arm64'
rust_least=1.95
# From 1.21 on, Go fetches the tool chain that rootfs/go asks for through the module proxy.
go='golang-go'
go_least=1.21

at_least() { dpkg --compare-versions "$1" ge "$2"; }
rust_version() { rustc --version 2>/dev/null | cut -d' ' -f2; }
go_version() { go version 2>/dev/null | cut -d' ' -f3 | sed 's/^go//'; }

# The packages of a list that are not installed, from one question to dpkg.
missing_of() {
    # shellcheck disable=SC2016,SC2086
    known=$(dpkg-query -W -f='${db:Status-Status}/${Package}:${Architecture} ' $1 2>/dev/null || true)
    for package in $1; do
        case $package in *:*) name=$package ;; *) name=$package:$(dpkg --print-architecture) ;; esac
        case " $known" in *" installed/$name "* | *" installed/${name%:*}:all "*) ;; *) printf ' %s' "$package" ;; esac
    done
}

wanted_sources() {
    cat <<EOF
# Written by image/setup.sh of perigee.
Types: deb deb-src
URIs: $1
Suites: bookworm-backports
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb-src
URIs: $1
Suites: bookworm trixie
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: $1
Suites: trixie-backports
Components: main
Architectures: amd64
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
EOF
}
wanted_pin() {
    cat <<'EOF'
# Written by image/setup.sh of perigee: trixie is there for sources and rust-src, nothing is upgraded to it.
Package: *
Pin: release n=trixie*
Pin-Priority: -1
EOF
}

# The mirror that this machine already uses.
mirror() {
    {
        sed -n 's/^URIs: *\([^ ]*\).*/\1/p' /etc/apt/sources.list.d/*.sources || true
        sed -nE 's/^deb +(\[[^]]*\] +)?([^ ]+).*/\2/p' /etc/apt/sources.list /etc/apt/sources.list.d/*.list || true
    } 2>/dev/null | grep debian | grep -v security | head -n 1
}

sources=/etc/apt/sources.list.d/perigee.sources
pin=/etc/apt/preferences.d/perigee
apt_is_set() {
    [ "$(cat $sources 2>/dev/null)" = "$(wanted_sources "$(mirror)")" ] && [ "$(cat $pin 2>/dev/null)" = "$(wanted_pin)" ] &&
        ls /var/lib/apt/lists/*_trixie-backports_main_* >/dev/null 2>&1 &&
        dpkg --print-foreign-architectures | grep -qx arm64
}

packages=$(printf '%s' "$bookworm" | cut -d: -f1 | tr @ :)
missing=$(missing_of "$packages")
missing_backports=$(missing_of "$backports")
[ -n "$missing_backports" ] || at_least "$(dpkg-query -W -f='${Version}' qemu-system-x86)" 1:9 || missing_backports=" $backports"
if ! command -v rustc >/dev/null; then missing="$missing $rust"
elif ! at_least "$(rust_version)" $rust_least; then
    die "rustc is $(rust_version), but Perigee needs $rust_least: run 'rustup update', or remove it and run this again"
elif ! command -v cargo-clippy >/dev/null || ! command -v cargo-fmt >/dev/null; then
    die "rustc has no rustfmt or clippy: run 'rustup component add rustfmt clippy'"
fi
if ! command -v go >/dev/null; then missing_backports="$missing_backports $go"
elif ! at_least "$(go_version)" $go_least; then
    die "go is $(go_version), but Perigee needs $go_least: remove it and run this again"
fi

if [ -n "$missing$missing_backports" ] || ! apt_is_set; then
    if ! grep -qs '^VERSION_CODENAME=bookworm' /etc/os-release || [ "$(dpkg --print-architecture)" != amd64 ]; then
        die "knows Debian 12 on amd64 only; there, it would have installed:$missing$missing_backports"
    fi
    say "some minutes; reads the package lists, then installs:$missing$missing_backports"
    found=$(mirror)
    [ -n "$found" ] || die "no Debian mirror in /etc/apt; add one and run this again"
    as_root dpkg --add-architecture arm64
    wanted_sources "$found" | as_root tee $sources >/dev/null
    wanted_pin | as_root tee $pin >/dev/null
    as_root apt-get update -qq
    install='env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends'
    # shellcheck disable=SC2086
    [ -z "$missing" ] || as_root $install $missing >/dev/null
    # shellcheck disable=SC2086
    [ -z "$missing_backports" ] || as_root $install -t bookworm-backports $missing_backports >/dev/null
    at_least "$(rust_version)" $rust_least ||
        die "Debian's rustc is $(rust_version), but Perigee needs $rust_least: install Rust with rustup and run this again"
    say "all there"
fi
