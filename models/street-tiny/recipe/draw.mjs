// Draws what one sitting of street-tiny's training learns from: moments of day-city with many questions each, and text alone that practises
// choosing a letter. `drivlm adapt` reads the files as they are.
//
//   FOLDER/images/<camera>/<n>.png    six views of each moment
//   FOLDER/moments.jsonl              a question a line
//   FOLDER/practice.jsonl             conversations without pictures
//
// Everything follows from the sitting's seed: moment n has seed + n.

import { mkdir, open } from 'node:fs/promises'
import path from 'node:path'
import { drawScene, letterPractice, loadDomain } from 'drivlm/street'
import sharp from 'sharp'

const letters = 'ABCD'

/** Random numbers of [0, 1) for wording, which the generator's own draws do not depend on. */
function numbersFrom(seed) {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let z = Math.imul(state ^ (state >>> 15), state | 1)
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61)
    return ((z ^ (z >>> 14)) >>> 0) / 2 ** 32
  }
}

const capital = (text) => text[0].toUpperCase() + text.slice(1)

class Writer {
  constructor(domain, next) {
    this.domain = domain
    this.next = next
    this.colours = Object.keys(domain.colours)
  }

  pick(list) {
    return list[Math.floor(this.next() * list.length)]
  }

  shuffled(list) {
    const out = [...list]
    for (let i = out.length - 1; i > 0; i--) {
      const j = Math.floor(this.next() * (i + 1))
      ;[out[i], out[j]] = [out[j], out[i]]
    }
    return out
  }

  where(view) {
    const { name, direction } = this.domain.views[view]
    return this.next() < 0.5 ? `in ${name}` : `to the ${direction} of the ego car`
  }

  /** Four lettered colours, `colour` among them, and its letter. */
  options(colour) {
    const others = this.shuffled(this.colours.filter((name) => name !== colour)).slice(0, 3)
    const options = this.shuffled([colour, ...others])
    const text = options.map((name, i) => `${letters[i]}. ${capital(name)}.`).join(' ')
    return { text, letter: letters[options.indexOf(colour)] }
  }

  /** Questions of forms that are not asked in tests: what a lettered choice of colours is made of, in single steps. */
  steps({ facts, caption }, count) {
    const out = caption === undefined ? [] : [{ type: 'caption', question: 'Describe the scene.', answer: caption }]
    const vehicles = facts.flatMap(({ view, seen, unclear, counts }) =>
      seen
        .filter(({ thing }) => thing.colour >= 0 && counts[thing.kind] === 1 && !unclear.has(thing.kind))
        .map(({ thing }) => ({ view, thing })),
    )
    for (const { view, thing } of this.shuffled(vehicles).slice(0, count)) {
      const colour = this.colours[thing.colour]
      const yes = this.next() < 0.5
      const said = yes ? colour : this.pick(this.colours.filter((name) => name !== colour))
      const { name } = this.domain.objects[thing.kind]
      const question = `Is the ${name} ${this.where(view)} ${said}?`
      out.push({ type: 'is-colour', question, answer: yes ? 'Yes.' : 'No.' })
    }
    return out
  }

  /** The colour is told: what is left to do is to find the letter. */
  told() {
    const vehicles = this.domain.objects.filter(({ shape }) => ['car', 'truck', 'bus', 'tram'].includes(shape))
    const facts = this.shuffled(vehicles)
      .slice(0, 1 + Math.floor(this.next() * vehicles.length))
      .map(({ name }) => ({ name, view: Math.floor(this.next() * 6), colour: this.pick(this.colours) }))
    const about = this.pick(facts)
    const texts = facts.map(({ name, view, colour }) => `There is one ${colour} ${name} ${this.where(view)}.`)
    const { text, letter } = this.options(about.colour)
    const question = `What is the colour of the ${about.name} ${this.where(about.view)}? ${text}`
    return { question: `${texts.join(' ')} ${question}`, answer: letter }
  }
}

/** The first so many of each type; a place is asked for once. */
function capped(questions, most) {
  const taken = {}
  const places = new Set()
  return questions.filter(({ type, answer }) => {
    if (type === 'locate') {
      if (places.has(answer)) return false
      places.add(answer)
    }
    taken[type] = (taken[type] ?? 0) + 1
    return taken[type] <= (most[type] ?? 1)
  })
}

/**
 * @param out - A folder that is not there yet.
 * @param sitting - `seed`, `moments`, and what each moment gets: up to `most` of each type of `questions` that are drawn by `shares`, `steps`, `practice`.
 */
export async function drawSitting(out, { seed, moments, questions, shares, most, steps, practice }) {
  const domain = await loadDomain('day-city')
  const pictureOf = (view, n) => path.join('images', domain.views[view].name, `${n}.png`)
  for (const { name } of domain.views) await mkdir(path.join(out, 'images', name), { recursive: true })
  const asked = await open(path.join(out, 'moments.jsonl'), 'w')
  const said = await open(path.join(out, 'practice.jsonl'), 'w')
  const counts = {}
  for (let n = 0; n < moments; n++) {
    const writer = new Writer(domain, numbersFrom(seed + n))
    const scene = drawScene(seed + n, domain, { questions, shares })
    await Promise.all(
      scene.views.map(({ data, width, height }, view) =>
        sharp(data, { raw: { width, height, channels: 3 } })
          .png({ compressionLevel: 3 })
          .toFile(path.join(out, pictureOf(view, n))),
      ),
    )
    const views = Object.fromEntries(domain.views.map(({ name }, view) => [name, pictureOf(view, n)]))
    const lines = [...capped(scene.questions, most), ...writer.steps(scene, steps)].map(({ type, question, answer }, i) => {
      counts[type] = (counts[type] ?? 0) + 1
      return JSON.stringify({ id: `${n}_${i}`, views, question, answer })
    })
    await asked.appendFile(`${lines.join('\n')}\n`)
    for (let i = 0; i < practice; i++) {
      const { question, answer } = i % 2 === 0 ? writer.told() : letterPractice(domain, (seed + n) * practice + i)
      const conversations = [
        { from: 'human', value: question },
        { from: 'gpt', value: answer },
      ]
      counts.practice = (counts.practice ?? 0) + 1
      await said.appendFile(`${JSON.stringify({ id: `${n}_${i}`, conversations })}\n`)
    }
  }
  await asked.close()
  await said.close()
  return counts
}
