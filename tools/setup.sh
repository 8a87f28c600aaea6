#!/usr/bin/env bash
# Installs what pawl is built from and tested with: Debian 12 packages by name. Does nothing if all are there.
set -euo pipefail

packages=(
    g++ cmake ninja-build ccache pkg-config git
    libuv1-dev libspdlog-dev libfmt-dev libyaml-cpp-dev librocksdb-dev nlohmann-json3-dev libcli11-dev
    libisal-dev libxxhash-dev libexpected-dev libsystemd-dev libcpp-httplib-dev zlib1g-dev
    libtorch-dev dataset-fashion-mnist
    libgtest-dev libgmock-dev
    python3 python3-dev python3-venv python3-pytest python3-pytest-xdist python3-torch python3-xxhash python3-yaml python3-jsonschema
    unzip procps shellcheck clang clang-format clang-tidy gcovr
)

missing=()
for package in "${packages[@]}"; do
    state=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)
echo "installing: ${missing[*]}"
"${as_root[@]}" apt-get update -qq
DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
