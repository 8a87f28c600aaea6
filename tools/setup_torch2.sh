#!/usr/bin/env bash
# Installs PyTorch 2.x from PyPI into a virtual environment of its own and prints where it is: what the interop tests
# and the CMake preset "torch2" use beside Debian's 1.13. With it come the frameworks that the Python package has
# callbacks for. PAWL_TORCH2_ENV names another place. Does nothing if it is there; adds what an older one lacks.
set -euo pipefail

version=2.15.0
pinned=("torch==$version" transformers==5.24.0 accelerate==1.15.0 lightning==2.6.6 torchdata==0.11.0 tqdm==4.70.1)
others=(numpy pytest xxhash mypy ruff)
environment=${PAWL_TORCH2_ENV:-${XDG_CACHE_HOME:-$HOME/.cache}/pawl/torch2}

# Asks the packages' metadata and imports none of them: a fraction of a second.
has() {
    [ -x "$environment/bin/python" ] && "$environment/bin/python" - "$@" 2> /dev/null << 'PYTHON'
import importlib.metadata as metadata
import sys

for wanted in sys.argv[1:]:
    name, _, version = wanted.partition("==")
    try:
        installed = metadata.version(name).split("+")[0]
    except metadata.PackageNotFoundError:
        sys.exit(1)
    if version and installed != version:
        sys.exit(1)
PYTHON
}

if ! has "${pinned[@]}" "${others[@]}"; then
    mkdir -p "$(dirname "$environment")"
    # Two at once would write into each other's files.
    exec 9> "$environment.lock"
    flock 9
    # Another PyTorch is begun anew, the rest is added to what is there: PyTorch alone is gigabytes.
    if ! has "${pinned[0]}"; then
        echo "installing PyTorch $version into $environment" >&2
        /usr/bin/python3 -m venv --clear "$environment"
    fi
    if ! has "${pinned[@]}" "${others[@]}"; then
        "$environment/bin/pip" install --quiet --disable-pip-version-check "${pinned[@]}" "${others[@]}" >&2
    fi
fi
echo "$environment"
