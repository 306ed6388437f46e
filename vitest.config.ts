import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    pool: 'forks', // a native crash then costs one file, not the run
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
})
