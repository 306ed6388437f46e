/** Folders made with those above them, also where nothing can be made. */
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { expect, test } from 'vitest'
import { makeFolder } from '../../lib/whole-file.ts'

test('a folder is made with those above it, by several at once, and one that is there is left alone', async () => {
  const root = mkdtempSync(path.join(os.tmpdir(), 'drivlm-folders-'))
  const deep = path.join(root, 'a', 'b', 'c')
  await Promise.all(Array.from({ length: 20 }, () => makeFolder(deep)))
  expect(existsSync(deep)).toBe(true)
  await makeFolder(`${deep}${path.sep}`)
  await makeFolder(root)
  await makeFolder(path.parse(root).root)
  const file = path.join(root, 'file')
  writeFileSync(file, '')
  await expect(makeFolder(file)).rejects.toMatchObject({ code: 'EEXIST' })
  await expect(makeFolder(path.join(file, 'x'))).rejects.toMatchObject({ code: 'ENOTDIR' })
  rmSync(root, { recursive: true })
})

test.runIf(process.platform === 'linux')('a folder in which none can be made is an error, not a wait', async () => {
  await expect(makeFolder('/proc/drivlm/x')).rejects.toMatchObject({ code: 'ENOENT' })
})
