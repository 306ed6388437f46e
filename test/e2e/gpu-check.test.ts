// scripts/gpu-check and scripts/gpu-bundle without a GPU: what they say, and the whole of it on the emulator.
import { execFileSync, spawnSync } from 'node:child_process'
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'

const scratch = mkdtempSync(path.join(os.tmpdir(), 'drivlm-gpu-check-'))
const emulated = path.resolve('.cmake-build/test/emulator/drivlm_gpu_check_fast')
const file = path.join(scratch, 'result.json')
afterAll(() => rmSync(scratch, { recursive: true, force: true }))

const gpuCheck = (...args: string[]) =>
  spawnSync('scripts/gpu-check', args, { encoding: 'utf8', env: { ...process.env, DRIVLM_ADDON: '' } })
const result = () => JSON.parse(readFileSync(file, 'utf8'))

/** A program in place of drivlm_gpu_check. */
function program(body: string): string {
  const name = path.join(scratch, 'program')
  writeFileSync(name, `#!/bin/sh\n${body}\n`)
  chmodSync(name, 0o755)
  return name
}

it.skipIf(existsSync('/dev/nvidia0'))('says what is missing where there is no GPU', () => {
  const { status, stdout, stderr } = gpuCheck('--json', file)
  expect({ status, stdout }).toEqual({ status: 3, stdout: '' })
  expect(stderr).toMatch(/^gpu-check: no NVIDIA GPU answers here .*driver/m)
  expect(existsSync(file)).toBe(false)
})

it.each([
  [['--nonsense'], "received '--nonsense'"],
  [['--json'], 'Expected a value after --json.'],
  [['--only', 'ops,nothing'], "Expected --only out of ops,bench,goldens,sanitizer,vendor, received 'nothing'."],
  [['--minutes', '0'], "Expected --minutes to be a whole number above 0, received '0'."],
  [['--arch', '8.7'], "received '8.7'."],
  [['--program', 'no-such-program'], 'no-such-program: not an executable.'],
])('refuses %j', (args, message) => {
  const { status, stderr } = gpuCheck(...args)
  expect(status).toBe(2)
  expect(stderr).toContain(message)
})

describe('with a program that fails', () => {
  it('ends with 1, and names on one screen and in the file what failed', () => {
    const failing = program('for i in $(seq 40); do echo "FAILED: case_$i: \\"quoted\\" and \\\\ so on"; done; exit 1')
    const { status, stdout } = gpuCheck('--emulated', '--program', failing, '--only', 'ops', '--json', file)
    expect(status).toBe(1)
    const { failed, ops } = result()
    expect(failed[0]).toBe('ops: case_1: "quoted" and \\ so on')
    expect(failed.length).toBeLessThanOrEqual(24)
    expect(ops).toBe(null)
    expect(stdout).toContain('FAILED   ops: case_1: "quoted"')
    expect(stdout).toMatch(/gpu-check: \d+ failed, 0 skipped, /)
  })

  it('stops where the program finds no GPU', () => {
    const none = program('echo "There is no GPU to check: none." >&2; exit 3')
    const { status, stdout } = gpuCheck('--emulated', '--program', none, '--json', file)
    expect(status).toBe(3)
    expect(stdout).toContain('There is no GPU to check: none.')
    expect(stdout).not.toContain('== bench')
  })

  it('says when it died without a word', () => {
    const { status } = gpuCheck('--emulated', '--program', program('kill -9 $$'), '--only', 'bench', '--json', file)
    expect(status).toBe(1)
    expect(result().failed).toHaveLength(1)
  })
})

