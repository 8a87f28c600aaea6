#!/usr/bin/env bash
# Installs what is needed, builds, and passes every test. With --quick: without the sanitizer build.
set -euo pipefail
cd "$(dirname "$0")/.."

quick=no
[ "${1:-}" = --quick ] && quick=yes

say() { printf '\n== %s (%(%H:%M:%S)T)\n' "$1" -1; }

# Many processes on few cores: threads that wait for each other would take the time of the others.
export OMP_NUM_THREADS=1

say "packages"
tools/setup.sh

say "form: shell scripts, code layout, which room includes which"
shellcheck tools/*.sh bench/*.sh .ci/run
git ls-files '*.cc' '*.h' '*.hpp' '*.c' | xargs clang-format --dry-run -Werror
/usr/bin/python3 -m pytest -q -p no:cacheprovider tests/form

say "build"
tools/build.sh default

say "unit tests"
ctest --test-dir build --output-on-failure --no-tests=error --parallel 2 | tail -n 15

say "files read and written by PyTorch 1.13 and 2"
torch2=$(tools/setup_torch2.sh)
for python in /usr/bin/python3 "$torch2/bin/python"; do
    PAWL_WRITE_SAMPLE=$PWD/build/bin/write_sample PAWL_INTEROP_TOOL=$PWD/build/bin/interop_tool \
        "$python" -m pytest -q -p no:cacheprovider tests/torchfile/torch_interop_test.py
done
PAWL_INTEROP_TOOL=$PWD/build/bin/interop_tool PAWL_TORCH2_ENV=$torch2 \
    /usr/bin/python3 -m pytest -q -p no:cacheprovider tests/torchfile/interop_table_test.py

say "configuration: examples, schema, parser and reference agree"
/usr/bin/python3 -m pytest -q -p no:cacheprovider tests/config

say "libpawl as others build with it"
/usr/bin/python3 -m pytest -q -p no:cacheprovider tests/client

say "a training that changes its language on the way"
/usr/bin/python3 -m pytest -q -p no:cacheprovider tests/torch

say "LibTorch 2: the helper's tests, and the languages again"
tools/build.sh torch2
build-torch2/bin/pawl_torch_tests --gtest_brief=1
"$(tools/setup_torch2.sh)/bin/python" -m pytest -q -p no:cacheprovider tests/torch

say "Python package: types, style, tests beside PyTorch 1.13 and 2"
mapfile -t pythons < <(tools/setup_python.sh)
said=$(mktemp)
trap 'rm -f "$said"' EXIT
(
    cd python
    "${pythons[1]%/*}/mypy"
    "${pythons[1]%/*}/ruff" check . ../examples/python
    "${pythons[1]%/*}/ruff" format --check . ../examples/python
    "${pythons[0]}" -m pytest -q -p no:cacheprovider tests
) > "$said" 2>&1 &
beside=$!
failed=0
"${pythons[1]}" -m pytest -q -p no:cacheprovider python/tests || failed=1
wait "$beside" || failed=1
cat "$said"
[ "$failed" = 0 ]
export PAWL_PYTHON=${pythons[1]}

say "end to end: real processes, killed for real"
/usr/bin/python3 -m pytest -q -p no:cacheprovider --numprocesses 2 tests/e2e --ignore tests/e2e/test_ranks.py
# Its ranks keep to a schedule of milliseconds: not beside trainers.
/usr/bin/python3 -m pytest -q -p no:cacheprovider --numprocesses 2 tests/e2e/test_ranks.py

if [ "$quick" = no ]; then
    say "unit tests under AddressSanitizer and UndefinedBehaviorSanitizer"
    tools/build.sh asan --target pawl_tests
    # Not the tests that replace operator new: under the sanitizers it is theirs.
    ctest --test-dir build-asan --exclude-regex 'NoMemory|pawl_no_memory' --output-on-failure --no-tests=error --parallel 2 | tail -n 8
fi

if [ "$quick" = no ]; then
    say "the daemon under ThreadSanitizer"
    tools/build.sh tsan --target pawl_tests pawld pawl
    export TSAN_OPTIONS="halt_on_error=1 suppressions=$PWD/tests/tsan.supp"
    # Not what is long and knows one thread only: the formats, and the journal's and the exporter's bulk.
    ctest --test-dir build-tsan --output-on-failure --no-tests=error --parallel 2 \
        --exclude-regex 'NoMemory|pawl_no_memory|Pickle|Archive|Damaged|ImageSize|ImageWriter|Verify|Export|JournalBounds|Config' |
        tail -n 8
    export PAWL_DAEMON_BIN=$PWD/build-tsan/bin
    /usr/bin/python3 -m pytest -q -p no:cacheprovider --numprocesses 2 \
        tests/e2e/test_api.py tests/e2e/test_stopped.py tests/e2e/test_checkpoints.py
    /usr/bin/python3 -m pytest -q -p no:cacheprovider --numprocesses 2 tests/e2e/test_ranks.py
fi

say "all tests have passed"
