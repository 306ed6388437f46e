/**
 * The scenes of a model and the limits they live under: who is evicted when pages run short, who sees itself again, and how many may
 * queue. Nothing here holds a {@link Scene}, so that a dropped one can be collected.
 */
import { ModelError } from './errors.ts'
import { untilAborted } from './job.ts'
import { type NativeModel, type NativeSceneResult, type NativeStats, toModelError } from './native.ts'
import { throwIfAborted } from './options.ts'
import type { ScenePrompt } from './text/prompt.ts'

/** A scene in the KV cache. */
export interface CachedScene {
  prompt: ScenePrompt
  result: NativeSceneResult
}

/** How a scene is seen: again after others were evicted for it, and again after it was evicted itself. */
export interface SceneLoader<S extends CachedScene> {
  see(signal: AbortSignal | undefined): Promise<S>
  /** What it will take; 0 until that is known. */
  tokens: number
  /** No more tries: pictures that were kept for the next one may go. */
  end(): void
}

/** What the cache knows of a scene. */
export class SceneEntry<S extends CachedScene = CachedScene> {
  /** Undefined while evicted. */
  seen: S | undefined
  disposed = false
  /** Questions of it that the addon works on. */
  running = 0
  /** Questions that wait for it to be seen again. */
  awaited = 0
  lastUsed = 0
  reloading: Promise<void> | undefined
  readonly imageTokens: number
  readonly loader: SceneLoader<S>

  constructor(seen: S, loader: SceneLoader<S>) {
    this.seen = seen
    this.imageTokens = seen.result.imageTokens
    this.loader = loader
  }
}

export interface SceneLimits {
  maxScenes: number
  /** What becomes of a scene that was evicted; `undefined`: none is. */
  evict: 'resee' | 'throw' | undefined
  maxBatch: number
  maxQueue: number
  pageTokens: number
}

/** What `stats` adds to the addon's. */
export interface SceneCacheStats {
  evicted: number
  reseen: number
}

export class SceneCache {
  readonly stats: SceneCacheStats = { evicted: 0, reseen: 0 }
  readonly #native: NativeModel
  readonly #limits: SceneLimits
  readonly #entries = new Set<SceneEntry>()
  /** Places among `maxScenes` without an entry: scenes that are being seen, and what dialogues keep. */
  #places = 0
  #questions = 0
  #loads = 0
  /** Calls under way that do not wait for others to leave: as long as there is one, there is something to wait for. */
  #active = 0
  /** What those wait for who found no room. */
  #departure: { promise: Promise<void>; resolve: () => void } | undefined
  #closed = false
  #clock = 0
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

  /** The model is disposed of: whoever waits is told, and nobody waits any more. */
  close(): void {
    this.#closed = true
    this.#wake()
  }

  /** Sees a scene. */
  async see<S extends CachedScene>(loader: SceneLoader<S>, signal: AbortSignal | undefined): Promise<SceneEntry<S>> {
    this.checkQueue(0, 1)
    this.#loads++
    this.#active++
    try {
      await this.#takePlace(undefined, signal)
      try {
        const seen = await this.#load(undefined, loader, signal)
        const entry = new SceneEntry<S>(seen, loader)
        entry.lastUsed = ++this.#clock
        this.#entries.add(entry)
        return entry
      } finally {
        this.#places--
      }
    } finally {
      this.#loads--
      this.#leave()
    }
  }

  /** Releases the scene when this object is collected. */
  watch(owner: object, entry: SceneEntry): void {
    this.#dropped.register(owner, entry, entry)
  }

