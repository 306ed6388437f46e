import os from 'node:os'
import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    pool: 'forks', // a native crash then costs one file, not the run
    maxWorkers: os.availableParallelism(), // vitest would leave a core idle: half of a small machine
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
})
