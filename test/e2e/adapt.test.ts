import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { loadDomain, writeStreet } from '../../lib/street/index.ts'
import { drivlm } from './run.ts'

const dir = mkdtempSync(join(tmpdir(), 'drivlm-adapt-'))
const night = join(dir, 'night', 'drivelm.json')
const day = join(dir, 'day', 'drivelm.json')

beforeAll(async () => {
  const draw = async (out: string, domain: string, scenes: number) =>
    writeStreet(await loadDomain(domain), { scenes, seed: 910_000_100, questions: 4, out: join(dir, out) })
  await draw('night', 'night-left', 4)
  await draw('day', 'day-city', 2)
})
afterAll(() => rmSync(dir, { recursive: true, force: true }))

describe('drivlm adapt', () => {
  const model = ['adapt', '-m', 'models/street-tiny', '--data', night]

  it('plans: counts, memory, time', async () => {
    const rates = ['--learning-rate', '1e-4', '--vision-learning-rate', '2e-5', '--warmup-steps', '3']
    const { code, stdout } = await drivlm([...model, ...rates, '--plan', '--json'])
    expect(code).toBe(0)
    const plan = JSON.parse(stdout)
    expect(plan).toMatchObject({ learningRate: 1e-4, visionLearningRate: 2e-5, warmupSteps: 3 })
    expect(plan).toMatchObject({ steps: 1, questions: 16, data: { pass: { domain: 16, general: 0 } } })
    expect(plan.operationsPerQuestion.separate).toBeGreaterThan(2 * plan.operationsPerQuestion.shared)
    expect(plan.memory.totalBytes).toBeGreaterThan(plan.memory.weightsBytes)
    expect(plan.seconds).toBeGreaterThan(0)
  })

  it('trains, validates, keeps the best, and leaves a log and a report', async () => {
    const out = join(dir, 'adapted')
    const general = ['--general', day, '--general-ratio', '0.25', '--packs-per-step', '1', '--max-pack-tiles', '6']
    const validation = [
      '--validate',
      night,
      '--validate-general',
      day,
      '--validate-limit',
      '4',
      '--validate-every',
      '3',
    ]
    const flags = [...model, ...general, ...validation, '--steps', '3', '--learning-rate', '1e-4', '--out', out]
    const { code, stdout, stderr } = await drivlm(flags)
    expect({ code, stderr: code === 0 ? '' : stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout).toMatch(/A pass has 16 domain and 4 general samples/)
    expect(stdout).toMatch(/after 3: general [\d.]+ % of 4 right/)
    const scores = readFileSync(join(`${out}.run`, 'validations.jsonl'), 'utf8')
      .trim()
      .split('\n')
    expect(scores.map((line) => JSON.parse(line)).map(({ updates, set }) => [updates, set])).toEqual([
      [0, 'domain'],
      [0, 'general'],
      [3, 'domain'],
      [3, 'general'],
    ])
    const best = scores.map((line) => JSON.parse(line))[2].best
    expect(existsSync(`${out}.best`)).toBe(best)
    expect(existsSync(join(`${out}.run`, 'snapshot'))).toBe(false)
    expect(
      readFileSync(join(`${out}.run`, 'steps.csv'), 'utf8')
        .trim()
        .split('\n'),
    ).toHaveLength(4)
    const page = readFileSync(join(`${out}.run`, 'report.html'), 'utf8')
    for (const part of ['Right answers', 'Loss', 'Learning rate', 'Gradient norm', 'general: exactly right'])
      expect(page).toContain(part)
    expect(page).toContain('One moment, before and after')
    expect(page.match(/<img src="data:image\/png;base64,/g)).toHaveLength(6)
    expect(page).not.toMatch(/(src|href)="(?!data:image)/)
    expect(JSON.parse(readFileSync(join(out, 'adapt.json'), 'utf8')).steps).toHaveLength(3)
    const again = await drivlm(flags)
    expect(again.code).toBe(0)

    // What is refused leaves the report as it is.
    const report = readFileSync(join(`${out}.run`, 'report.html'), 'utf8')
    const faster = await drivlm([...flags, '--learning-rate', '2e-4'])
    const fewer = await drivlm([...flags, '--validate-limit', '3'])
    expect(faster).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/is not empty, and holds no result of this run/),
    })
    expect(fewer).toMatchObject({ code: 1, stderr: expect.stringMatching(/scores of other domain questions: .*limit/) })
    expect(readFileSync(join(`${out}.run`, 'report.html'), 'utf8')).toBe(report)
  })

  it('takes a model by its name, from the cache', async () => {
    const commit = '0123456789abcdef0123456789abcdef01234567'
    const repository = join(dir, 'hub', 'models--org--tiny')
    mkdirSync(join(repository, 'refs'), { recursive: true })
    mkdirSync(join(repository, 'snapshots'))
    writeFileSync(join(repository, 'refs', 'main'), commit)
    cpSync('models/street-tiny', join(repository, 'snapshots', commit), { recursive: true })
    const env = { HF_HUB_CACHE: join(dir, 'hub'), HF_HUB_OFFLINE: '1' }
    const { code, stderr } = await drivlm(['adapt', '-m', 'org/tiny', '--data', night, '--plan'], { env })
    expect({ code, stderr: code === 0 ? '' : stderr }).toEqual({ code: 0, stderr: '' })
  })

  it.each([
    [['--out', 'x', '--general-ratio', '0.25'], /there is no general data/],
    [['--out', 'x', '--validate-limit', '3'], /Give --validate/],
    [[], /Give --out/],
    [['--out', 'x', '--drop-path', '2'], /dropPath/],
  ])('%o is refused', async (flags, message) => {
    const { code, stderr } = await drivlm([...model, ...flags])
    expect(code).toBe(1)
    expect(stderr).toMatch(message)
  })
})
