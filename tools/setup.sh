#!/bin/sh
# setup.sh PYTHON EXTRA: what the Makefile needs before it can work.
# Makes .venv with this project and its extra (demo: for `make run`; dev: for `make test`).
# For dev it also sees to the Debian packages of tests/packages.txt, for package to those of
# tests_package/packages.txt and to nothing else: root gets them installed, anybody else is told
# what is missing and what will not be done for it.
set -eu
export DEBIAN_FRONTEND=noninteractive

python=$1
extra=$2
cd "$(dirname "$0")/.."

say() { echo "setup: $*" >&2; }

is_root() { [ "$(id -u)" = 0 ]; }

policy=/usr/sbin/policy-rc.d

restore_policy() {
    rm -f "$policy"
    [ ! -e "$policy.kept" ] || mv "$policy.kept" "$policy"
}

# Install Debian packages; a policy of ours keeps them from starting any service meanwhile.
install_packages() {
    say "installing Debian packages: $*"
    log=$(mktemp)
    [ ! -e "$policy" ] || mv "$policy" "$policy.kept"
    trap restore_policy EXIT
    trap 'exit 1' INT TERM HUP
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    if ! { apt-get update && apt-get install -y --no-install-recommends "$@"; } >"$log" 2>&1; then
        cat "$log" >&2
        say "the Debian packages could not be installed"
        exit 1
    fi
    rm -f "$log"
    restore_policy
    trap - EXIT INT TERM HUP
}

is_installed() {
    dpkg-query -W -f '${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed
}

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# Debian's own Python first: it is built with all optimisations, others may not be.
for candidate in ${python:-/usr/bin/python3 python3}; do
    is_new_enough "$candidate" || continue
    python=$candidate
    "$python" -c 'import ensurepip' 2>/dev/null && break
done
[ "$python" ] && is_new_enough "$python" || {
    say "Python 3.11 or later is needed: make PYTHON=/path/to/python3 …"
    exit 1
}

# A Debian without python3-venv has no ensurepip.
if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    if is_root && command -v apt-get >/dev/null; then
        install_packages python3-venv
    else
        say "this Python can't make virtual environments: install python3-venv"
        exit 1
    fi
fi

# See to it that the Debian packages of a list are there.
need_packages() {
    if ! command -v dpkg-query >/dev/null; then
        say "this is no Debian: what takes the programs of $1 is not done"
        return
    fi
    missing=
    while read -r package _; do
        case $package in '' | '#'*) continue ;; esac
        is_installed "$package" || missing="$missing $package"
    done <"$1"
    if [ "$missing" ] && is_root; then
        # shellcheck disable=SC2086 # a list of names
        install_packages $missing
    elif [ "$missing" ]; then
        say "not installed, so what needs them is not done:"
        while read -r package what; do
            case " $missing " in *" $package "*) say "  $package: $what" ;; esac
        done <"$1"
        say "as root, make installs them"
    fi
}

# What the tests run and what drivers are built with, before anything is built.
case $extra in
    dev) need_packages tests/packages.txt ;;
    package)
        need_packages tests_package/packages.txt
        exit 0
        ;;
esac

stamp=.venv/.installed-$extra
if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
    say "making .venv with what $extra needs"
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$extra]"
    if [ "$extra" = dev ]; then
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[built]' ||
            say "the drivers of the bdb and ldap maps could not be built: their tests are skipped"
        # The scanner holds cryptography back, so it lives in an environment of its own.
        { [ -x .venv/sslyze/bin/python ] || "$python" -m venv .venv/sslyze; } &&
            .venv/sslyze/bin/python -m pip install --quiet --disable-pip-version-check 'sslyze>=6' ||
            say "sslyze could not be installed: the tests that scan our TLS are skipped"
    fi
    touch "$stamp"
fi
