#!/usr/bin/env bash
# Installs PyTorch 2.x from PyPI into a virtual environment of its own and prints where it is: what the interop tests
# and the CMake preset "torch2" use beside Debian's 1.13. PAWL_TORCH2_ENV names another place. Does nothing if it is there.
set -euo pipefail

version=2.15.0
environment=${PAWL_TORCH2_ENV:-${XDG_CACHE_HOME:-$HOME/.cache}/pawl/torch2}

has_it() {
    [ -x "$environment/bin/python" ] &&
        "$environment/bin/python" -c "import importlib.metadata as m, pytest, numpy, mypy, sys
sys.exit(m.version('torch').split('+')[0] != '$version')" 2> /dev/null
}

if ! has_it; then
    echo "installing PyTorch $version into $environment" >&2
    mkdir -p "$(dirname "$environment")"
    # Two at once would write into each other's files.
    exec 9> "$environment.lock"
    flock 9
    if ! has_it; then
        /usr/bin/python3 -m venv --clear "$environment"
        "$environment/bin/pip" install --quiet --disable-pip-version-check "torch==$version" numpy pytest xxhash mypy ruff >&2
    fi
fi
echo "$environment"
