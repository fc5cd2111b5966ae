# Shared by the scripts of this folder: where the cache is, how to become root, how to tell
# what is missing. Sourced, not run.

set -euo pipefail

provision_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# The servers run as user postgres when we are root, and nobody else may enter /root: root's
# cache is a system folder. `testkit::Install` follows the same rule.
if [ -n "${PGHERD_CACHE:-}" ]; then
    cache=$PGHERD_CACHE
elif [ "$(id -u)" = 0 ]; then
    cache=/var/cache/pgherd
else
    cache=$HOME/.cache/pgherd
fi

say() {
    printf 'provision: %s\n' "$*" >&2
}

die() {
    say "$*"
    exit 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "needs root for: $* (no sudo here)"
    fi
}

# Prints those of the given Debian packages that are not installed.
packages_missing() {
    local name
    for name in "$@"; do
        if [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" != installed ]; then
            echo "$name"
        fi
    done
}

# Installs the given Debian packages; touches neither the network nor apt when all are there.
install_packages() {
    local missing
    mapfile -t missing < <(packages_missing "$@")
    if [ "${#missing[@]}" = 0 ]; then
        return
    fi
    command -v apt-get >/dev/null || die "install these by hand, there is no apt-get: ${missing[*]}"
    say "installing Debian packages: ${missing[*]}"
    as_root apt-get update -q >&2
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends "${missing[@]}" >&2
}

# Runs the rest of the script alone on this cache: two `make test` at once must not race.
lock_cache() {
    mkdir -p "$cache"
    chmod a+rx "$cache"
    exec 9>"$cache/.lock"
    flock 9
}

# Puts the finished folder $1 in the place $2, whole or not at all.
publish() {
    chmod -R a+rX "$1"
    rm -rf "$2"
    mkdir -p "$(dirname "$2")"
    mv "$1" "$2"
}
