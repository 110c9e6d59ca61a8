#!/bin/bash
# deb.sh [FOLDER]: build the Debian packages of this tree into FOLDER (dist/deb).
# Builds in a copy, with Debian's own Python whatever else is on the PATH.
set -eu
cd "$(dirname "$0")/.."

out=${1:-dist/deb}
command -v dpkg-buildpackage >/dev/null || {
    echo "deb: this takes Debian and the packages of tests_package/packages.txt" >&2
    exit 1
}

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
trap 'exit 1' INT TERM HUP
mkdir "$copy/perdition"
if [ -e .git ]; then
    git ls-files --cached --others --exclude-standard -z | while IFS= read -r -d '' file; do
        [ ! -e "$file" ] || printf '%s\0' "$file"
    done
else
    find . -type f ! -path './.venv/*' ! -path './dist/*' ! -name '*.pyc' -print0
fi | xargs -0 cp -a --parents -t "$copy/perdition"

log=$copy/log
if ! (
    cd "$copy/perdition"
    unset PYTHONPATH PYTHONHOME VIRTUAL_ENV
    PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 dpkg-buildpackage -us -uc
) >"$log" 2>&1; then
    cat "$log" >&2
    exit 1
fi
mkdir -p "$out"
rm -f "$out"/perdition*
mv "$copy"/perdition*_* "$out/"
ls "$out"/*.deb
