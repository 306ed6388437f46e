/** A caller's callback, whose errors end the work that calls it: what it throws, and what promises that it returned reject with. */
import { isThenable } from './messages.ts'

export class Listener<Args extends unknown[]> {
  /** Called at the first failure, so that the work may end early. */
  onFailure: (() => void) | undefined
  readonly #callback: ((...args: Args) => unknown) | undefined
  readonly #unsettled = new Set<Promise<void>>()
  #failure: { error: unknown } | undefined

  constructor(callback: ((...args: Args) => unknown) | undefined) {
    this.#callback = callback
  }

  /** Never throws, and does nothing more after a failure. */
  call(...args: Args): void {
    this.guard(() => {
      const heard = this.#callback?.(...args)
      if (!isThenable(heard)) return
      const settled = Promise.resolve(heard).then(
        () => undefined,
        (error: unknown) => this.#fail(error),
      )
      this.#unsettled.add(settled)
      void settled.then(() => this.#unsettled.delete(settled))
    })
  }

  /** Runs something whose failure is one of the callback's, such as making what it is called with. */
  guard(body: () => void): void {
    if (this.#failure !== undefined) return
    try {
      body()
    } catch (error) {
      this.#fail(error)
    }
  }

  /** Resolves when the promises that the callback returned have settled. */
  async settled(): Promise<void> {
    while (this.#unsettled.size > 0) await Promise.all(this.#unsettled)
  }

  get failed(): boolean {
    return this.#failure !== undefined
  }

  throwIfFailed(): void {
    if (this.#failure !== undefined) throw this.#failure.error
  }

  #fail(error: unknown): void {
    if (this.#failure !== undefined) return
    this.#failure = { error }
    this.onFailure?.()
  }
}
