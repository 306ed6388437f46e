#!/usr/bin/env bash
# @huggingface/tokenizers 0.2.0 (npm): a tokenizer.json whose Split step says "MergedWithPrevious", "MergedWithNext" or "Contiguous" loads and
# encodes, but every one of them cuts as "Isolated" does. The compiled library (tokenizers for Python and Rust), which the same file is written for,
# keeps "-" with its neighbour: "a-b-c" is ["a-", "b-", "c"] for MergedWithPrevious and ["a", "-b", "-c"] for MergedWithNext.
# Exits 0 while the surprise is there.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund --ignore-scripts @huggingface/tokenizers@0.2.0
cat > show.mjs <<'EOF'
import { Tokenizer } from '@huggingface/tokenizers'

const pieces = ['a', 'b', 'c', '-', 'a-', 'b-', '-b', '-c', '--', '?']
const cut = (behavior, text) => {
  const tokenizer = new Tokenizer(
    {
      version: '1.0',
      added_tokens: [],
      normalizer: null,
      pre_tokenizer: { type: 'Split', pattern: { String: '-' }, behavior, invert: false },
      post_processor: null,
      decoder: null,
      model: { type: 'WordLevel', vocab: Object.fromEntries(pieces.map((piece, id) => [piece, id])), unk_token: '?' },
    },
    {},
  )
  return tokenizer.pre_tokenizer(text)
}
// What tokenizers 0.22.2 gives for the same step.
const reference = {
  Isolated: ['a', '-', 'b', '-', 'c'],
  MergedWithPrevious: ['a-', 'b-', 'c'],
  MergedWithNext: ['a', '-b', '-c'],
}
const found = Object.fromEntries(Object.keys(reference).map((behavior) => [behavior, cut(behavior, 'a-b-c')]))
for (const [behavior, words] of Object.entries(found))
  console.log(behavior.padEnd(20), 'npm:', JSON.stringify(words), ' compiled:', JSON.stringify(reference[behavior]))
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b)
const surprise =
  same(found.Isolated, reference.Isolated) &&
  same(found.MergedWithPrevious, found.Isolated) &&
  same(found.MergedWithNext, found.Isolated)
console.log(surprise ? 'All three cut the same way.' : 'Changed: they no longer cut the same way.')
process.exit(surprise ? 0 : 1)
EOF
node show.mjs
