#!/usr/bin/env bash
# Counts the instructions of a publish, confirm, delivery and acknowledgement with valgrind's
# callgrind, and compares them with benches/baseline.md. Exits with 1 if a count has risen by more
# than 5 %.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

command -v valgrind >/dev/null ||
    { echo "valgrind is not installed (apt-get install valgrind)"; exit 2; }
cargo build --release --quiet -p puka-benches --bin instructions
program=${CARGO_TARGET_DIR:-target}/release/instructions

# Prints the instructions of a run. The difference between two runs excludes the set-up.
count() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$program" "$1" "$2" 2>&1 |
        sed -n 's/.*Collected : \([0-9]*\).*/\1/p'
}

status=0
printf '| work | instructions | baseline | change |\n| --- | --- | --- | --- |\n'
for work in publish confirm deliver ack request; do
    few=$(count "$work" 10000)
    many=$(count "$work" 30000)
    now=$(((many - few) / 20000))
    before=$(sed -n "s/^| $work | \([0-9]*\) |.*/\1/p" benches/baseline.md 2>/dev/null |
        head -1 || true)
    if [ -z "$before" ]; then
        printf '| %s | %d | | |\n' "$work" "$now"
        continue
    fi
    change=$(awk -v now="$now" -v before="$before" \
            'BEGIN { printf "%+.1f", (now / before - 1) * 100 }')
    mark=
    if awk -v change="$change" 'BEGIN { exit !(change > 5) }'; then
        mark=" RISEN"
        status=1
    fi
    printf '| %s | %d | %d | %s %%%s |\n' "$work" "$now" "$before" "$change" "$mark"
done
exit $status
