/** The page of `drivlm serve`: six pictures, questions, answers as they come. */
import type { Choice } from '../../choices.ts'
import type { SceneInfo } from '../../scene.ts'
import type { Camera } from '../../views/cameras.ts'
import { type AnswerCard, AnswerList, stages } from './answers.ts'
import { Api, Failure } from './api.ts'
import { byId, formatMs, make } from './dom.ts'
import { dataUrl, dropped, type NamedFile, picked, place, places } from './files.ts'
import { Views } from './views.ts'

interface Info {
  name: string
  parameters: number
  device: string
  precision: string
  weights: string
}

interface Moment {
  name: string
  title: string
  questions: { type: string; question: string }[]
}

const questions = byId<HTMLTextAreaElement>('questions')
const choices = byId<HTMLTextAreaElement>('choices')
const black = byId<HTMLInputElement>('black')
const api = new Api(askForToken)
const views = new Views(byId('views'), onPictures, (camera) => pick(byId('one'), (list) => putOne(camera, list)))
const answers = new AnswerList(byId('answers'), (marks) => views.mark(marks))
/** The scene of the pictures that are shown, once it was seen. */
let scene: ({ id: string } & SceneInfo) | undefined
/** Ends what is being asked. */
let running: AbortController | undefined

const lines = ({ value }: HTMLTextAreaElement): string[] =>
  value
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '')
const say = (text: string): void => {
  byId('status').textContent = text
}

function showError(error: unknown): void {
  const box = byId('error')
  box.hidden = error === undefined
  box.textContent =
    error === undefined ? '' : error instanceof Failure ? error.message : `The page failed: ${String(error)}`
}

// Pictures

function onPictures(): void {
  forgetScene()
  running?.abort()
  answers.unmark()
  const count = views.pictures.size
  byId<HTMLButtonElement>('clear').disabled = count === 0
  byId('black-row').hidden = count === 0 || count === places.length
}

function forgetScene(): void {
  if (scene !== undefined) api.forget(`/v1/scenes/${scene.id}`)
  scene = undefined
  byId('stages').replaceChildren()
}

function put(files: readonly NamedFile[]): void {
  const { at, note } = place(files, new Set(views.pictures.keys()))
  showMoment(undefined)
  byId('placed').textContent = note
  if (at.size > 0) views.put(at)
}

function putOne(camera: Camera, files: readonly NamedFile[]): void {
  const [one] = files
  if (one === undefined || files.length > 1 || !one.file.type.startsWith('image/')) {
    put(files)
    return
  }
  showMoment(undefined)
  byId('placed').textContent = `${one.file.name} is ${camera}.`
  views.put(new Map([[camera, one.file]]))
}

function pick(input: HTMLInputElement, use: (files: NamedFile[]) => void): void {
  input.onchange = () => {
    use(picked(input.files!))
    input.value = '' // so that the same file may be picked again
  }
  input.click()
}

byId('pick-files').onclick = () => pick(byId('files'), put)
byId('pick-folder').onclick = () => pick(byId('folder'), put)
byId('clear').onclick = () => {
  views.clear()
  showMoment(undefined)
  byId('placed').textContent = 'Drop six pictures or a folder anywhere. Names such as CAM_FRONT.jpg say their places.'
}
black.onchange = forgetScene

let dragDepth = 0
const overFiles = (event: DragEvent) => event.dataTransfer?.types.includes('Files') === true
document.addEventListener('dragenter', (event) => {
  if (!overFiles(event)) return
  dragDepth++
  document.body.classList.add('dragging')
})
document.addEventListener('dragleave', () => {
  dragDepth = Math.max(0, dragDepth - 1)
  if (dragDepth === 0) document.body.classList.remove('dragging')
})
document.addEventListener('dragover', (event) => {
  if (overFiles(event)) event.preventDefault()
})
document.addEventListener('drop', async (event) => {
  if (!overFiles(event)) return
  event.preventDefault()
  dragDepth = 0
  document.body.classList.remove('dragging')
  const on = (event.target as Element).closest<HTMLElement>('.view')?.dataset.camera as Camera | undefined
  const files = await dropped(event.dataTransfer!)
  if (on === undefined) put(files)
  else putOne(on, files)
})

// Moments

async function loadMoment(moment: Moment): Promise<void> {
  try {
    const loaded = await Promise.all(
      places.map(async (camera) => {
        const response = await api.request(`/v1/moments/${moment.name}/${camera}`)
        return [camera, await response.blob()] as const
      }),
    )
    showError(undefined)
    showMoment(moment)
    byId('placed').textContent = `${moment.title}: six drawn pictures that come with the package.`
    views.put(new Map(loaded))
  } catch (error) {
    showError(error)
  }
}

/** Marks the moment that is shown, and suggests what to ask about it. */
function showMoment(moment: Moment | undefined): void {
  for (const button of byId('moments').children) {
    button.setAttribute('aria-pressed', String((button as HTMLElement).dataset.name === moment?.name))
  }
  const kinds = new Set<string>()
  const shown = (moment?.questions ?? []).filter(({ type }) => !kinds.has(type) && kinds.add(type)).slice(0, 6)
  byId('suggestions').replaceChildren(
    ...shown.map(({ question }) => {
      const button = make('button', { type: 'button', class: 'quiet' }, question)
      button.onclick = () => {
        questions.value = [...lines(questions), question].join('\n')
        questions.focus()
      }
      return button
    }),
  )
}

// Asking

