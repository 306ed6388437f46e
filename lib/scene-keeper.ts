/**
 * The scenes of a model and the limits they live under: who is evicted when pages run short, who sees itself again, and how many may
 * queue. Nothing here holds a {@link Scene}, so that a dropped one can be collected.
 */
import { ModelError } from './errors.ts'
import { untilAborted } from './job.ts'
import type { NativeModel, NativeSceneResult } from './native.ts'
import { throwIfAborted } from './options.ts'
import type { ScenePrompt } from './text/prompt.ts'

/** A scene in the KV cache. */
export interface Seen {
  prompt: ScenePrompt
  result: NativeSceneResult
}

/** How a scene is seen: again after others were evicted for it, and again after it was evicted itself. */
export interface Look<S extends Seen> {
  see(signal: AbortSignal | undefined): Promise<S>
  /** What it will take; 0 until that is known. */
  tokens: number
  /** No more tries: pictures that were kept for the next one may go. */
  end(): void
}

/** What a scene is to the keeper. */
export class SceneSlot<S extends Seen = Seen> {
  /** Undefined while evicted. */
  seen: S | undefined
  disposed = false
  /** Questions of it that the addon works on. */
  running = 0
  /** Questions that wait for it to be seen again. */
  awaited = 0
  lastUsed = 0
  reviving: Promise<void> | undefined
  readonly imageTokens: number
  readonly look: Look<S>

  constructor(seen: S, look: Look<S>) {
    this.seen = seen
    this.imageTokens = seen.result.imageTokens
    this.look = look
  }
}

export interface KeeperLimits {
  maxScenes: number
  /** What becomes of a scene that was evicted; `undefined`: none is. */
  evict: 'resee' | 'throw' | undefined
  maxBatch: number
  maxQueue: number
  pageTokens: number
}

/** What `stats` adds to the addon's. */
export interface KeeperStats {
  evicted: number
  reseen: number
}

export class SceneKeeper {
  readonly stats: KeeperStats = { evicted: 0, reseen: 0 }
  readonly #native: NativeModel
  readonly #limits: KeeperLimits
  readonly #slots = new Set<SceneSlot>()
  /** Places among `maxScenes` without a slot: scenes that are being seen, and what dialogues keep. */
  #seats = 0
  #questions = 0
  #sights = 0
  /** Jobs in the addon. */
  #running = 0
  /** What those wait for who found no room. */
  #left: Departure | undefined
  #clock = 0
  // A scene that nobody holds any more gives its pages back.
  readonly #dropped = new FinalizationRegistry<SceneSlot>((slot) => this.drop(slot))

  constructor(native: NativeModel, limits: KeeperLimits) {
    this.#native = native
    this.#limits = limits
  }

