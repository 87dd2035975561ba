#!/bin/sh
# Installs medsoft with the versions of constraints.txt into a virtual environment of its own.
# usage: install.sh SOURCE VENV cuda | SOURCE VENV cpu CPU_WHEELS
# cuda: PyTorch's usual wheels, which bring the CUDA libraries along; cpu: those without, of an index of their own.
# SOURCE may be read-only, and nobody needs to be root.
set -eu
source=$1
venv=$2
variant=$3
case "$variant" in
  cuda) set -- ;;
  cpu) set -- --extra-index-url "${4:?name the index of the CPU wheels of PyTorch}" ;;
  *) echo "install.sh: the variant is cuda or cpu, not $variant" >&2; exit 2 ;;
esac
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
# Where pip cannot reach the index, or finds another version there, it takes the usual wheels without a word.
if [ "$variant" = cpu ] && ! "$venv/bin/python" -c 'import sys, torch; sys.exit(torch.version.cuda is not None)'; then
  echo "install.sh: pip found no wheels of PyTorch without CUDA: name an index that has them as CPU_WHEELS" >&2
  exit 1
fi
"$venv/bin/medsoft" --version
