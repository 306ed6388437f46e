/** The views of the next moment, from those of the last and what changed. */
import { ModelError } from '../errors.ts'
import { isRecord } from '../messages.ts'
import type { NamedViews } from './compose.ts'
import { isPictureSource, type PictureSource } from './decode.ts'
import { isViewSource, type ViewSources } from './prepared.ts'

/** Views that changed: by camera name, by number in the list, or the one picture there is. */
export type ChangedViews = NamedViews | Readonly<Record<number, PictureSource>> | PictureSource

/**
 * @returns All views, and the names of those that changed where they have names.
 * @throws {@link ModelError} `BAD_VIEW` if what changed is none of the views there were.
 */
export function changeViews(views: ViewSources, changed: ChangedViews): { views: ViewSources; names: string[] } {
  if (isViewSource(views)) {
    if (isPictureSource(changed)) return { views: changed, names: [] }
    throw new ModelError('BAD_VIEW', 'This scene was seen from one picture; give the picture that takes its place.')
  }
  if (!isRecord(changed) || isPictureSource(changed)) {
    throw new ModelError(
      'BAD_VIEW',
      'This scene was seen from several views; say which of them changed, such as { CAM_FRONT: picture }.',
    )
  }
  const entries = Object.entries(changed as Record<string, PictureSource>).filter(([, source]) => source !== undefined)
  if (Array.isArray(views)) {
    const next = [...views]
    for (const [key, source] of entries) {
      if (!/^\d{1,6}$/.test(key) || Number(key) >= next.length) {
        throw new ModelError(
          'BAD_VIEW',
          `This scene was seen from a list of ${next.length} views; expected numbers from 0 to ${next.length - 1}, found ${key.slice(0, 60)}.`,
        )
      }
      next[Number(key)] = source
    }
    return { views: next, names: [] }
  }
  const unknown = entries.find(([name]) => !Object.hasOwn(views, name))
  if (unknown !== undefined) {
    throw new ModelError(
      'BAD_VIEW',
      `${unknown[0].slice(0, 60)} is none of the views of this scene: ${Object.keys(views).join(', ')}.`,
    )
  }
  return { views: { ...views, ...Object.fromEntries(entries) }, names: entries.map(([name]) => name) }
}