async function see(signal: AbortSignal): Promise<string> {
  if (scene !== undefined) return scene.id
  const given = [...views.pictures]
  if (given.length === 0) {
    throw new Failure('no_pictures', 'There are no pictures yet: drop some, or take one of the moments above.')
  }
  say('Seeing the pictures.')
  stages(byId('stages'), { seeing: '…' })
  const urls = await Promise.all(given.map(async ([camera, picture]) => [camera, await dataUrl(picture)] as const))
  const missingViews = black.checked && given.length < places.length ? 'black' : 'error'
  const body = { views: Object.fromEntries(urls), missingViews }
  const seen = await api.post<{ id: string } & SceneInfo>('/v1/scenes', body, signal).catch((error) => {
    byId('stages').replaceChildren()
    throw error
  })
  scene = seen
  const { decodeMs, queueMs, preprocessMs, visionMs, prefillMs, totalMs } = seen.timings
  stages(byId('stages'), {
    decode: formatMs(decodeMs),
    queue: formatMs(queueMs),
    preprocess: formatMs(preprocessMs),
    vision: formatMs(visionMs),
    prefill: formatMs(prefillMs),
    total: formatMs(totalMs),
    tiles: seen.cachedTiles > 0 ? `${seen.tiles}, ${seen.cachedTiles} known` : String(seen.tiles),
    tokens: String(seen.tokens),
  })
  return seen.id
}

/** With a scene; once more if the server has dropped it in the meantime. */
async function withScene(signal: AbortSignal, work: (path: string) => Promise<void>): Promise<void> {
  for (const last of [false, true]) {
    try {
      return await work(`/v1/scenes/${await see(signal)}`)
    } catch (error) {
      if (last || !(error instanceof Failure) || error.code !== 'scene_not_found') throw error
      scene = undefined
    }
  }
}

async function answerAll(list: readonly string[], cards: readonly AnswerCard[], signal: AbortSignal): Promise<void> {
  await withScene(signal, async (path) => {
    say('Answering.')
    const told: string[] = []
    const asked = list.length === 1 ? { question: list[0] } : { questions: list }
    for await (const event of api.events(
      `${path}/${list.length === 1 ? 'ask' : 'ask-all'}`,
      { ...asked, stream: true },
      signal,
    )) {
      const card = cards[event.index]!
      if ('text' in event) card.write(event.text)
      else if ('answer' in event) told.push(card.finish(event.answer, event.boxes, event.asked))
      else card.fail(event.error.message)
    }
    say(told.length === 1 ? `Answer: ${told[0]}` : `${told.length} answers. ${told.join(' ')}`)
  })
}

async function chooseAll(
  list: readonly string[],
  given: readonly string[],
  cards: readonly AnswerCard[],
  signal: AbortSignal,
): Promise<void> {
  await withScene(signal, async (path) => {
    for (const [i, question] of list.entries()) {
      const started = performance.now()
      const choice = await api.post<Choice>(`${path}/choose`, { question, choices: given }, signal)
      say(`Answer: ${cards[i]!.choose(given, choice, performance.now() - started)}`)
    }
  })
}

async function ask(): Promise<void> {
  if (running !== undefined) return
  showError(undefined)
  const list = lines(questions)
  const open = choices.closest('details')!.open
  const given = open ? lines(choices) : []
  if (list.length === 0) {
    showError(new Failure('no_question', 'There is no question yet.'))
    return questions.focus()
  }
  const aborting = new AbortController()
  running = aborting
  byId('stop').hidden = false
  byId<HTMLButtonElement>('send').disabled = true
  // The latest stands first, and of several questions the first one.
  const cards = [...list]
    .reverse()
    .map((question) => answers.add(question))
    .reverse()
  try {
    if (given.length > 0) await chooseAll(list, given, cards, aborting.signal)
    else await answerAll(list, cards, aborting.signal)
  } catch (error) {
    if (aborting.signal.aborted) say('Stopped.')
    else showError(error)
  } finally {
    for (const card of cards) card.end(aborting.signal.aborted)
    running = undefined
    byId('stop').hidden = true
    byId<HTMLButtonElement>('send').disabled = false
  }
}

byId('ask').onsubmit = (event) => {
  event.preventDefault()
  void ask()
}
questions.onkeydown = (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return
  event.preventDefault()
  void ask()
}
byId('stop').onclick = () => {
  running?.abort()
  questions.focus() // the button goes away
}
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape') running?.abort()
})
window.addEventListener('pagehide', forgetScene)

// The server

function askForToken(wrong: boolean): Promise<string> {
  const dialog = byId<HTMLDialogElement>('token-dialog')
  const input = byId<HTMLInputElement>('token')
  if (wrong) byId('token-note').textContent = 'That is not the token of this server.'
  input.value = ''
  dialog.showModal()
  return new Promise((resolve, reject) => {
    byId('token-form').onsubmit = (event) => {
      event.preventDefault()
      resolve(input.value)
      dialog.close()
    }
    dialog.onclose = () =>
      reject(new Failure('no_token', 'Nothing works without the token; load the page again to give it.'))
  })
}

async function start(): Promise<void> {
  try {
    const { name, parameters, device, precision, weights } = await api.get<Info>('/v1/info')
    const size = parameters >= 1e9 ? `${(parameters / 1e9).toFixed(2)} B` : `${(parameters / 1e6).toFixed(2)} M`
    const kept = weights === precision ? precision : `${precision}, weights ${weights}`
    byId('model').textContent = `${name} · ${size} parameters · ${kept} on ${device}`
    const { moments } = await api.get<{ moments: Moment[] }>('/v1/moments')
    byId('moments').replaceChildren(
      ...moments.map((moment) => {
        const attributes = { type: 'button', class: 'choice', 'data-name': moment.name, 'aria-pressed': 'false' }
        const button = make('button', attributes, moment.title)
        button.onclick = () => loadMoment(moment)
        return button
      }),
    )
  } catch (error) {
    showError(error)
  }
}

void start()
