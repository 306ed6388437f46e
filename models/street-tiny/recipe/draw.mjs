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
import { domainOf, drawScene, letterPractice, stitchedBox } from 'drivlm/street'
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
   * `says` ask for one; the others say before what there is, as the image tokens of a picture do.
   */
  practice({ list, letter, says }) {
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
    return { question: `${told} What is the colour of the ${name} ${this.where(view)}? ${text}`, answer }
  }

  /** Vehicles that a question about their colour can mean. */
  coloured({ facts }) {
    return facts.flatMap(({ view, seen, unclear, counts }) =>
      seen
        .filter(({ thing }) => thing.colour >= 0 && counts[thing.kind] === 1 && !unclear.has(thing.kind))
        .map(({ thing }) => ({ view, kind: this.domain.objects[thing.kind].name, colour: this.colours[thing.colour] })),
    )
  }

  areColours(scene, count) {
    return this.shuffled(this.coloured(scene))
      .slice(0, count)
      .map(({ view, kind, colour }) => {
        const yes = this.next() < 0.5
        const said = yes ? colour : this.pick(this.colours.filter((name) => name !== colour))
        return { question: `Is the ${kind} ${this.where(view)} ${said}?`, answer: yes ? 'Yes.' : 'No.' }
      })
  }

  /**
   * Which of four lettered colours each vehicle has: what `colourmc` asks for one. `named`: the colour is said before its letter, so that only the
   * letter is looked up.
   */
  letters(scene, named) {
    const vehicles = this.shuffled(this.coloured(scene))
    const seen = [...new Set(vehicles.map(({ colour }) => colour))]
    if (seen.length === 0) return undefined
    const others = this.shuffled(this.colours.filter((name) => !seen.includes(name)))
    const options = this.shuffled([...seen, ...others].slice(0, 4))
    const text = options.map((name, i) => `${letters[i]}. ${capital(name)}.`).join(' ')
    const question = named ? 'What is the colour of what, and which option?' : 'What is the colour of what?'
    const answer = vehicles
      .filter(({ colour }) => options.includes(colour))
      .map(({ view, kind, colour }) => {
        const letter = letters[options.indexOf(colour)]
        return `The ${kind} ${this.where(view)} is ${named ? `${colour}, ${letter}` : letter}.`
      })
    return { question: `${question} ${text}`, answer: answer.join(' ') }
  }

  /** As `colourmc`, from two to four options: with fewer the letter is found sooner. */
  choice(scene) {
    const vehicles = this.coloured(scene)
    if (vehicles.length === 0) return undefined
    const { view, kind, colour } = this.pick(vehicles)
    const others = this.shuffled(this.colours.filter((name) => name !== colour))
    const options = this.shuffled([colour, ...others.slice(0, 1 + this.below(3))])
    const text = options.map((name, i) => `${letters[i]}. ${capital(name)}.`).join(' ')
    const question = `What is the colour of the ${kind} ${this.where(view)}? ${text}`
    return { question, answer: letters[options.indexOf(colour)] }
  }

  /** Where everything in a view is, in hundredths of the canvas: what `locate` asks for one, without the last digits, which a pixel is too wide for. */
  places({ facts }) {
    const views = facts.filter(({ seen, unclear }) => seen.length > 0 && unclear.size === 0)
    if (views.length === 0) return undefined
    const { view, seen } = this.pick(views)
    const list = seen.map(({ thing, box }) => {
      const place = stitchedBox(view, box).map((side) => Math.min(99, Math.round(side / 10)))
      return { kind: thing.kind, text: `${this.domain.objects[thing.kind].name} ${place.join(',')}.`, left: place[0] }
    })
    list.sort((a, b) => a.kind - b.kind || a.left - b.left)
    return { question: `Where are objects ${this.where(view)}?`, answer: list.map(({ text }) => text).join(' ') }
  }

  /** Which way somebody walks who is alone in a view: the part of `cross` that was hard to learn. */
  way({ facts }, count) {
    const alone = facts.filter(({ seen, unclear }) => unclear.size === 0 && seen.filter(isPerson).length === 1)
    return this.shuffled(alone)
      .slice(0, count)
      .map(({ view, seen }) => {
        const { thing } = seen.find(isPerson)
        const { name } = this.domain.objects[thing.kind]
        const question = `Which way is the ${name} ${this.where(view)} going?`
        return { question, answer: ['FRONT', 'LEFT', 'RIGHT'][thing.pose] }
      })
  }

  /** So many samples of forms that no test asks, each once. */
  forms(scene, counts) {
    const make = {
      caption: () => (scene.caption === undefined ? [] : [{ question: 'Describe the scene.', answer: scene.caption }]),
      'is-colour': (count) => this.areColours(scene, count),
      letters: (count) => Array.from({ length: count }, () => this.letters(scene, false)),
      named: (count) => Array.from({ length: count }, () => this.letters(scene, true)),
      choice: (count) => Array.from({ length: count }, () => this.choice(scene)),
      places: (count) => Array.from({ length: count }, () => this.places(scene)),
      way: (count) => this.way(scene, count),
    }
    const out = new Map()
    for (const [type, count] of Object.entries(counts)) {
      for (const text of make[type](count)) if (text) out.set(text.question, { type, ...text })
    }
    return [...out.values()]
  }
}

