#!/usr/bin/env bash
# Resolve the ranges of pyproject.toml into requirements.lock, in a virtual environment of its own.
# pip resolves torch's CUDA packages by itself wherever the CUDA build is installed; they are not listed.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$(mktemp -d)
trap 'rm -rf "$venv"' EXIT
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --upgrade pip
"$venv/bin/pip" install --quiet torch==2.13.0 setuptools wheel
"$venv/bin/pip" install --quiet --editable '.[dev]'
{
    echo "# Versions that were tested together. Made by infra/lock.sh; edit pyproject.toml instead."
    "$venv/bin/pip" freeze --all --exclude-editable \
        | grep -viE '^(nvidia-|cuda-|triton==|pip==)' \
        | sed -E 's/^(torch==[0-9.]+)\+.*/\1/' \
        | sed -E "s/^(decord==.*)/\1; platform_system == 'Linux' and platform_machine == 'x86_64'/" \
        | sed -E "s/^(uvloop==.*)/\1; sys_platform != 'win32'/"
} > requirements.lock
