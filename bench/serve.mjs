// The server under load, with its clients in another process: are answers what they are alone, is its event loop free, what does HTTP cost beside the
// library, does memory stay flat, and what is batching worth.
//
//   node bench/serve.mjs [--requests 10000] [--rounds 400] [--json FILE]      the bundled model
//   node bench/serve.mjs --batching DIR [--tokens 16] [--json FILE]           20 clients about one scene, together and one by one
import { fork } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import os from 'node:os'
import path from 'node:path'
import { createHistogram } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { bundledModel, cameras, loadModel } from '../dist/index.js'
import { quantile } from './statistics.mjs'

const questions = [
  'Which camera sees the cyclist?',
  'What is the colour of the bus in CAM_BACK?',
  'Describe the weather and the time of day.',
  'Are there any pedestrians in CAM_BACK_LEFT?',
  'How many buses are there to the front left of the ego car?',
  'What are objects to the front right of the ego car?',
  'What is the object at <box>[[537,739,585,810]]</box>?',
]
const clients = 20
const median = (values) => quantile(values, 0.5)
const pictures = Object.fromEntries(
  cameras.map((name) => [name, readFileSync(path.join(bundledModel, 'moments', 'dusk', `${name}.png`))]),
)

/** What the event loop's thread has had of a core, and how long it waited for one, in ms. Linux keeps it. */
function threadTimes() {
  const [ran, waited] = readFileSync(`/proc/self/task/${process.pid}/schedstat`, 'utf8').split(' ')
  return { ran: Number(ran) / 1e6, waited: Number(waited) / 1e6 }
}

/**
 * Between two ticks of a timer the loop is held by its own work and by waiting for a core that others have; only the first is the server's
 * to mend. Both are told, and `late` is what a caller sees.
 */
class LoopWatch {
  #late = createHistogram()
  #own = createHistogram()
  #from = threadTimes()

  constructor() {
    let [before, at] = [threadTimes(), performance.now()]
    const inNs = (ms) => Math.max(1, Math.round(ms * 1e6)) // a histogram takes whole numbers
    setInterval(() => {
      const [now, time] = [threadTimes(), performance.now()]
      this.#late.record(inNs(time - at - 1))
      this.#own.record(inNs(now.ran - before.ran))
      ;[before, at] = [now, time]
    }, 1).unref()
  }

  reset() {
    this.#late.reset()
    this.#own.reset()
    this.#from = threadTimes()
  }

  read() {
    const of = (times) => ({ p50: times.percentile(50) / 1e6, p99: times.percentile(99) / 1e6, max: times.max / 1e6 })
    const { ran, waited } = threadTimes()
    return {
      late: of(this.#late),
      own: of(this.#own),
      ranMs: ran - this.#from.ran,
      waitedMs: waited - this.#from.waited,
    }
  }
}

/** The process that serves. It measures itself when it is asked to. */
async function serveHere(dir, loadOptions, seen) {
  const { createServer } = await import('../dist/serve/server.js')
  const model = await loadModel(dir, { evict: true, device: 'cpu', ...loadOptions })
  const server = createServer(model)
  const url = await server.listen({ host: '127.0.0.1', port: 0 })
  const scene = await model.see(seen)
  const watch = new LoopWatch()
  const answer = async (question, maxNewTokens) => (await scene.ask(question, { maxNewTokens, text: 'literal' })).text
  const work = {
    url: () => ({ url, model: model.info.name }),
    alone: ({ maxNewTokens }) => Promise.all(questions.map((question) => answer(question, maxNewTokens))),
    async direct({ question, maxNewTokens }) {
      const started = performance.now()
      await answer(question, maxNewTokens)
      return performance.now() - started
    },
    reset: () => watch.reset(),
    loop: () => watch.read(),
    memory() {
      globalThis.gc()
      const { rss, heapUsed, external } = process.memoryUsage()
      return { rssMiB: rss / 2 ** 20, heapMiB: heapUsed / 2 ** 20, externalMiB: external / 2 ** 20 }
    },
    left: () => model.stats().running + model.stats().waiting,
    async end() {
      await server.close()
      scene.dispose()
      await model.dispose()
      setImmediate(() => process.disconnect())
    },
  }
  process.on('message', async ({ id, name, given }) => process.send({ id, result: await work[name](given) }))
  process.send({ id: 0 })
}

/** A server in a process of its own, and what it can be asked. */
async function startServer(dir = '', loadOptions = {}, camera = '') {
  const child = fork(fileURLToPath(import.meta.url), ['server', dir, JSON.stringify(loadOptions), camera], {
    execArgv: ['--expose-gc'],
  })
  const waiting = new Map()
  child.on('message', ({ id, result }) => {
    waiting.get(id)?.resolve(result)
    waiting.delete(id)
  })
  child.on('exit', (code) => {
    for (const { reject } of waiting.values()) reject(new Error(`The server ended with ${code}.`))
  })
  const answer = (id) => new Promise((resolve, reject) => waiting.set(id, { resolve, reject }))
  let last = 0
  const ready = answer(0)
  const call = (name, given) => {
    const id = ++last
    const result = answer(id)
    child.send({ id, name, given })
    return result
  }
  await ready
  return { call, ...(await call('url')), end: () => call('end') }
}

const agent = new http.Agent({ keepAlive: true, maxSockets: 64 })

/** The text of a response; null where `cutMs` cut it off. */
function post(url, body, cutMs) {
  const text = JSON.stringify(body)
  return new Promise((resolve, reject) => {
    const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) }
    const request = http.request(url, { method: 'POST', agent, headers }, (response) => {
      const parts = []
      response.on('data', (part) => parts.push(part))
      response.on('error', () => resolve(null))
      response.on('end', () => {
        clearTimeout(timer)
        const received = Buffer.concat(parts).toString()
        if (response.statusCode === 200) resolve(received)
        else reject(new Error(`${response.statusCode}: ${received}`))
      })
    })
    const timer = cutMs === undefined ? undefined : setTimeout(() => request.destroy(), cutMs)
    request.on('error', (error) => (cutMs === undefined ? reject(error) : resolve(null)))
    request.end(text)
  })
}

