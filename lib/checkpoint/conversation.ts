/** The system message of a template in a shipped `conversation.py`, read as text: nothing of it is ever run. */

const maxSourceLength = 1 << 20

/**
 * The `system_message` of a template in conversation.py, undefined when the file has none. The file is scanned, never run:
 * comments are skipped (the released files keep other messages in comments), string literals are read.
 */
export function findSystemMessage(source: string, template: string): string | undefined {
  const scan = new PythonScanner(source.slice(0, maxSourceLength))
  let inside = false
  for (let word = scan.next(); word; word = scan.next()) {
    if (word.name === 'register_conv_template') inside = false
    else if (word.name === 'name' && scan.assigns()) inside = scan.literal() === template
    else if (word.name === 'system_message' && inside && scan.assigns()) return scan.literal()
  }
  return undefined
}

/** Walks names and string literals of Python source. */
class PythonScanner {
  readonly #text: string
  #at = 0

  constructor(text: string) {
    this.#text = text
  }

  /** The next name; strings and comments in between are passed over. */
  next(): { name: string } | undefined {
    while (this.#at < this.#text.length) {
      this.#skipComment()
      if (this.#quote() !== undefined) {
        this.#string()
        continue
      }
      const name = /[A-Za-z_]\w*/y
      name.lastIndex = this.#at
      const found = name.exec(this.#text)?.[0]
      this.#at += found?.length ?? 1
      if (found) return { name: found }
    }
    return undefined
  }

  /** Passes one `=`. */
  assigns(): boolean {
    this.#skipBlank()
    if (this.#text[this.#at] !== '=' || this.#text[this.#at + 1] === '=') return false
    this.#at++
    return true
  }

  /** Adjacent string literals, as Python joins them; undefined when there is none. */
  literal(): string | undefined {
    let out: string | undefined
    for (;;) {
      this.#skipBlank()
      if (this.#text[this.#at] === '(' && out === undefined) this.#at++
      else if (this.#quote() === undefined) return out
      else out = (out ?? '') + this.#string()
    }
  }

  #skipBlank(): void {
    for (;;) {
      const before = this.#at
      while (/\s/.test(this.#text[this.#at] ?? '')) this.#at++
      this.#skipComment()
      if (this.#at === before) return
    }
  }

  #skipComment(): void {
    if (this.#text[this.#at] !== '#') return
    const end = this.#text.indexOf('\n', this.#at)
    this.#at = end < 0 ? this.#text.length : end
  }

  #quote(): string | undefined {
    const first = this.#text[this.#at]
    if (first !== "'" && first !== '"') return undefined
    return this.#text.startsWith(first.repeat(3), this.#at) ? first.repeat(3) : first
  }

  #string(): string {
    const quote = this.#quote()!
    this.#at += quote.length
    let out = ''
    while (this.#at < this.#text.length) {
      if (this.#text.startsWith(quote, this.#at)) {
        this.#at += quote.length
        return out
      }
      const character = this.#text[this.#at++]!
      out += character === '\\' ? this.#escape() : character
    }
    return out
  }

  #escape(): string {
    const character = this.#text[this.#at++] ?? ''
    const plain: Record<string, string> = { n: '\n', t: '\t', r: '\r', '\n': '', "'": "'", '"': '"', '\\': '\\' }
    if (Object.hasOwn(plain, character)) return plain[character]!
    const digits = character === 'u' ? 4 : character === 'x' ? 2 : character === 'U' ? 8 : 0
    const code = Number.parseInt(this.#text.slice(this.#at, this.#at + digits), 16)
    if (digits > 0 && code <= 0x10ffff) {
      this.#at += digits
      return String.fromCodePoint(code)
    }
    return `\\${character}`
  }
}
