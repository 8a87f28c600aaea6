#!/usr/bin/env bash
# Which lines of ours the tests run: builds the preset "coverage", runs the unit tests and the end-to-end tests with that
# daemon, and prints a table by file. tools/coverage.sh [END-TO-END TEST FILE…]; default: all of them. Trainers are of
# the default build. A process that is killed leaves no counts: what only dies runs is not counted.
set -euo pipefail
cd "$(dirname "$0")/.."

tests=("$@")
[ ${#tests[@]} -gt 0 ] || tests=(tests/e2e)
tools/setup.sh

tools/build.sh default
tools/build.sh coverage
find build-coverage -name '*.gcda' -delete
mapfile -t pythons < <(tools/setup_python.sh)
export PAWL_PYTHON=${pythons[1]}
# A test that fails is another tool's business; what it ran has been run.
ctest --test-dir build-coverage --parallel 2 | tail -n 3 || true
PAWL_DAEMON_BIN=$PWD/build-coverage/bin /usr/bin/python3 -m pytest -q -p no:cacheprovider "${tests[@]}" | tail -n 3 || true
gcovr --root . --object-directory build-coverage --filter 'src/' --filter 'daemon/' --filter 'tools/' \
    --exclude-throw-branches --print-summary
