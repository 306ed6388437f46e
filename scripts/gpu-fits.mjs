#!/usr/bin/env node
// Prints the table of docs/kernels.md of what the driving models take on a GPU, by the plan of a load itself: what `drivlm doctor` compares with the
// memory that a card has free. Needs an addon with a GPU, or with the emulated one:
//
//   npm run test:kernels -- --quick
//   DRIVLM_ADDON=.cmake-build/test/emulator/drivlm_emulated_fast.node EMULATOR_MEMORY_MIB=7600 node scripts/gpu-fits.mjs
import { cardFormats, cardPlanner, drivingModels } from '../dist/cli/doctor-card.js'
import { loadAddon } from '../dist/native.js'

const plan = cardPlanner(loadAddon(), 'cuda:0')
const contexts = [4096, 8192]
const gib = (bytes) => (bytes / 2 ** 30).toFixed(1)

const heads = ['model', 'context', ...cardFormats.map(({ weights, kvCache }) => `${weights}, cache ${kvCache}`)]
console.log(`| ${heads.join(' | ')} |\n|${heads.map(() => '---|').join('')}`)
for (const [model, network] of Object.entries(drivingModels)) {
  for (const maxContext of contexts) {
    const totals = cardFormats.map((format) => {
      const { weightsBytes, kvBytes, arenaBytes } = plan(network, { ...format, maxContext })
      return gib(weightsBytes + kvBytes + arenaBytes)
    })
    console.log(`| ${[model, maxContext, ...totals].join(' | ')} |`)
  }
}
