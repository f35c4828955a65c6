#!/usr/bin/env bash
# Resolve the ranges of pyproject.toml into requirements.lock, in a virtual environment of its own, and
# what images have besides into infra/images.lock.
# pip resolves torch's CUDA packages by itself wherever the CUDA build is installed; they are not listed.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$(mktemp -d)
trap 'rm -rf "$venv"' EXIT

pinned() {
    "$venv/bin/pip" freeze --all --exclude-editable \
        | grep -viE '^(nvidia-|cuda-|triton==|pip==)' \
        | sed -E 's/^(torch==[0-9.]+)\+.*/\1/' \
        | sed -E "s/^(decord==.*|hadolint[-_]bin==.*)/\1; platform_system == 'Linux' and platform_machine == 'x86_64'/" \
        | sed -E "s/^(uvloop==.*)/\1; sys_platform != 'win32'/"
}

"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --upgrade pip
"$venv/bin/pip" install --quiet torch==2.13.0 setuptools wheel
"$venv/bin/pip" install --quiet --editable '.[dev]'
{
    echo "# Versions that were tested together. Made by infra/lock.sh; edit pyproject.toml instead."
    pinned
} > requirements.lock
"$venv/bin/pip" install --quiet --constraint requirements.lock --requirement infra/control.txt
{
    echo "# What images have besides requirements.lock. Made by infra/lock.sh; edit infra/control.txt instead."
    pinned | grep -vxFf requirements.lock
} > infra/images.lock
# decord's wheel says that it fits no platform, and works.
if "$venv/bin/pip" check | grep -vE '^(decord .* is not supported|No broken requirements)'; then
    exit 1
fi