  /**
   * Does something with a scene that is in the cache; sees it again if it was evicted and that is wanted.
   *
   * @param work - Must hand its job to the addon before it waits for anything.
   * @param tokens - About what it takes beside the scene, to evict enough at once.
   */
  async use<S extends CachedScene, T>(
    entry: SceneEntry<S>,
    work: (seen: S) => Promise<T>,
    tokens: number,
    signal: AbortSignal | undefined,
  ): Promise<T> {
    this.checkQueue(1)
    this.#questions++
    this.#active++
    try {
      for (;;) {
        entry.lastUsed = ++this.#clock
        while (entry.seen === undefined && !entry.disposed) await this.#reload(entry, signal)
        if (entry.disposed) throw new ModelError('DISPOSED', 'The scene was disposed; call model.see(views) again.')
        const seen = entry.seen!
        const done = await this.#attempt(entry, () => work(seen))
        if ('value' in done) return done.value
        if (!(await this.#makeRoom(entry, tokens, signal))) throw done.error
      }
    } finally {
      this.#questions--
      this.#leave()
    }
  }

  /** {@link use} for what has its own place in the cache. */
  async run<T>(work: () => Promise<T>, tokens: number, signal: AbortSignal | undefined): Promise<T> {
    this.checkQueue(1)
    this.#questions++
    this.#active++
    try {
      return await this.#withRoom(undefined, work, () => tokens, signal)
    } finally {
      this.#questions--
      this.#leave()
    }
  }

  /**
   * Does something that leaves a sequence of its own in the cache, which counts among `maxScenes` until {@link leavePlace}.
   *
   * @param own - The scene it goes on from, which is not evicted for it.
   */
  async inPlace<T>(own: SceneEntry | undefined, work: () => Promise<T>, signal: AbortSignal | undefined): Promise<T> {
    this.checkQueue(1)
    let working: Promise<T>
    this.#active++
    try {
      await this.#takePlace(own, signal)
      working = work() // which counts by itself from here on
    } finally {
      this.#leave()
    }
    try {
      return await working
    } catch (error) {
      this.leavePlace()
      throw error
    }
  }

  /** A sequence that takes the place of another one, which leaves at once or is still somebody else's. */
  addPlace(): void {
    this.#places++
  }

  leavePlace(): void {
    this.#places--
    this.#wake()
  }

  drop(entry: SceneEntry): void {
    if (entry.disposed) return
    entry.disposed = true
    this.#dropped.unregister(entry)
    this.#release(entry)
    this.#wake()
  }

  #release(entry: SceneEntry): void {
    if (entry.seen !== undefined) this.#native.release(entry.seen.result.scene)
    entry.seen = undefined
    this.#entries.delete(entry)
  }

  /** Room among `maxScenes`. */
  async #takePlace(own: SceneEntry | undefined, signal: AbortSignal | undefined): Promise<void> {
    const { maxScenes, evict } = this.#limits
    this.#throwIfClosed()
    while (this.#entries.size + this.#places >= maxScenes) {
      if (evict !== undefined && (await this.#makeRoom(own, 1, signal))) continue
      const what = `maxScenes lets ${maxScenes} scenes and dialogues stand in the cache, and there are so many`
      throw new ModelError(
        'OUT_OF_MEMORY',
        evict === undefined
          ? `${what}. Dispose of one, or load the model with a larger maxScenes, or with { evict: 'resee' }.`
          : `${what}, none of which can be evicted. Dispose of one, or load the model with a larger maxScenes.`,
      )
    }
    this.#places++
  }

  async #load<S extends CachedScene>(
    entry: SceneEntry | undefined,
    loader: SceneLoader<S>,
    signal: AbortSignal | undefined,
  ): Promise<S> {
    try {
      return await this.#withRoom(
        entry,
        () => loader.see(signal),
        () => loader.tokens,
        signal,
      )
    } finally {
      loader.end()
    }
  }

