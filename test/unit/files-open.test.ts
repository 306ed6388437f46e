/** Too many open files are no fault of the file that could not be opened: the advice says so, for pictures and for model folders. */
import { spawnSync } from 'node:child_process'
import path from 'node:path'
import { expect, test } from 'vitest'

const root = path.resolve(import.meta.dirname, '..', '..')

const script = `
import { closeSync, openSync } from 'node:fs'
const { loadModel } = await import(${JSON.stringify(`file://${path.join(root, 'dist', 'index.js')}`)})
const model = await loadModel()
const picture = ${JSON.stringify(path.join(root, 'models/street-tiny/moments/dusk/CAM_FRONT.png'))}
const open = []
try { for (;;) open.push(openSync('/dev/null')) } catch {}
const says = async (work) => { try { await work() } catch (error) { return error.code + ' ' + error.message } }
const found = [await says(() => model.see(picture)), await says(() => loadModel(${JSON.stringify(path.join(root, 'models/street-tiny'))}))]
for (const fd of open) closeSync(fd)
console.log(JSON.stringify(found))
await model.dispose()
`

test('errors of too many open files advise to close some', () => {
  const ran = spawnSync(
    'bash',
    ['-c', 'ulimit -n 256; exec "$0" --input-type=module -e "$1"', process.execPath, script],
    { encoding: 'utf8' },
  )
  expect(ran.stderr).toBe('')
  const [picture, folder] = JSON.parse(ran.stdout)
  expect(picture).toMatch(
    /^BAD_VIEW .*CAM_FRONT\.png cannot be read \(EMFILE\)\. Too many files are open; close some, or raise the limit/,
  )
  expect(folder).toMatch(/^BAD_\w+ .*\(EMFILE\)\. Too many files are open; close some/)
})
