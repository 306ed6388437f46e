/** The moments that the bundled model brings along: drawn pictures, and questions whose answers are known. */
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { bundledModel } from './load-model.ts'

/** `models/street-tiny/moments/moments.json` */
export interface BundledMoments {
  heldOutAccuracyPercent: Record<string, number>
  moments: BundledMoment[]
}

export interface BundledMoment {
  /** Name of the folder with its six pictures. */
  folder: string
  /** All six in one. */
  picture: string
  title: string
  questions: MomentQuestion[]
}

export interface MomentQuestion {
  type: string
  question: string
  truth: string
}

export const momentsFolder: string = path.join(bundledModel, 'moments')

export async function bundledMoments(): Promise<BundledMoments> {
  return JSON.parse(await readFile(path.join(momentsFolder, 'moments.json'), 'utf8'))
}
