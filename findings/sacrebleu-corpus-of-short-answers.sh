#!/usr/bin/env bash
# sacrebleu 2.6.0 (PyPI): answers to questions about pictures are short. "Yes." against "Yes." has a sentence BLEU of 100. Three such pairs, all equal, have a
# corpus BLEU of 0: a corpus without a single run of four words has no precision of four words, and what sentence_bleu does about that (it leaves such
# orders out) corpus_bleu does not do unless asked. One long answer that is wrong beside them, and the same three perfect answers count again.
# Exits 0 while the surprise is there.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv env
env/bin/pip install --quiet sacrebleu==2.6.0
cat > show.py <<'EOF'
import sys
import sacrebleu

answers = ["Yes.", "No.", "Yes."]
sentences = [sacrebleu.sentence_bleu(one, [one]).score for one in answers]
corpus = sacrebleu.corpus_bleu(answers, [answers]).score
told = sacrebleu.BLEU(effective_order=True).corpus_score(answers, [answers]).score
said, meant = answers + ["a red car is ahead of us"], answers + ["the bus stands to the left"]
beside = sacrebleu.corpus_bleu(said, [meant]).score
print("each", [f"{one:.0f}" for one in sentences], f"all three {corpus:.0f}, with effective_order {told:.0f}, beside a wrong one {beside:.1f}")
surprise = all(one > 99.9 for one in sentences) and corpus == 0 and beside > 0
print("Three perfect answers are worth nothing, and something beside a wrong one." if surprise else "Changed.")
sys.exit(0 if surprise else 1)
EOF
env/bin/python show.py 2>&1