describe.skipIf(!existsSync(emulated))('on the emulator', () => {
  it('runs cases, times the rows and the model, and writes one file', { timeout: 300_000 }, () => {
    // Of the cases a dozen from several files and the model; cuda_test_fast and cuda_test_checked run them all.
    const some = program(`case " $* " in *" --ops "*) set -- "$@" --filter _s;; esac; exec ${emulated} "$@"`)
    const { status, stdout } = gpuCheck('--emulated', '--program', some, '--json', file)
    expect(status, stdout).toBe(0)
    const { commit, machine, ops, bench, skipped, failed, ...rest } = result()
    expect(rest).toMatchObject({ format: 1, emulated: true, goldens: null, sanitizer: null, vendor: null })
    expect(machine.compiler).toMatch(/\d/)
    expect(failed).toEqual([])
    expect(skipped).toHaveLength(3)
    expect(ops.device).toMatchObject({ name: 'emulated CUDA device 0', commit: commit ?? '' })

    const cases = ops.cases.list.map(({ name }: { name: string }) => name)
    expect(cases).toEqual(
      expect.arrayContaining(['linear_split', 'wrapper_shuffles', 'replay_step', 'pixel_shuffle', 'model_small']),
    )
    expect(ops.cases).toMatchObject({ passed: cases.length, failed: 0 })

    for (const name of ['copy_gbs', 'matrix_tflops', 'byte_tops', 'to_device_gbs'])
      expect(bench.peaks[name], name).toBeGreaterThan(0)
    const rows = new Map<string, Record<string, number>>(bench.rows.map((row: { name: string }) => [row.name, row]))
    const wanted = [
      ...['vit_qkv', 'vit_attention', 'prefill_attention', 'decode_head', 'decode_attention'],
      ...['vit_fc1_w8a8', 'prefill_gate_up_w8a8', 'prefill_gate_up_w4a16', 'decode_gate_up_w4a16', 'decode_head_w8a16'],
      ...['decode_down_w4a16_64_questions', 'decode_down_w8a8_64_questions', 'decode_attention_int8_cache'],
    ]
    for (const name of wanted) {
      const row = rows.get(name)!
      for (const key of ['value', 'floor', 'share', 'gbs', 'tflops', 'copy_share', 'matrix_share'])
        expect(row[key], `${name} ${key}`).toBeGreaterThan(0)
      expect(row.floor! / row.value!).toBeCloseTo(row.share!, 4)
    }
    const moved = [
      'vit_layer_norm_rounds',
      'prefill_rms_norm_rounds',
      'vit_round_ffn',
      'prefill_gate_up_4_bits_to_bytes',
    ]
    for (const name of [...moved, 'prefill_rope_append_int8_cache'])
      expect(rows.get(name)!.copy_share, name).toBeGreaterThan(0)
    for (const mode of ['', '_int8_a8', '_int4_a8_kv8']) {
      for (const name of ['model_vision_13_tiles', 'model_prefill_scene', 'model_first_token_13_tiles'])
        expect(rows.get(name + mode), name + mode).toMatchObject({
          unit: 'ms',
          cold: expect.any(Number),
          share: expect.any(Number),
        })
      expect(rows.get(`model_decode_160${mode}`)!.unit).toBe('tok/s')
    }
  })

  it('skips what would be late, and says so', () => {
    const late = path.join(scratch, 'late.json')
    const { status, stdout } = spawnSync(
      emulated,
      ['--bench', '--model', '--small', '--seconds', '1e-9', '--json', late],
      {
        encoding: 'utf8',
      },
    )
    expect(status, stdout).toBe(0)
    const { rows, skipped } = JSON.parse(readFileSync(late, 'utf8'))
    for (const row of rows) expect(row).toMatchObject({ value: null, skipped: 'out of time' })
    expect(skipped.length).toBeGreaterThan(30)
  })

  it('says why there is no GPU', () => {
    const { status, stderr } = spawnSync(emulated, [], {
      encoding: 'utf8',
      env: { ...process.env, EMULATOR_DEVICES: '0' },
    })
    expect({ status, stderr }).toEqual({
      status: 3,
      stderr: 'There is no GPU to check: the NVIDIA driver reports: no CUDA-capable device is detected.\n',
    })
  })

  it('gives `npm run bench -- kernels --device cuda` its peaks and rows', { timeout: 300_000 }, () => {
    const bench = path.join(scratch, 'bench.json')
    const args = ['bench/main.mjs', 'kernels', '--device', 'cuda', '--quick', '--json', bench]
    const { status, stderr } = spawnSync(process.execPath, args, {
      encoding: 'utf8',
      env: { ...process.env, DRIVLM_GPU_CHECK: emulated },
    })
    expect(status, stderr).toBe(0)
    const { peaks, rows } = JSON.parse(readFileSync(bench, 'utf8'))
    expect(Object.keys(peaks)).toEqual(['bf16_gflops', 'u8s8_gops', 'read_gbs'])
    expect(rows).toContainEqual(
      expect.objectContaining({ name: 'kernel_vit_fc1', unit: 'us', share: expect.any(Number) }),
    )
  })
})

describe.skipIf(!existsSync('.git'))('the bundle', () => {
  const bundle = path.join(scratch, 'bundle.tar.gz')
  const list = () => execFileSync('tar', ['-tzf', bundle], { encoding: 'utf8' }).split('\n')

  it('holds what gpu-check needs in less than 60 MB', { timeout: 120_000 }, () => {
    const told = execFileSync('scripts/gpu-bundle', [bundle], { encoding: 'utf8' })
    expect(readFileSync(bundle).length).toBeLessThan(60e6)
    const names = list().map((name) => name.replace(/^[^/]*\//, ''))
    expect(names).toEqual(
      expect.arrayContaining([
        'COMMIT',
        'CMakeLists.txt',
        'scripts/gpu-check',
        'native/kernels/cuda/linear.cu',
        'native/serve/engine.cpp',
        'test/emulator/CMakeLists.txt',
        'test/emulator/linear_test.cpp',
        'test/fixtures/golden/e1-qwen3/golden.json',
        'test/fixtures/street-tiny-val/golden.json',
        'models/street-tiny/config.json',
      ]),
    )
    const commit = execFileSync('tar', ['-xzOf', bundle, list().find((name) => name.endsWith('/COMMIT'))!], {
      encoding: 'utf8',
    })
    expect(commit).toMatch(/^[0-9a-f]{12}( with changes)?\n$/)
    expect(told).toContain(`commit ${commit.trim()}`)
  })
})
