/** Training data of any form: InternVL's meta file and lists, DriveLM's JSON, a question a line. What a file holds decides. */
import { open } from 'node:fs/promises'
import path from 'node:path'
import { ModelError } from '../errors.ts'
import { questionFileForm } from '../evaluate/questions/question-files.ts'
import { MomentList, type MomentOptions } from './moment-lists.ts'
import { readMeta, SampleList, type SampleSource } from './sample-lists.ts'

/** How data files are read. */
export interface ListOptions extends MomentOptions {
  /** Re-encode the tiles of lists that do not say so themselves; those of a meta file do. */
  augment?: boolean | undefined
}

type Form = 'meta' | 'conversations' | 'questions'

const headBytes = 1 << 16

/**
 * Opens a data file: a meta file gives a list an entry, all others one.
 *
 * @throws {@link ModelError} `BAD_DATA` for a file that cannot be read or is none of the forms.
 */
export async function openLists(file: string, options: ListOptions): Promise<SampleSource[]> {
  const { images, augment = false } = options
  const form = await formOf(file)
  if (form === 'questions') {
    const list = await MomentList.open(file, options)
    list.entry.augment = augment
    return [list]
  }
  const entries =
    form === 'meta'
      ? await readMeta(file)
      : [
          {
            name: path.basename(file),
            root: path.resolve(images ?? path.dirname(file)),
            annotation: path.resolve(file),
            augment,
            repeat: 1,
            maxTiles: undefined,
          },
        ]
  const lists: SampleSource[] = []
  try {
    for (const entry of entries) lists.push(await SampleList.open(entry))
    return lists
  } catch (error) {
    await closeLists(lists)
    throw error
  }
}

export async function closeLists(lists: readonly SampleSource[]): Promise<void> {
  for (const list of lists) await list.close()
}

/** Told by the beginning of the file. DriveLM's list of conversations about cameras is a question file, whose views make a moment. */
async function formOf(file: string): Promise<Form> {
  const head = await headOf(file)
  const object = /^\s*\{/.test(head)
  if (object && /"annotation"\s*:/.test(head) && !/"(conversations|key_frames|question)"\s*:/.test(head)) return 'meta'
  const lines = object && (/\.(jsonl|ndjson)$/i.test(file) || /^\s*\{[^\n]*"conversations"\s*:/.test(head))
  if (lines && /"conversations"\s*:/.test(head)) {
    return (await questionFileForm(file)) === 'llama' ? 'questions' : 'conversations'
  }
  return 'questions'
}

async function headOf(file: string): Promise<string> {
  try {
    const handle = await open(file)
    try {
      const buffer = Buffer.alloc(headBytes)
      const { bytesRead } = await handle.read(buffer, 0, headBytes, 0)
      return buffer.toString('utf8', 0, bytesRead)
    } finally {
      await handle.close()
    }
  } catch (error) {
    throw new ModelError('BAD_DATA', `${file}: cannot be read (${(error as NodeJS.ErrnoException).code}).`, {
      cause: error,
    })
  }
}
