#!/usr/bin/env bash
# torchmetrics 1.9.0 (PyPI), with torch 2.13.0: an answer may be compared with several references, and these are a set: which is named first should not matter to BLEU. An answer of five words,
# with references of four and of six words, scores 1 where the shorter one is named first, and 0.82 where the longer one is. BLEU takes the length of the reference that is closest to
# the answer's; where two are equally close sacrebleu 2.6.0 and nltk 3.10.3 take the shorter, so both give 1 for either order. torchmetrics takes the one named first, and its
# sacre_bleu_score, which is there to give sacrebleu's numbers, does so too. One would guess that two data loaders that shuffle references get one score.
# Exits 0 while the surprise is there.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv env
rest=(torchmetrics==1.9.0 sacrebleu==2.6.0 nltk==3.10.3)
env/bin/pip install --quiet torch==2.13.0+cpu "${rest[@]}" 2>/dev/null || env/bin/pip install --quiet torch==2.13.0 "${rest[@]}"
cat > show.py <<'EOS'
import sys
import sacrebleu
from nltk.translate.bleu_score import sentence_bleu
from torchmetrics.functional.text import bleu_score, sacre_bleu_score

answer = "the red car turns left"
short, long = "the red car turns", "the red car turns left here"
found = []
for first, second in ((short, long), (long, short)):
    references = [first, second]
    found.append([
        float(bleu_score([answer], [references])),
        float(sacre_bleu_score([answer], [references])),
        sacrebleu.sentence_bleu(answer, references).score / 100,
        sentence_bleu([one.split() for one in references], answer.split()),
    ])
    lengths = " and ".join(str(len(one.split())) for one in references)
    print(f"references of {lengths} words:", *(f"{name} {score:.4f}" for name, score in zip(("bleu_score", "sacre_bleu_score", "sacrebleu", "nltk"), found[-1])))
near = lambda a, b: abs(a - b) < 1e-3
surprise = all(near(score, 1) for score in found[0] + found[1][2:]) and all(near(score, 0.8187) for score in found[1][:2])
print("The order of the references is worth 18 points." if surprise else "Changed.")
sys.exit(0 if surprise else 1)
EOS
env/bin/python show.py
