#!/usr/bin/env bash
# Configures and builds a preset (default: "default"). Output only if something goes wrong. "torch2" is what needs
# LibTorch, with PyPI's instead of Debian's; "bench" is what bench/ runs, with the same LibTorch.
set -euo pipefail
cd "$(dirname "$0")/.."

# A clone in another folder finds what the last one compiled.
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1

preset=${1:-default}
shift || true
settings=()
if [ "$preset" = torch2 ] || [ "$preset" = bench ]; then
    environment=$(tools/setup_torch2.sh)
    for torch in "$environment"/lib/python3*/site-packages/torch; do
        settings+=("-DTORCH_ROOT=$torch")
    done
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { cmake --preset "$preset" "${settings[@]}" && cmake --build --preset "$preset" "$@"; } > "$log" 2>&1; then
    tail -n 60 "$log"
    echo "the build of preset '$preset' has failed" >&2
    exit 1
fi
