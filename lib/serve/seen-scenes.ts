/** Scenes that were seen lately, for requests that send the same pictures again. */
import type { Model } from '../model.ts'
import type { SeeOptions } from '../options.ts'
import type { Scene } from '../scene.ts'
import type { SentViews } from './pictures.ts'

interface Kept {
  scene: Promise<Scene>
  users: number
  dropped: boolean
}

export class SeenScenes {
  readonly #model: Model
  readonly #most: number
  /** The one used last stands last. */
  readonly #kept = new Map<string, Kept>()

  constructor(model: Model, most: number) {
    this.#model = model
    this.#most = most
  }

  /** Does something with the scene of these pictures. Seeing is shared, so no caller's signal ends it. */
  async use<T>(
    { views, key: pictures }: SentViews,
    options: SeeOptions,
    work: (scene: Scene) => Promise<T>,
  ): Promise<T> {
    const key = JSON.stringify([pictures, options])
    let kept = this.#kept.get(key)
    if (kept === undefined) {
      const scene = this.#model.see(views, options)
      const made: Kept = { scene, users: 0, dropped: false }
      scene.catch(() => this.#kept.get(key) === made && this.#kept.delete(key))
      kept = made
    }
    this.#kept.delete(key)
    this.#kept.set(key, kept)
    kept.users++
    try {
      this.#shrink()
      return await work(await kept.scene)
    } finally {
      kept.users--
      this.#dispose(kept)
    }
  }

  #shrink(): void {
    for (const [key, kept] of this.#kept) {
      if (this.#kept.size <= this.#most) return
      this.#kept.delete(key)
      kept.dropped = true
      this.#dispose(kept)
    }
  }

  #dispose(kept: Kept): void {
    if (!kept.dropped || kept.users > 0) return
    kept.scene.then(
      (scene) => scene.dispose(),
      () => undefined,
    )
  }
}