  async #withRoom<T>(
    entry: SceneEntry | undefined,
    work: () => Promise<T>,
    tokens: () => number,
    signal: AbortSignal | undefined,
  ): Promise<T> {
    for (;;) {
      const done = await this.#attempt(entry, work)
      if ('value' in done) return done.value
      if (!(await this.#makeRoom(entry, tokens(), signal))) throw done.error
    }
  }

  /** One try. An error that eviction may help against is handed back, others are thrown. */
  async #attempt<T>(
    entry: SceneEntry | undefined,
    work: () => Promise<T>,
  ): Promise<{ value: T } | { error: ModelError }> {
    if (entry !== undefined) entry.running++
    try {
      return { value: await work() }
    } catch (error) {
      const shortOfRoom = error instanceof ModelError && error.code === 'OUT_OF_MEMORY'
      if (shortOfRoom && this.#limits.evict !== undefined) return { error }
      throw error
    } finally {
      if (entry !== undefined) entry.running--
    }
  }

  /** A call ends, well or not. */
  #leave(): void {
    this.#active--
    this.#wake()
  }

  /** Those who wait for room look again. */
  #wake(): void {
    this.#departure?.resolve()
    this.#departure = undefined
  }

  /** Waits for others, who do not wait for this call in turn. */
  async #passively(promise: Promise<void>, signal: AbortSignal | undefined): Promise<void> {
    this.#active--
    try {
      await untilAborted(promise, signal)
    } finally {
      this.#active++
    }
    this.#throwIfClosed()
  }

  #throwIfClosed(): void {
    if (this.#closed) throw new ModelError('DISPOSED', 'The model was disposed; load it again to ask more.')
  }

  #nativeStats(): NativeStats {
    try {
      return this.#native.stats()
    } catch (error) {
      throw toModelError(error)
    }
  }

  /** Evicts the idle scenes that were not asked for longest, or waits for one that works. False: there is nothing to wait for. */
  async #makeRoom(own: SceneEntry | undefined, tokens: number, signal: AbortSignal | undefined): Promise<boolean> {
    throwIfAborted(signal)
    this.#throwIfClosed()
    // What was seen again for somebody is not taken away before he asks.
    const others = [...this.#entries].filter((entry) => entry !== own)
    const idle = others.filter((entry) => entry.running === 0 && entry.awaited === 0)
    if (idle.length > 0) {
      idle.sort((a, b) => a.lastUsed - b.lastUsed)
      const { pageTokens } = this.#limits
      const { pagesTotal, pagesUsed } = this.#nativeStats()
      let short = Math.ceil(tokens / pageTokens) - (pagesTotal - pagesUsed)
      for (const entry of idle) {
        short -= Math.ceil(entry.seen!.result.tokens / pageTokens)
        this.#release(entry)
        this.stats.evicted++
        if (short <= 0) break
      }
      return true
    }
    if (this.#active === 1 && others.length === 0) return false // only this call is left
    this.#departure ??= departure()
    await this.#passively(this.#departure.promise, signal)
    return true
  }

  /** Those who ask at the same time wait for the same sight. */
  async #reload<S extends CachedScene>(entry: SceneEntry<S>, signal: AbortSignal | undefined): Promise<void> {
    if (this.#limits.evict === 'throw') {
      throw new ModelError(
        'DISPOSED',
        "The scene was evicted to make room for others; see its views again, or load the model with { evict: 'resee' } or more kvMemory.",
      )
    }
    throwIfAborted(signal) // and it is not seen again for nobody
    this.#throwIfClosed()
    if (entry.reloading === undefined) {
      const reloading = this.#loadAgain(entry).finally(() => {
        entry.reloading = undefined
      })
      reloading.catch(() => undefined) // told to those who wait for it; they may have left
      entry.reloading = reloading
    }
    entry.awaited++
    try {
      await this.#passively(entry.reloading, signal)
    } finally {
      entry.awaited--
    }
  }

  async #loadAgain<S extends CachedScene>(entry: SceneEntry<S>): Promise<void> {
    this.#active++
    try {
      await this.#takePlace(entry, undefined)
    } catch (error) {
      this.#leave()
      throw error
    }
    try {
      const seen = await this.#load(entry, entry.loader, undefined)
      this.stats.reseen++
      if (entry.disposed) {
        this.#native.release(seen.result.scene)
        return
      }
      entry.seen = seen
      this.#entries.add(entry)
    } finally {
      this.#places--
      this.#leave()
    }
  }
}

function departure(): { promise: Promise<void>; resolve: () => void } {
  let resolve = () => {}
  const promise = new Promise<void>((done) => {
    resolve = done
  })
  return { promise, resolve }
}
