// Draws what one sitting of street-tiny's training learns from: moments of day-city with many questions each, and text alone that practises
// choosing a letter. `drivlm adapt` reads the files as they are.
//
//   FOLDER/images/<camera>/<n>.png    six views of each moment; not where a sitting is text alone
//   FOLDER/moments.jsonl              a question a line
//   FOLDER/practice.jsonl             conversations without pictures
//
// Everything follows from the sitting's seed: moment n has seed + n.

import { mkdir, open } from 'node:fs/promises'
import path from 'node:path'
import { drawScene, letterPractice, loadDomain } from 'drivlm/street'
import sharp from 'sharp'

const letters = 'ABCD'
const nameIt = 'Name it with its letter.'

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
    this.vehicles = domain.objects.filter(({ shape }) => ['car', 'truck', 'bus'].includes(shape))
  }

  pick(list) {
    return list[this.below(list.length)]
  }

  shuffled(list) {
    const out = [...list]
    for (let i = out.length - 1; i > 0; i--) {
      const j = this.below(i + 1)
      ;[out[i], out[j]] = [out[j], out[i]]
    }
    return out
  }

  where(view) {
    const { name, direction } = this.domain.views[view]
    return this.next() < 0.5 ? `in ${name}` : `to the ${direction} of the ego car`
  }

  below(count) {
    return Math.floor(this.next() * count)
  }

  /**
   * Finding the letter of a colour, from two to four options, as text alone. `list` names all letters, one lookup after the other; `letter` and
   * `says` ask for one; `told` says before what there is, as the image tokens of a picture do; `named` wants the colour before its letter.
   */
  practice({ list, letter, says, named = 0 }) {
    const count = 2 + this.below(3)
    const options = this.shuffled(this.colours).slice(0, count)
    const right = this.below(options.length)
    const texts = options.map((name) => `${capital(name)}.`)
    const text = texts.map((name, i) => `${letters[i]}. ${name}`).join(' ')
    const answer = letters[right]
    const kind = this.next()
    if (kind < list) {
      const all = this.shuffled(options).map((name) => `${capital(name)} is ${letters[options.indexOf(name)]}.`)
      return { question: `Which option says what? ${text}`, answer: all.join(' ') }
    }
    if (kind < list + letter) return { question: `Which option says: ${texts[right]} ${text}`, answer }
    if (kind < list + letter + says)
      return { question: `What says option ${letters[right]}? ${text}`, answer: texts[right] }
    const view = this.below(6)
    const { name } = this.vehicles[this.below(this.vehicles.length)]
    const told = `There is one ${options[right]} ${name} ${this.where(view)}.`
    const question = `${told} What is the colour of the ${name} ${this.where(view)}? ${text}`
    if (kind < list + letter + says + named)
      return { question: `${question} ${nameIt}`, answer: `${capital(options[right])} is ${answer}.` }
    return { question, answer }
  }

  /** Questions of forms that are not asked in tests: what a lettered choice of colours is made of, in single steps. */
  steps({ facts, caption }, count, named = 0) {
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
    if (named === 0) return out
    for (const { view, thing } of this.shuffled(vehicles).slice(0, named)) {
      const options = this.shuffled(this.colours).slice(0, 4)
      const colour = this.colours[thing.colour]
      if (!options.includes(colour)) options[this.below(4)] = colour
      const text = options.map((option, i) => `${letters[i]}. ${capital(option)}.`).join(' ')
      const { name } = this.domain.objects[thing.kind]
      const question = `What is the colour of the ${name} ${this.where(view)}? ${text} ${nameIt}`
      out.push({ type: 'named', question, answer: `${capital(colour)} is ${letters[options.indexOf(colour)]}.` })
    }
    return out
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

async function writeLines(file, lines) {
  await file.appendFile(lines.map((line) => `${JSON.stringify(line)}\n`).join(''))
}

function conversation(id, { question, answer }) {
  const conversations = [
    { from: 'human', value: question },
    { from: 'gpt', value: answer },
  ]
  return { id, conversations }
}

/**
 * @param out - A folder that is not there yet.
 * @param sitting - `seed`, `moments`, and what each moment gets: up to `most` of each type of `questions` that are drawn by `shares`, `steps`, `named`,
 *   and `practice` samples of text in this `mix`, every fourth of them about plans.
 */
export async function drawSitting(out, { seed, moments, questions, shares, most, steps, named, practice, mix }) {
  const domain = await loadDomain('day-city')
  const pictureOf = (view, n) => path.join('images', domain.views[view].name, `${n}.png`)
  for (const { name } of domain.views) await mkdir(path.join(out, 'images', name), { recursive: true })
  const asked = await open(path.join(out, 'moments.jsonl'), 'w')
  const said = await open(path.join(out, 'practice.jsonl'), 'w')
  const counts = { practice: practice * moments }
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
    const list = [...capped(scene.questions, most), ...writer.steps(scene, steps, named)]
    for (const { type } of list) counts[type] = (counts[type] ?? 0) + 1
    const lines = list.map(({ question, answer }, i) => ({ id: `${n}_${i}`, views, question, answer }))
    await writeLines(asked, lines)
    const texts = Array.from({ length: practice }, (_, i) =>
      i % 4 === 3 ? letterPractice(domain, (seed + n) * practice + i) : writer.practice(mix),
    )
    await writeLines(
      said,
      texts.map((text, i) => conversation(`${n}_${i}`, text)),
    )
  }
  await asked.close()
  await said.close()
  return counts
}
