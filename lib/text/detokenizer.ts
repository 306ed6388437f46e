/**
 * Generated ids to the text of an answer, while they come.
 *
 * What `push` returns may be shown: it is never half a character, never the beginning of what could become a stop string, and
 * all of it together with `finish` is the answer that decoding at once would give: cut at the first stop string, white space
 * at both ends removed as the reference does.
 */
import { ModelError } from '../errors.ts'
import { leadingSpace, trailingSpace } from './added-tokens.ts'
import { heldPrefix, type IncrementalDecoder } from './decoding.ts'
import type { Tokenizer } from './tokenizer.ts'

export interface DetokenizerOptions {
  /** The answer ends before the first of these. */
  stop?: readonly string[]
  /**
   * `<ref>`, `<box>`, `<quad>` and their closers: `keep` for structured reading, `drop` for plain text, `reference` (default) as
   * the reference prints them for this checkpoint. All other special tokens are left out.
   */
  tags?: 'reference' | 'keep' | 'drop'
  /** Remove white space at both ends. Default true. */
  trim?: boolean
}

const maxStops = 64
const maxStopLength = 1024

export class Detokenizer {
  readonly #decoder: IncrementalDecoder
  readonly #stops: readonly string[]
  readonly #trim: boolean
  /** Decoded, not yet given out. */
  #held = ''
  #begun = false
  #stop: string | undefined

  constructor(tokenizer: Tokenizer, options: DetokenizerOptions = {}) {
    this.#decoder = tokenizer.decoder({ skipSpecial: true, tags: options.tags ?? 'reference' })
    this.#stops = (options.stop ?? []).map((stop) => stop.replace(/\p{Surrogate}/gu, '\ufffd'))
    this.#trim = options.trim ?? true
    if (this.#stops.length > maxStops || this.#stops.some((stop) => stop === '' || stop.length > maxStopLength)) {
      throw new ModelError(
        'BAD_ARGUMENT',
        `stop: ${this.#stops.length} strings; give at most ${maxStops}, each of 1 to ${maxStopLength} characters.`,
      )
    }
  }

  /** The stop string that ended the answer. */
  get stopped(): string | undefined {
    return this.#stop
  }

  /** Text that may be shown now. After a stop string, always empty. */
  push(ids: Iterable<number>): string {
    let text = ''
    for (const id of ids) {
      if (this.#stop !== undefined) break
      text += this.#take(this.#decoder.push(id))
    }
    return text
  }

  /** The rest; call once, at the end. */
  finish(): string {
    let text = this.#stop === undefined ? this.#take(this.#decoder.finish()) : ''
    const start = this.#trim && !this.#begun ? leadingSpace(this.#held, 'python') : 0
    const end = this.#trim ? trailingSpace(this.#held, 'python') : this.#held.length
    text += this.#held.slice(start, Math.max(start, end))
    this.#held = ''
    return text
  }

  #take(text: string): string {
    if (text === '') return ''
    this.#held += text
    this.#findStop()
    let safe = this.#held.length
    if (this.#stop === undefined) {
      for (const stop of this.#stops) safe = Math.min(safe, this.#held.length - heldPrefix(this.#held, stop))
    }
    if (this.#trim && !this.#begun) {
      // Leading white space may still belong to a stop string, so it goes only when something else is sure to come.
      const lead = leadingSpace(this.#held, 'python')
      if (lead >= safe) return ''
      this.#begun = true
      this.#held = this.#held.slice(lead)
      safe -= lead
    }
    if (this.#trim) safe = trailingSpace(this.#held.slice(0, safe), 'python')
    const out = this.#held.slice(0, safe)
    this.#held = this.#held.slice(safe)
    return out
  }

  /** The stop string that is complete first; of several, the longest. */
  #findStop(): void {
    let end = Number.POSITIVE_INFINITY
    let found: string | undefined
    for (const stop of this.#stops) {
      const at = this.#held.indexOf(stop)
      if (at < 0) continue
      const stopEnd = at + stop.length
      if (stopEnd < end || (stopEnd === end && stop.length > found!.length)) {
        end = stopEnd
        found = stop
      }
    }
    if (found === undefined) return
    this.#stop = found
    this.#held = this.#held.slice(0, end - found.length)
  }
}
