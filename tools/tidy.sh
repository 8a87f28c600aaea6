#!/usr/bin/env bash
# clang-tidy over our sources, two at a time. A file that passed is not looked at again until something it includes,
# or the checks, have changed: what passed is remembered in ~/.cache/pawl/tidy. Needs a configured build/.
#
#   tools/tidy.sh [FILE …]     default: all of daemon, src, tools and python/src, but what includes LibTorch
set -euo pipefail
cd "$(dirname "$0")/.."

passed=${XDG_CACHE_HOME:-$HOME/.cache}/pawl/tidy
mkdir -p "$passed"
export passed

check() {
    file=$1
    # What the compiler would see, without where it stood: a clone in another folder has the same.
    command=$(python3 - "$file" <<'PYTHON'
import json, os, shlex, sys
wanted = os.path.realpath(sys.argv[1])
for entry in json.load(open("build/compile_commands.json")):
    if os.path.realpath(os.path.join(entry["directory"], entry["file"])) == wanted:
        words = shlex.split(entry["command"])
        words = words[words.index(next(w for w in words if w.startswith("-"))):]
        out = words.index("-o")
        words[out:out + 2] = []
        print(shlex.join(w for w in words if w != "-c"))
        break
PYTHON
    )
    [ -n "$command" ] || return 0
    key=$({ cat .clang-tidy; eval "clang++-14 -E -P -w $command"; } 2> /dev/null | sha256sum | cut -c1-32)
    [ -e "$passed/$key" ] && return 0
    if clang-tidy-14 -p build --quiet "$file" 2> /dev/null; then
        touch "$passed/$key"
    else
        echo "clang-tidy: $file" >&2
        return 1
    fi
}
export -f check

if [ $# -gt 0 ]; then
    printf '%s\n' "$@"
else
    git ls-files 'daemon/*.cc' 'src/*.cc' 'tools/*.cc' | grep -v '^src/torch/'
fi | xargs -P 2 -I{} bash -c 'check {}'
