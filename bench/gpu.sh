#!/usr/bin/env bash
# The latency suite at a GPU's size: a 7B shape with dummy weights, 32 adapters; about 10 minutes on an H200, of which
# the engines take 4 to compile. SETTINGS names other settings than bench/gpu.json.
#
#   DATA=folder OUT=folder [SHAPE=vicuna-7b] [TOKENIZER=folder] bench/gpu.sh
#
# TOKENIZER has tokenizer.json and tokenizer_config.json, for a machine without the embedded model.
# DATA has sst2/, trec/ and ag_news/. Results are written as they come: after a cut-off,
#   fourshot bench latency --no-measure ... (the same options)
# sums up what is there.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${DATA:?a folder with sst2/, trec/ and ag_news/}" "${OUT:?where results go}"
shape="${SHAPE:-vicuna-7b}"
exec "${PYTHON:-python}" -m fourshot bench latency --shape "$shape" --settings "${SETTINGS:-bench/gpu.json}" \
    ${TOKENIZER:+--tokenizer "$TOKENIZER"} --data "$DATA" --out "$OUT/latency-$shape.json"