const dataUrl = (bytes) => `data:image/png;base64,${bytes.toString('base64')}`
const views = Object.fromEntries(Object.entries(pictures).map(([name, bytes]) => [name, dataUrl(bytes)]))

async function see(url, views) {
  return JSON.parse(await post(`${url}/v1/scenes`, { views })).id
}

function chatBody(model, question, maxNewTokens, stream) {
  const images = Object.entries(views).flatMap(([name, url]) => [
    { type: 'text', text: name },
    { type: 'image_url', image_url: { url } },
  ])
  const content = [...images, { type: 'text', text: question }]
  return { model, stream, max_tokens: maxNewTokens, messages: [{ role: 'user', content }] }
}

/** The text of an answer, of any of the forms that are asked for here. */
function textOf(received) {
  if (!received.startsWith('data: ')) {
    const body = JSON.parse(received)
    return body.text ?? body.choices[0].message.content
  }
  const events = received.split('\n\n').filter((one) => one !== '' && one !== 'data: [DONE]')
  return events
    .map((one) => JSON.parse(one.slice(6)))
    .map((one) => one.text ?? one.choices?.[0]?.delta.content ?? '')
    .join('')
}

/** Questions of several clients, in four forms; `cutShare` of them are cut off within 30 ms. All others have to be what they are alone. */
async function load(server, scene, alone, { count, cutShare, maxNewTokens, seed }) {
  let state = seed
  const random = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
  let next = 0
  const told = { answered: 0, cut: 0, wrong: 0 }
  const client = async () => {
    for (let i = next++; i < count; i = next++) {
      const which = Math.floor(random() * questions.length)
      const stream = random() < 0.5
      const cutMs = random() < cutShare ? random() * 30 : undefined
      const question = questions[which]
      const received =
        random() < 0.5
          ? await post(`${server.url}/v1/scenes/${scene}/ask`, { question, maxNewTokens, stream }, cutMs)
          : await post(
              `${server.url}/v1/chat/completions`,
              chatBody(server.model, question, maxNewTokens, stream),
              cutMs,
            )
      if (received === null) told.cut++
      else if (textOf(received) === alone[which]) told.answered++
      else told.wrong++
    }
  }
  await Promise.all(Array.from({ length: clients }, client))
  while ((await server.call('left')) > 0) await sleep(20)
  return told
}

/** One after the other in turn, so that both have the same machine. */
async function overhead(server, scene, maxNewTokens, rounds) {
  const times = { direct: [], scene: [], chat: [] }
  const timed = async (name, ask) => {
    const started = performance.now()
    await ask()
    times[name].push(performance.now() - started)
  }
  const question = questions[0]
  for (let i = 0; i < rounds; i++) {
    times.direct.push(await server.call('direct', { question, maxNewTokens }))
    await timed('scene', () => post(`${server.url}/v1/scenes/${scene}/ask`, { question, maxNewTokens }))
    const body = chatBody(server.model, question, maxNewTokens, false)
    await timed('chat', () => post(`${server.url}/v1/chat/completions`, body))
  }
  return Object.fromEntries(Object.entries(times).map(([name, all]) => [name, median(all.slice(rounds >> 3))]))
}

const ms = (value) => `${value.toFixed(2)} ms`
const mib = (value) => `${value.toFixed(1)} MiB`

