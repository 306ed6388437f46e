/**
 * What the scenes of a model need to be asked about and to be seen again, and how many calls may queue. Which scenes are evicted is the
 * engine's to decide (docs/decisions/0027). Nothing here holds a {@link Scene}, so that a dropped one can be collected.
 */
import { ModelError } from './errors.ts'
import { untilAborted } from './job.ts'
import type { NativeEvicted, NativeModel, NativeSceneResult } from './native.ts'
import { throwIfAborted } from './options.ts'
import type { ScenePrompt } from './text/prompt.ts'

/** A scene as it was seen last. */
export interface CachedScene {
  prompt: ScenePrompt
  result: NativeSceneResult
  /** What is kept only while it is in the cache. */
  prepared: unknown
}

/** `scene`: the evicted one that is seen again; 0 for a new one. */
export type SeePrepared<S extends CachedScene> = (scene: number, signal: AbortSignal | undefined) => Promise<S>

/** How a scene is seen, and seen again after it was evicted. */
export interface SceneLoader<S extends CachedScene> {
  /** Makes the pictures ready. What it resolves with sees them, and hands its job to the addon before it waits for anything. */
  prepare(): Promise<SeePrepared<S>>
  /** No more tries: pictures that were kept for the next one may go. */
  end(): void
}

/** What the cache knows of a scene. */
export class SceneEntry<S extends CachedScene = CachedScene> {
  /** The engine's number of it, as long as it lives. */
  readonly scene: number
  readonly imageTokens: number
  readonly loader: SceneLoader<S>
  seen: S
  disposed = false
  reloading: Promise<void> | undefined

  constructor(seen: S, loader: SceneLoader<S>) {
    this.seen = seen
    this.scene = seen.result.scene
    this.imageTokens = seen.result.imageTokens
    this.loader = loader
  }
}

export interface SceneLimits {
  /** An evicted scene that is asked about rejects, and is not seen again. */
  evictedThrow: boolean
  maxBatch: number
  maxQueue: number
}

export class SceneCache {
  readonly #native: NativeModel
  readonly #limits: SceneLimits
  readonly #entries = new Map<number, SceneEntry>()
  #questions = 0
  #loads = 0
  /** Settles when all scenes that were asked for so far are handed to the addon: they are seen in call order. */
  #handed: Promise<void> = Promise.resolve()
  // A scene that nobody holds any more gives its pages back.
  readonly #dropped = new FinalizationRegistry<SceneEntry>((entry) => this.drop(entry))

  constructor(native: NativeModel, limits: SceneLimits) {
    this.#native = native
    this.#limits = limits
  }

  /** @throws {@link ModelError} `BUSY` if so many questions more would have to wait beyond the limit. */
  checkQueue(questions: number, loads = 0): void {
    const { maxQueue, maxBatch } = this.#limits
    const tooMany =
      (questions > 0 && this.#questions + questions > maxBatch + maxQueue) ||
      (loads > 0 && this.#loads + loads > 1 + maxQueue)
    if (!tooMany) return
    throw new ModelError(
      'BUSY',
      `${this.#questions} questions and ${this.#loads} scenes are under way, and maxQueue lets ${maxQueue} wait. ` +
        'Ask again when some are answered, or load the model with a larger maxQueue.',
    )
  }

  /** Sees a scene. */
  async see<S extends CachedScene>(loader: SceneLoader<S>, signal: AbortSignal | undefined): Promise<SceneEntry<S>> {
    this.checkQueue(0, 1)
    this.#loads++
    const before = this.#handed
    let handed = () => {}
    this.#handed = new Promise((resolve) => {
      handed = resolve
    })
    try {
      const see = await loader.prepare()
      await untilAborted(before, signal)
      const seeing = see(0, signal)
      handed()
      const entry = new SceneEntry<S>(await seeing, loader)
      this.#entries.set(entry.scene, entry)
      return entry
    } finally {
      loader.end()
      void before.then(handed)
      this.#loads--
      this.#forgetEvicted()
    }
  }

  /** Releases the scene when this object is collected. */
  watch(owner: object, entry: SceneEntry): void {
    this.#dropped.register(owner, entry, entry)
  }

  /**
   * Asks about a scene; if it was evicted, and that is wanted, it is seen again first.
   *
   * @param work - Asks, with the claim that an eviction left; what it resolves with, or that the scene was evicted.
   */
  async use<S extends CachedScene, T extends object>(
    entry: SceneEntry<S>,
    work: (seen: S, claim: number) => Promise<T | NativeEvicted>,
    signal: AbortSignal | undefined,
  ): Promise<T> {
    return this.counted(async () => {
      let claim = 0
      try {
        for (;;) {
          if (entry.disposed) throw new ModelError('DISPOSED', 'The scene was disposed; call model.see(views) again.')
          const done = await work(entry.seen, claim)
          if (!('claim' in done)) return done
          claim = done.claim
          this.#forgetEvicted() // before it is seen again
          await this.#reload(entry, signal)
        }
      } finally {
        if (claim > 0) this.#native.withdraw(entry.scene, claim)
        this.#forgetEvicted()
      }
    })
  }

  /** Does what counts as a question. */
  async counted<T>(work: () => Promise<T>): Promise<T> {
    this.checkQueue(1)
    this.#questions++
    try {
      return await work()
    } finally {
      this.#questions--
    }
  }

  drop(entry: SceneEntry): void {
    if (entry.disposed) return
    entry.disposed = true
    this.#dropped.unregister(entry)
    this.#entries.delete(entry.scene)
    this.#native.release(entry.scene)
  }

  /** What evicted scenes keep besides is let go. */
  #forgetEvicted(): void {
    for (const scene of this.#native.takeEvicted()) {
      const entry = this.#entries.get(scene)
      if (entry !== undefined) entry.seen.prepared = undefined
    }
  }

  /** Those who ask at the same time wait for the same. */
  async #reload<S extends CachedScene>(entry: SceneEntry<S>, signal: AbortSignal | undefined): Promise<void> {
    if (this.#limits.evictedThrow) {
      throw new ModelError(
        'DISPOSED',
        "The scene was evicted to make room for others; see its views again, or load the model with { evict: 'resee' } or more kvMemory.",
      )
    }
    throwIfAborted(signal) // and it is not seen again for nobody
    if (entry.reloading === undefined) {
      const reloading = this.#seeAgain(entry).finally(() => {
        entry.reloading = undefined
      })
      reloading.catch(() => undefined) // told to those who wait for it; they may have left
      entry.reloading = reloading
    }
    await untilAborted(entry.reloading, signal)
  }

  async #seeAgain<S extends CachedScene>(entry: SceneEntry<S>): Promise<void> {
    const { loader, scene } = entry
    try {
      const see = await loader.prepare()
      if (!entry.disposed) entry.seen = await see(scene, undefined)
    } finally {
      loader.end()
    }
  }
}
