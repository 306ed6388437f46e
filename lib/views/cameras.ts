/** The six cameras of a nuScenes vehicle, in the order DriveLM's files name them. */
export const cameras = [
  'CAM_FRONT',
  'CAM_FRONT_LEFT',
  'CAM_FRONT_RIGHT',
  'CAM_BACK',
  'CAM_BACK_LEFT',
  'CAM_BACK_RIGHT',
] as const

/** One of {@link cameras}. */
export type Camera = (typeof cameras)[number]

/** Whether a string is one of the six {@link cameras}. */
export function isCamera(name: string): name is Camera {
  return (cameras as readonly string[]).includes(name)
}

const longestFirst = [...cameras].sort((a, b) => b.length - a.length).join('|')
/** A camera's name by itself: between `__`, signs that are no letters, or a single `_` and a digit. */
const named = new RegExp(`(?<=^|__|[^A-Z0-9_]|[0-9]_)(?:${longestFirst})(?=$|__|[^A-Z0-9_]|_[0-9])`, 'g')

/**
 * Cameras that a path names: those in the file's own name, or, where that names none, those in its folder's. Folders further up say
 * nothing of a picture. More than one is a tie, which the caller has to name.
 *
 * @example
 * camerasOfPath('samples/CAM_FRONT_RIGHT/n015__CAM_BACK__1500.jpg') // ['CAM_BACK']
 */
export function camerasOfPath(path: string): Camera[] {
  const parts = path.split(/[/\\]+/)
  const inName = (name: string): Camera[] => [...new Set(name.toUpperCase().match(named) ?? [])] as Camera[]
  const own = inName((parts.at(-1) ?? '').replace(/\.[^.]*$/, ''))
  return own.length > 0 ? own : inName(parts.at(-2) ?? '')
}
