#!/usr/bin/env bash
# The main job on real data: a LibTorch run on Fashion-MNIST that is killed in four ways and loses nothing.
# Does all its own set-up on a bare Debian 12. Everything happens in a temporary folder.
set -euo pipefail
cd "$(dirname "$0")/.."

epochs=3
every=100
bin=$PWD/build/bin
[ -t 1 ] && bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m' || bold='' dim='' plain=''

say() { printf '\n%s%s%s\n' "$bold" "$1" "$plain"; }
tell() { printf '%s\n' "$1"; }
show() { sed "s/^/   $dim/; s/\$/$plain/"; }

say "Setting up: packages, then the build (minutes the first time, nothing the second)"
tools/setup.sh
tools/build.sh default

work=$(mktemp -d)
cd "$work"
cleanup() {
    # Whatever ends this script, nothing of it goes on running.
    pkill -KILL -f "$work" 2> /dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT

trainer=("$bin/fashion_mnist" --epochs "$epochs" --threads 1)
started=$SECONDS

# Two runs with the same seed: one is left alone, the other is not.
mkdir undisturbed
(
    cd undisturbed
    exec "$bin/pawl" run --quiet --every-steps "$every" -- \
        "${trainer[@]}" --losses "$work/undisturbed/losses" --weights "$work/undisturbed/weights"
) > undisturbed/log 2>&1 &
undisturbed=$!

seen=0
# What the daemon has said since the last look.
news() {
    tail -n +$((seen + 1)) log | grep '^pawl: ' | grep -v 'is durable (cadence' | cut -c1-240 | fold -s -w 100 | show || true
    seen=$(wc -l < log)
}
launch() {
    "$bin/pawl" run --quiet --every-steps "$every" --keep-last 4 -- \
        "${trainer[@]}" --losses "$work/losses" --weights "$work/weights" >> log 2>&1 &
    daemon=$!
}
field() { "$bin/pawl" status --json 2> /dev/null | python3 -c "import json,sys; job=json.load(sys.stdin)['jobs'][0]; print($1)" 2> /dev/null; }
wait_for_step() {
    local step
    for _ in $(seq 1200); do
        step=$(field "job['step'] if job['ranks'] and job['ranks'][0]['pid'] else 0") || step=0
        [ "${step:-0}" -ge "$1" ] && return 0
        kill -0 "$daemon" 2> /dev/null || { cat log; return 1; }
        sleep 0.05
    done
    return 1
}
wait_for_exit() {
    code=0
    wait "$1" 2> /dev/null || code=$?
}

touch log
say "1. A trainer begins. pawld keeps a checkpoint every $every steps."
tell "   \$ pawl run --every-steps $every -- fashion_mnist --epochs $epochs"
launch
wait_for_step 250
news
"$bin/pawl" status | sed -n '3,8p' | show

say "2. kill -9 hits the trainer."
pid=$(field "job['ranks'][0]['pid']")
kill -9 "$pid"
wait_for_step 450
news

say "3. kill -9 hits the daemon itself. The trainer does not even notice."
pid=$(field "job['ranks'][0]['pid']")
kill -9 "$daemon"
wait_for_exit "$daemon"
kill -0 "$pid" && tell "   the daemon is gone; the trainer (pid $pid) goes on"
tell "   \$ pawl run …   (the same command again)"
launch
wait_for_step 850
news

say "4. SIGTERM, as a spot machine or systemd would send it: one last checkpoint, then exit 75 (resumable)."
kill -TERM "$daemon"
wait_for_exit "$daemon"
news
tell "   exit code: $code"
"$bin/pawl" checkpoints list | show

say "5. While it is down, the disk flips one bit in the newest checkpoint. torch.load would not notice."
newest=.pawl/checkpoints/$(readlink .pawl/checkpoints/latest)/rank-00000.pt
python3 - "$newest" << 'EOF'
import sys
with open(sys.argv[1], "r+b") as file:
    file.seek(60_000)
    byte = file.read(1)[0]
    file.seek(60_000)
    file.write(bytes([byte ^ 0x40]))
EOF
tell "   \$ pawl checkpoints verify latest"
"$bin/pawl" checkpoints verify latest | cut -c1-200 | fold -s -w 100 | show || true

say "6. Started again, it sets the damaged one aside and resumes from the newest valid one, to the end."
launch
wait_for_exit "$daemon"
news
[ "$code" -eq 0 ]
grep -h '^resumed\|^epoch\|^finished' .pawl/logs/rank-00000.log | show

say "The proof: the disturbed run against the one that was left alone"
wait_for_exit "$undisturbed"
[ "$code" -eq 0 ] || { cat undisturbed/log; exit 1; }
python3 - undisturbed/losses losses << 'EOF'
import sys

def losses(path):
    by_step, again = {}, 0
    for line in open(path):
        step, bits, _ = line.split()
        again += step in by_step
        if by_step.setdefault(step, bits) != bits:
            sys.exit(f"   step {step} was computed twice with different losses")
    return by_step, again

(alone, _), (disturbed, again) = losses(sys.argv[1]), losses(sys.argv[2])
if alone != disturbed:
    sys.exit("   the losses differ")
print(f"   losses of all {len(alone)} steps: identical, bit for bit ({again} steps were computed twice)")
EOF
cmp undisturbed/weights weights
tell "   final weights ($(stat -c %s weights) bytes): identical, bit for bit"
accuracy=$(sed -n 's/^finished: best test accuracy \(.*\)%/\1/p' .pawl/logs/rank-00000.log | tail -n 1)
python3 -c "import sys; sys.exit(float('$accuracy') < 88)"
tell "   test accuracy: $accuracy%"
tell "   $((SECONDS - started)) seconds"