/** What of day-city makes a street of people, most of them alone in a view. */
const people = {
  objects: [
    { name: 'car', plural: 'cars', shape: 'car', share: 0.02, repeated: 0 },
    { name: 'truck', plural: 'trucks', shape: 'truck', share: 0.01, repeated: 0 },
    { name: 'bus', plural: 'buses', shape: 'bus', share: 0.01, repeated: 0 },
    { name: 'pedestrian', plural: 'pedestrians', shape: 'pedestrian', share: 0.9, repeated: 1 },
    { name: 'cyclist', plural: 'cyclists', shape: 'cyclist', share: 0.1, repeated: 0 },
    { name: 'traffic cone', plural: 'traffic cones', shape: 'cone', share: 0.02, repeated: 0 },
  ],
  objectsPerView: [0, 0.8, 0.2],
}

function isPerson({ thing }) {
  return thing.shape === 'pedestrian' || thing.shape === 'cyclist'
}

/** The first so many of each type; of 0.5 every second moment has one. A place is asked for once. */
function capped(questions, most, others, n) {
  const taken = {}
  const places = new Set()
  return questions.filter(({ type, answer }) => {
    if (type === 'locate') {
      if (places.has(answer)) return false
      places.add(answer)
    }
    taken[type] = (taken[type] ?? 0) + 1
    const share = most[type] ?? others
    return taken[type] <= Math.floor(share * (n + 1)) - Math.floor(share * n)
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
 * @param sitting - `seed`, `moments`, whether they are of `people` alone, what else of the `domain` is not as day-city, and what each moment gets: up
 *   to `most` (or `others`) of each type of `questions` that are drawn by `shares`, so many samples of other `forms`, and `practice`
 *   samples of text in this `mix`, every fourth of them about plans.
 * @returns How many samples of each type and form there are.
 */
export async function drawSitting(out, sitting) {
  const { seed, moments, questions = 0, shares, most = {}, others = 1, forms, practice = 0, mix } = sitting
  const domain = domainOf({ from: 'day-city', ...(sitting.people && people), ...sitting.domain }, 'recipe.json')
  const pictureOf = (view, n) => path.join('images', domain.views[view].name, `${n}.png`)
  for (const { name } of domain.views) await mkdir(path.join(out, 'images', name), { recursive: true })
  const asked = await open(path.join(out, 'moments.jsonl'), 'w')
  const said = practice > 0 ? await open(path.join(out, 'practice.jsonl'), 'w') : undefined
  const counts = {}
  for (let n = 0; n < moments; n++) {
    const writer = new Writer(domain, numbersFrom(seed + n))
    const scene = drawScene(seed + n, domain, { questions, shares })
    await Promise.all(
      scene.views.map(({ data, width, height }, view) =>
        sharp(data, { raw: { width, height, channels: 3 } })
          .png({ compressionLevel: 1 })
          .toFile(path.join(out, pictureOf(view, n))),
      ),
    )
    const views = Object.fromEntries(domain.views.map(({ name }, view) => [name, pictureOf(view, n)]))
    const list = [...capped(scene.questions, most, others, n), ...writer.forms(scene, forms)]
    for (const { type } of list) counts[type] = (counts[type] ?? 0) + 1
    const lines = list.map(({ question, answer }, i) => ({ id: `${n}_${i}`, views, question, answer }))
    await writeLines(asked, lines)
    const texts = Array.from({ length: practice }, (_, i) =>
      i % 4 === 3 ? letterPractice(domain, (seed + n) * practice + i) : writer.practice(mix),
    )
    if (said)
      await writeLines(
        said,
        texts.map((text, i) => conversation(`${n}_${i}`, text)),
      )
  }
  await asked.close()
  await said?.close()
  return said ? { ...counts, practice: practice * moments } : counts
}
