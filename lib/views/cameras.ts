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
