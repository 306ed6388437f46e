/** What Prometheus reads at `/metrics`. */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import type { Answer } from '../answer.ts'
import type { Model } from '../model.ts'

export class Metrics {
  readonly registry: Registry = new Registry()
  readonly refused: Counter
  readonly #answers: Counter
  readonly #tokens: Counter
  readonly #firstToken: Histogram

  constructor(model: Model) {
    const registers = [this.registry]
    collectDefaultMetrics({ register: this.registry })
    this.refused = new Counter({ name: 'drivlm_refused_total', help: 'Requests that found the queue full.', registers })
    this.#answers = new Counter({ name: 'drivlm_answers_total', help: 'Answers.', registers })
    this.#tokens = new Counter({ name: 'drivlm_answer_tokens_total', help: 'Tokens of answers.', registers })
    const buckets = [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30]
    const help = 'Seconds from the question to its first token.'
    this.#firstToken = new Histogram({ name: 'drivlm_first_token_seconds', help, buckets, registers })
    const gauges = {
      pagesUsed: 'Pages of the KV cache in use.',
      pagesTotal: 'Pages of the KV cache.',
      running: 'Questions that are being answered.',
      waiting: 'Questions that wait.',
      scenes: 'Scenes in the KV cache.',
      evicted: 'Scenes that were evicted.',
      tokensPerSecond: 'Tokens of answers a second of decoding, all questions together.',
    } as const
    for (const [key, help] of Object.entries(gauges)) {
      const name = `drivlm_${key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)}`
      const collect = function (this: Gauge) {
        this.set(model.stats()[key as keyof typeof gauges])
      }
      new Gauge({ name, help, registers, collect })
    }
  }

  answered({ usage, timings }: Answer): void {
    this.#answers.inc()
    this.#tokens.inc(usage.answerTokens)
    this.#firstToken.observe(timings.firstTokenMs / 1000)
  }
}
