#!/bin/bash
# tools/lint.sh          checks format, style, layout and clang-tidy; one line per finding
# tools/lint.sh --fix    formats the sources and applies ruff's safe fixes
set -euo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin
mapfile -t cpp < <(find csrc tests cuda bench -type f \( -name '*.cpp' -o -name '*.hpp' -o -name '*.cu' -o -name '*.cuh' \) 2>/dev/null | sort)
mapfile -t python < <(find papilio papilio_entry.py tests tools examples bench setup.py -name '*.py' -not -path '*/__pycache__/*' 2>/dev/null | sort)

for tool in clang-format clang-tidy ruff; do
  [[ -x $bin/$tool ]] || { echo "lint: $bin/$tool is missing; run: make setup" >&2; exit 1; }
done

if [[ "${1:-}" == --fix ]]; then
  $bin/clang-format -i "${cpp[@]}"
  $bin/ruff check -q --fix "${python[@]}" || true
  $bin/ruff format -q "${python[@]}"
  exit 0
fi

mkdir -p build/lint
out=build/lint/findings.txt
# Every tool runs, whatever the one before it found. Absolute names are cut to the repository's.
{
  $bin/clang-format --dry-run --ferror-limit=1 "${cpp[@]}" 2>&1 |
    sed -nE 's/^(.*:[0-9]+):[0-9]+: (warning|error): .*/\1: not formatted; run `make format`/p' |
    sort -u -t: -k1,1
  $bin/ruff check -q --output-format concise "${python[@]}" | grep -v '^Found ' || true
  $bin/ruff format --check "${python[@]}" 2>/dev/null |
    sed -n 's/^Would reformat: \(.*\)/\1: not formatted; run `make format`/p' || true
  for tool in check_layout run_tidy; do
    $bin/python tools/$tool.py 2>build/lint/$tool.err || true
    # A tool that broke has found nothing, and that is a finding.
    grep -H "^[A-Za-z]*\(Error\|Exception\): " build/lint/$tool.err || true
  done
} | sed "s|^$PWD/||" | tee "$out"
count=$(wc -l <"$out")
if [[ $count -gt 0 ]]; then
  echo "lint: $count findings" >&2
  exit 1
fi
echo "lint: clean (${#cpp[@]} C++ and ${#python[@]} Python files)"