  /** @throws {@link ModelError} `BUSY` if so many questions more would have to wait beyond the limit. */
  checkQueue(questions: number, sights = 0): void {
    const { maxQueue, maxBatch } = this.#limits
    const tooMany =
      (questions > 0 && this.#questions + questions > maxBatch + maxQueue) ||
      (sights > 0 && this.#sights + sights > 1 + maxQueue)
    if (!tooMany) return
    throw new ModelError(
      'BUSY',
      `${this.#questions} questions and ${this.#sights} scenes are under way, and maxQueue lets ${maxQueue} wait. ` +
        'Ask again when some are answered, or load the model with a larger maxQueue.',
    )
  }

  /** Sees a scene. */
  async see<S extends Seen>(look: Look<S>, signal: AbortSignal | undefined): Promise<SceneSlot<S>> {
    this.checkQueue(0, 1)
    this.#sights++
    try {
      await this.#takeSeat(undefined, signal)
      try {
        const seen = await this.#look(undefined, look, signal)
        const slot = new SceneSlot<S>(seen, look)
        slot.lastUsed = ++this.#clock
        this.#slots.add(slot)
        return slot
      } finally {
        this.#seats--
      }
    } finally {
      this.#sights--
      this.#wake()
    }
  }

  /** Releases the scene when this object is collected. */
  watch(owner: object, slot: SceneSlot): void {
    this.#dropped.register(owner, slot, slot)
  }

  /**
   * Does something with a scene that is in the cache; sees it again if it was evicted and that is wanted.
   *
   * @param work - Must hand its job to the addon before it waits for anything.
   * @param tokens - About what it takes beside the scene, to evict enough at once.
   */
  async use<S extends Seen, T>(
    slot: SceneSlot<S>,
    work: (seen: S) => Promise<T>,
    tokens: number,
    signal: AbortSignal | undefined,
  ): Promise<T> {
    this.checkQueue(1)
    this.#questions++
    try {
      for (;;) {
        slot.lastUsed = ++this.#clock
        while (slot.seen === undefined && !slot.disposed) await this.#revive(slot, signal)
        if (slot.disposed) throw new ModelError('DISPOSED', 'The scene was disposed; call model.see(views) again.')
        const seen = slot.seen!
        const done = await this.#attempt(slot, () => work(seen))
        if ('value' in done) return done.value
        if (!(await this.#makeRoom(slot, tokens, signal))) throw done.error
      }
    } finally {
      this.#questions--
      this.#wake()
    }
  }

  /** {@link use} for what has its own place in the cache. */
  async run<T>(work: () => Promise<T>, tokens: number, signal: AbortSignal | undefined): Promise<T> {
    this.checkQueue(1)
    this.#questions++
    try {
      return await this.#withRoom(undefined, work, () => tokens, signal)
    } finally {
      this.#questions--
      this.#wake()
    }
  }

  /**
   * Does something that leaves a sequence of its own in the cache, which counts among `maxScenes` until {@link leaveSeat}.
   *
   * @param own - The scene it goes on from, which is not evicted for it.
   */
  async seated<T>(own: SceneSlot | undefined, work: () => Promise<T>, signal: AbortSignal | undefined): Promise<T> {
    this.checkQueue(1)
    await this.#takeSeat(own, signal)
    try {
      return await work()
    } catch (error) {
      this.leaveSeat()
      throw error
    }
  }

  /** A sequence that takes the place of another one, which leaves at once or is still somebody else's. */
  addSeat(): void {
    this.#seats++
  }

  leaveSeat(): void {
    this.#seats--
    this.#wake()
  }

  drop(slot: SceneSlot): void {
    if (slot.disposed) return
    slot.disposed = true
    this.#dropped.unregister(slot)
    this.#release(slot)
    this.#wake()
  }

  #release(slot: SceneSlot): void {
    if (slot.seen !== undefined) this.#native.release(slot.seen.result.scene)
    slot.seen = undefined
    this.#slots.delete(slot)
  }

  /** Room among `maxScenes`. */
  async #takeSeat(own: SceneSlot | undefined, signal: AbortSignal | undefined): Promise<void> {
    while (this.#slots.size + this.#seats >= this.#limits.maxScenes) {
      if (this.#limits.evict !== undefined && (await this.#makeRoom(own, 1, signal))) continue
      throw new ModelError(
        'OUT_OF_MEMORY',
        `maxScenes lets ${this.#limits.maxScenes} scenes and dialogues stand in the cache, and there are so many. Dispose of one, or load ` +
          "the model with a larger maxScenes, or with { evict: 'resee' }.",
      )
    }
    this.#seats++
  }

  async #look<S extends Seen>(slot: SceneSlot | undefined, look: Look<S>, signal: AbortSignal | undefined): Promise<S> {
    try {
      return await this.#withRoom(
        slot,
        () => look.see(signal),
        () => look.tokens,
        signal,
      )
    } finally {
      look.end()
    }
  }

  async #withRoom<T>(
    slot: SceneSlot | undefined,
    work: () => Promise<T>,
    tokens: () => number,
    signal: AbortSignal | undefined,
  ): Promise<T> {
    for (;;) {
      const done = await this.#attempt(slot, work)
      if ('value' in done) return done.value
      if (!(await this.#makeRoom(slot, tokens(), signal))) throw done.error
    }
  }

  /** One try. An error that eviction may help against is handed back, others are thrown. */
  async #attempt<T>(
    slot: SceneSlot | undefined,
    work: () => Promise<T>,
  ): Promise<{ value: T } | { error: ModelError }> {
    this.#running++
    if (slot !== undefined) slot.running++
    try {
      return { value: await work() }
    } catch (error) {
      const shortOfRoom = error instanceof ModelError && error.code === 'OUT_OF_MEMORY'
      if (shortOfRoom && this.#limits.evict !== undefined) return { error }
      throw error
    } finally {
      this.#running--
      if (slot !== undefined) slot.running--
    }
  }

  /** Those who wait for room look again: somebody left, well or not. One who found no room does not leave, he waits too. */
  #wake(): void {
    this.#left?.resolve()
    this.#left = undefined
  }

  /** Evicts the idle scenes that were not asked for longest, or waits for one that works. False: there is nothing to wait for. */
  async #makeRoom(own: SceneSlot | undefined, tokens: number, signal: AbortSignal | undefined): Promise<boolean> {
    throwIfAborted(signal)
    // What was seen again for somebody is not taken away before he asks.
    const others = [...this.#slots].filter((slot) => slot !== own)
    const idle = others.filter((slot) => slot.running === 0 && slot.awaited === 0)
    if (idle.length > 0) {
      idle.sort((a, b) => a.lastUsed - b.lastUsed)
      const { pageTokens } = this.#limits
      const { pagesTotal, pagesUsed } = this.#native.stats()
      let short = Math.ceil(tokens / pageTokens) - (pagesTotal - pagesUsed)
      for (const slot of idle) {
        short -= Math.ceil(slot.seen!.result.tokens / pageTokens)
        this.#release(slot)
        this.stats.evicted++
        if (short <= 0) break
      }
      return true
    }
    if (this.#running === 0 && others.length === 0) return false
    this.#left ??= departure()
    await untilAborted(this.#left.promise, signal)
    return true
  }

  /** Those who ask at the same time wait for the same sight. */
  async #revive<S extends Seen>(slot: SceneSlot<S>, signal: AbortSignal | undefined): Promise<void> {
    if (this.#limits.evict === 'throw') {
      throw new ModelError(
        'DISPOSED',
        "The scene was evicted to make room for others; see its views again, or load the model with { evict: 'resee' } or more kvMemory.",
      )
    }
    slot.reviving ??= this.#seeAgain(slot).finally(() => {
      slot.reviving = undefined
    })
    slot.awaited++
    try {
      await untilAborted(slot.reviving, signal)
    } finally {
      slot.awaited--
    }
  }

  async #seeAgain<S extends Seen>(slot: SceneSlot<S>): Promise<void> {
    await this.#takeSeat(slot, undefined)
    try {
      const seen = await this.#look(slot, slot.look, undefined)
      this.stats.reseen++
      if (slot.disposed) {
        this.#native.release(seen.result.scene)
        return
      }
      slot.seen = seen
      this.#slots.add(slot)
    } finally {
      this.#seats--
      this.#wake()
    }
  }
}

interface Departure {
  promise: Promise<void>
  resolve: () => void
}

function departure(): Departure {
  let resolve = () => {}
  const promise = new Promise<void>((done) => {
    resolve = done
  })
  return { promise, resolve }
}
