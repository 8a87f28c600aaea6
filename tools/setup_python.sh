#!/usr/bin/env bash
# Builds the wheel of the Python package and installs it beside PyTorch 2.x (from PyPI) and beside Debian's 1.13.
# Prints the two interpreters, a line each. Environments: tools/setup_torch2.sh, and build/python/torch1.
set -euo pipefail
cd "$(dirname "$0")/.."

torch2=$(tools/setup_torch2.sh)
here=$PWD/build/python
torch1=$here/torch1
mkdir -p "$here"
[ -x "$torch1/bin/python" ] || /usr/bin/python3 -m venv --system-site-packages "$torch1"

export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1
rm -f "$here"/pawl-*.whl
"$torch2/bin/pip" wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$here" ./python >&2
for environment in "$torch1" "$torch2"; do
    "$environment/bin/pip" install --quiet --disable-pip-version-check --no-deps --force-reinstall "$here"/pawl-*.whl >&2
    echo "$environment/bin/python"
done
