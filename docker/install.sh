#!/bin/sh
# Installs medsoft with the versions of constraints.txt into a virtual environment of its own.
# usage: install.sh SOURCE VENV [options of pip install]
# SOURCE may be read-only, and nobody needs to be root.
set -eu
source=$1
venv=$2
shift 2
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
# pip builds within the source: a copy of what the package is made of.
for part in pyproject.toml constraints.txt README.md LICENSE configs medsoft; do
  cp -R "$source/$part" "$copy"
done
chmod -R u+w "$copy"
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/python" -m pip install --no-cache-dir --disable-pip-version-check \
  --constraint "$copy/constraints.txt" "$@" "$copy"
"$venv/bin/medsoft" --version