function sayLoop({ late, own, ranMs, waitedMs }) {
  console.log(
    `  event loop: late p50 ${ms(late.p50)}, p99 ${ms(late.p99)}, max ${ms(late.max)}; by its own work p99 ${ms(own.p99)}, max ${ms(own.max)}`,
  )
  console.log(`  its thread ran ${(ranMs / 1000).toFixed(2)} s and waited ${(waitedMs / 1000).toFixed(2)} s for a core`)
}

const say = ({ answered, cut, wrong }) => `${answered} as alone, ${cut} cut off, ${wrong} wrong`

async function underLoad({ requests, rounds }) {
  const server = await startServer()
  const maxNewTokens = 32
  try {
    console.log(`${server.model}, ${clients} clients`)
    const scene = await see(server.url, views)
    const alone = await server.call('alone', { maxNewTokens })
    await load(server, scene, alone, { count: 100, cutShare: 0, maxNewTokens, seed: 1 }) // warm
    await server.call('reset')
    const asked = await load(server, scene, alone, { count: 200, cutShare: 0.2, maxNewTokens, seed: 2 })
    const loop = await server.call('loop')
    console.log(`200 questions: ${say(asked)}`)
    sayLoop(loop)
    const medianMs = await overhead(server, scene, maxNewTokens, rounds)
    const over = (name) => `${ms(medianMs[name])} (+${ms(medianMs[name] - medianMs.direct)})`
    console.log(
      `a question: library ${ms(medianMs.direct)}, /v1/scenes ${over('scene')}, /v1/chat/completions with six pictures ${over('chat')}`,
    )
    const memory = []
    const all = { answered: 0, cut: 0, wrong: 0 }
    await server.call('reset')
    const started = performance.now()
    for (let part = 0; part < 10; part++) {
      const told = await load(server, scene, alone, {
        count: requests / 10,
        cutShare: 0.1,
        maxNewTokens,
        seed: 3 + part,
      })
      for (const key of Object.keys(all)) all[key] += told[key]
      const now = { requests: ((part + 1) * requests) / 10, ...(await server.call('memory')) }
      memory.push(now)
      console.log(
        `  ${now.requests} requests: ${mib(now.rssMiB)}, heap ${mib(now.heapMiB)}, outside ${mib(now.externalMiB)}`,
      )
    }
    const perSecond = requests / ((performance.now() - started) / 1000)
    console.log(`${requests} requests: ${say(all)}; ${perSecond.toFixed(0)} a second`)
    sayLoop(await server.call('loop'))
    if (asked.wrong + all.wrong > 0) process.exitCode = 1
    return { asked, loop, medianMs, all, perSecond, memory }
  } finally {
    await server.end()
    agent.destroy()
  }
}

/** The same 20 questions about one picture, one by one and from 20 clients at once. */
async function batching(dir, tokens) {
  const server = await startServer(dir, { weights: 'int8', activations: 'int8' }, 'CAM_FRONT')
  try {
    const scene = await see(server.url, [views.CAM_FRONT])
    const ask = (i) =>
      post(`${server.url}/v1/scenes/${scene}/ask`, { question: `${questions[i % 7]} (${i})`, maxNewTokens: tokens })
    await ask(0)
    const timed = async (work) => {
      const started = performance.now()
      await work()
      return performance.now() - started
    }
    const apart = async () => {
      for (let i = 0; i < clients; i++) await ask(i)
    }
    const together = () => Promise.all(Array.from({ length: clients }, (_, i) => ask(i)))
    // In turns, so that both have the same machine.
    const times = { apart: [], together: [] }
    for (let i = 0; i < 2; i++) {
      times.apart.push(await timed(apart))
      times.together.push(await timed(together))
    }
    const [apartMs, togetherMs] = [median(times.apart) / clients, median(times.together) / clients]
    console.log(
      `${server.model}, ${clients} answers of ${tokens} tokens: ${ms(apartMs)} each one by one, ${ms(togetherMs)} together: ` +
        `${(apartMs / togetherMs).toFixed(2)} times as many a second`,
    )
    return { apartMs, togetherMs }
  } finally {
    await server.end()
    agent.destroy()
  }
}

async function main() {
  const string = { type: 'string' }
  const { values } = parseArgs({
    options: { requests: string, rounds: string, batching: string, tokens: string, json: string },
  })
  const load = () => os.loadavg()[0].toFixed(1)
  console.log(`${os.cpus()[0].model}, ${os.availableParallelism()} cores, load ${load()}`)
  const result =
    values.batching !== undefined
      ? await batching(path.resolve(values.batching), Number(values.tokens ?? 16))
      : await underLoad({ requests: Number(values.requests ?? 10_000), rounds: Number(values.rounds ?? 400) })
  console.log(`load ${load()} at the end`)
  if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(result, null, 2)}\n`)
}

const [, , role, dir, given, camera] = process.argv
if (role === 'server') await serveHere(dir || undefined, JSON.parse(given), camera ? pictures[camera] : pictures)
else await main()
