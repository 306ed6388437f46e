#!/usr/bin/env bash
# @huggingface/jinja 0.5.11 (npm): a chat template that adds a message's content to a string, given a content that is a list of parts. Jinja2 3.1.6
# (Python), for which such templates are written, raises: can only concatenate str (not "list") to str. Here its parts are added as JSON, so a model
# is asked with braces and quotation marks in its prompt, and nothing says so.
# Exits 0 while the surprise is there.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund --ignore-scripts @huggingface/jinja@0.5.11
cat > show.mjs <<'EOF'
import { Template } from '@huggingface/jinja'

const template = new Template("{% for m in messages %}{{ 'USER: ' + m['content'] + ' ASSISTANT:' }}{% endfor %}")
const messages = [{ role: 'user', content: [{ type: 'image' }, { type: 'text', text: 'What is ahead?' }] }]
let printed
try {
  printed = template.render({ messages })
} catch (error) {
  printed = `an error: ${error.message}`
}
console.log('npm prints:', printed)
const surprise = printed.startsWith('USER: {"type"') && printed.includes('"What is ahead?"')
console.log(surprise ? 'A list was added to a string without an error.' : 'Changed.')
process.exit(surprise ? 0 : 1)
EOF
node show.mjs
