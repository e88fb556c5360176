#!/bin/sh
# The main job from end to end on the shipped 20 questions: train, pack, verify, ask.
set -eu
n=1
while [ -e "demo/$n" ]; do n=$((n + 1)); done  # earlier results stay
out="demo/$n"
mkdir -p demo
say() { printf '\n== %s\n' "$*"; }

say "Training tiny on 20 questions, with typing errors in the prompts: ghost train --preset tiny --data qa20 ..."
ghost train --preset tiny --data qa20 --out "$out/run" --steps 300 \
    --set prompt_noise=0.1 --set stop_when_solved=false
say "Packing: ghost pack $out/run -o $out/qa20.ghost"
ghost pack "$out/run" -o "$out/qa20.ghost"
say "Reference against runtime, bit by bit: ghost verify $out/qa20.ghost --prompts 20"
ghost verify "$out/qa20.ghost" --prompts 20
say "All 20 questions: ghost eval $out/qa20.ghost --data qa20"
ghost eval "$out/qa20.ghost" --data qa20
for prompt in "list pods" "What is the capital of France?" "sohw disk usgae"; do
    printf '\n$ ghost run %s "%s"\n' "$out/qa20.ghost" "$prompt"
    ghost run "$out/qa20.ghost" "$prompt"
done
say "Files"
ls -l "$out/qa20.ghost" "$out/run"
