// Checks lib/evaluate against a folder of reference values: what the reference implementations computed for given texts, pairs,
// coordinates and small data sets. Files that a folder lacks are passed over; everything in those it has is compared.

import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'

const floatBound = 1e-9

/** The module under test: the entry drivlm/drivelm, unless a caller brings another build of it. */
let drivelm

/** Collects what differs: texts and lists by count, numbers by their largest error. */
class Check {
  constructor(name, stage, bound = 0) {
    Object.assign(this, { name, stage, bound, error: 0, compared: 0, first: undefined })
  }

  same(found, expected, what) {
    this.compared++
    if (JSON.stringify(found) === JSON.stringify(expected)) return
    if (this.bound === 0) this.error++
    else this.error = Number.POSITIVE_INFINITY
    this.first ??= `${what}: expected ${JSON.stringify(expected)}, found ${JSON.stringify(found)}`
  }

  close(found, expected, what) {
    this.compared++
    const error = typeof found === 'number' ? Math.abs(found - expected) : Number.POSITIVE_INFINITY
    if (!(error <= this.error)) this.error = error
    if (!(error <= this.bound)) this.first ??= `${what}: expected ${expected}, found ${found}`
  }

  throws(run, what) {
    this.compared++
    try {
      run()
    } catch (error) {
      if (error.code === 'BAD_DATA') return
    }
    this.error = this.bound === 0 ? this.error + 1 : Number.POSITIVE_INFINITY
    this.first ??= `${what}: expected an error`
  }

  row() {
    const { name, stage, error, bound, compared, first } = this
    const ok = error <= bound && compared > 0
    return { name, stage, error, bound, ok, compared, ...(first ? { first } : {}) }
  }
}

/**
 * @param {string} dir - A folder of the layout of the reference values.
 * @param {{ postprocess?: (answer: string) => string, drivelm?: object }} [functions] - `postprocess` maps coordinates of the stitched picture in an
 *   answer to camera pixels the way the adapted checkpoints' authors do. Both are those of dist/ unless another build is given.
 * @returns {Promise<{ name: string, stage: string, error: number, bound: number, ok: boolean, compared: number, first?: string }[]>}
 */
export async function runDrivelmGolden(dir, functions = {}) {
  drivelm = functions.drivelm ?? (await import('../../dist/drivelm/index.js'))
  const postprocess = functions.postprocess ?? (await import('../../dist/grounding.js')).tagsToPixels
  const rows = []
  const at = (file) => path.join(dir, file)
  const has = (...files) => files.every((file) => existsSync(at(file)))
  const json = (file) => JSON.parse(readFileSync(at(file), 'utf8'))
  const check = async (name, stage, bound, run) => {
    const result = new Check(name, stage, bound)
    try {
      await run(result)
      rows.push(result.row())
    } catch (error) {
      rows.push({ ...result.row(), error: Number.POSITIVE_INFINITY, ok: false, first: String(error) })
    }
  }

  if (has('tokenizer_cases.json')) {
    await check('tokenizer_cases', 'tokenizer', 0, (c) => {
      for (const { text, lines, coco_first_line: coco } of json('tokenizer_cases.json').cases) {
        const found = drivelm.ptbLines(text)
        c.same(found.map(tokensOf), lines, JSON.stringify(text))
        c.same(drivelm.withoutPunctuation(found[0]), coco, JSON.stringify(text))
      }
    })
  }
  if (has('tokenizer_fuzz.json')) {
    await check('tokenizer_fuzz', 'tokenizer', 0, (c) => {
      for (const [text, tokens] of json('tokenizer_fuzz.json').cases) {
        const found = drivelm.ptbLines(text).flatMap((line, i) => (i > 0 ? ['\n', ...tokensOf(line)] : tokensOf(line)))
        c.same(found, tokens, JSON.stringify(text))
      }
    })
  }
  if (has('tokenizer_documents.json')) {
    await check('tokenizer_documents', 'tokenizer', 0, (c) => {
      for (const { captions, tokenized } of json('tokenizer_documents.json').documents) {
        const found = drivelm.tokenizeCaptions(captions).map((line) => line ?? null)
        c.same(found, tokenized, JSON.stringify(captions))
      }
    })
  }
  if (has('unicode_classes.json'))
    await check('unicode_classes', 'tokenizer', 0, (c) => unicodeClasses(c, json('unicode_classes.json')))
  if (has('pairs_main.json')) {
    const pairs = json('pairs_main.json')
    const items = pairs.items.map(({ pred, refs }) => ({ answer: pred, references: refs }))
    await check('pairs_main', 'tokens', 0, (c) => {
      const scores = drivelm.scoreCaptions(items)
      for (const [i, { id, expected }] of pairs.items.entries()) {
        c.same(scores.items[i].tokens, expected.tok_pred, id)
        c.same(scores.items[i].referenceTokens, expected.tok_refs, id)
      }
    })
    await check('pairs_main', 'scores', floatBound, (c) => {
      const scores = drivelm.scoreCaptions(items)
      corpusScores(c, scores.corpus, pairs.corpus, 'corpus')
      for (const [i, { id, expected, pred, refs, exact }] of pairs.items.entries()) {
        itemScores(c, scores.items[i], expected, id)
        if (exact !== undefined) c.same(drivelm.isExact(pred, refs[0]), exact, id)
      }
      if (pairs.exact_match_accuracy !== undefined) {
        const exact = pairs.items.filter(({ pred, refs }) => drivelm.isExact(pred, refs[0])).length / pairs.items.length
        c.close(exact, pairs.exact_match_accuracy, 'exact_match_accuracy')
      }
      for (const [category, { n, corpus, error }] of Object.entries(pairs.per_category ?? {})) {
        const part = items.filter((_, i) => pairs.items[i].category === category)
        if (n !== undefined) c.same(part.length, n, category)
        if (error) c.throws(() => drivelm.scoreCaptions(part), category)
        else corpusScores(c, drivelm.scoreCaptions(part).corpus, corpus, category)
      }
    })
  }
  if (has('corpora_small.json')) {
    await check('corpora_small', 'scores', floatBound, (c) => {
      for (const { name, preds, refs, corpus, items, error } of json('corpora_small.json').corpora) {
        const pairs = preds.map((answer, i) => ({ answer, references: refs[i] }))
        if (error) {
          c.throws(() => drivelm.scoreCaptions(pairs), name)
          continue
        }
        const scores = drivelm.scoreCaptions(pairs)
        corpusScores(c, scores.corpus, corpus, name)
        for (const [i, expected] of items.entries()) {
          c.same(
            [scores.items[i].tokens, scores.items[i].referenceTokens],
            [expected.tok_pred, expected.tok_refs],
            name,
          )
          itemScores(c, scores.items[i], expected, `${name} ${i}`)
        }
      }
    })
  }
  if (has('match_cases.json')) {
    await check('match_cases', 'match', floatBound, (c) => {
      for (const { name, answer, gt, matched, f1, error } of json('match_cases.json').cases) {
        if (error) {
          c.throws(() => drivelm.matchPoints(answer, gt), name)
          continue
        }
        const found = drivelm.matchPoints(answer, gt)
        c.same(found.matched, matched, name)
        c.close(found.f1, f1, name)
      }
    })
  }
  if (has('graph_cases.json')) {
    await check('graph_cases', 'graph', 0, (c) => {
      for (const { name, first_answer, first_gt, question, graph, evaluated, error } of json('graph_cases.json')
        .cases) {
        const decide = () => drivelm.passesGraph(drivelm.graphOf(first_answer, first_gt), question)
        if (error) {
          c.throws(decide, name)
          continue
        }
        c.same(drivelm.graphOf(first_answer, first_gt), graph, name)
        c.same(decide(), evaluated, name)
      }
    })
  }
  if (has('internvl_postprocess.json')) {
    await check('internvl_postprocess', 'coordinates', 0, (c) => {
      for (const { input, output } of json('internvl_postprocess.json').cases) {
        c.same(postprocess(input), output, JSON.stringify(input))
      }
    })
  }
  if (has('published_scores.json')) {
    for (const { source, accuracy, chatgpt, match, language, final_score, tolerance } of json('published_scores.json')
      .scores) {
      await check(`published_scores: ${source}`, 'final', tolerance, (c) => {
        const [Bleu_1, Bleu_2, Bleu_3, Bleu_4, ROUGE_L, CIDEr] = language
        const parts = { accuracy, chatgpt, match, language: { Bleu_1, Bleu_2, Bleu_3, Bleu_4, ROUGE_L, CIDEr } }
        c.close(drivelm.finalScore(parts), final_score, source)
      })
    }
    await check('published_scores: tables of papers', 'final', 0, (c) =>
      papers(c, json('published_scores.json').table_of_papers),
    )
  }

  if (has('mini_v1_1_train_nus.json', 'mini_extracted_test.json')) {
    await check('mini_extracted_test', 'extraction', 0, async (c) => {
      const found = await scenesOf(drivelm.readFrames(at('mini_v1_1_train_nus.json')), drivelm.extractFrame)
      sameScenes(c, found, json('mini_extracted_test.json'))
    })
    await check('mini_v1_1_train_nus', 'reading', 0, async (c) => {
      const found = await scenesOf(drivelm.readFrames(at('mini_v1_1_train_nus.json')), (frame) => frame)
      sameScenes(c, found, json('mini_v1_1_train_nus.json'))
    })
  }
  if (has('mini_extracted_test.json', 'mini_test_eval.json')) {
    await check('mini_test_eval', 'conversion', 0, async (c) => {
      await conversion(
        c,
        await all(drivelm.readFrames(at('mini_extracted_test.json'))),
        await all(drivelm.readFrames(at('mini_test_eval.json'))),
      )
    })
  }
  if (has('mini_test_eval.json', 'mini_test_llama.json')) {
    await check('mini_test_llama', 'flattening', 0, async (c) => {
      const found = (await all(drivelm.readFrames(at('mini_test_eval.json')))).flatMap(drivelm.toLlamaItems)
      for (const [i, item] of json('mini_test_llama.json').entries()) c.same(found[i], item, item.id)
      c.same(found.length, json('mini_test_llama.json').length, 'length')
    })
    await check('mini_test_llama', 'reading', 0, async (c) => {
      const fromFrames = await all(drivelm.readMoments(at('mini_test_eval.json')))
      const fromList = await all(drivelm.readMoments(at('mini_test_llama.json')))
      c.same(fromList.map(questionTexts), fromFrames.map(questionTexts), 'moments')
    })
  }
  if (has('mini_v1_1_val_nus_answers.json', 'mini_v1_1_val_nus_q_only.json')) {
    await check('mini_v1_1_val_nus_q_only', 'reading', 0, async (c) => {
      const hidden = (frame) => {
        for (const qa of Object.values(frame.qa).flat()) qa.answer = ''
        return frame
      }
      const found = await scenesOf(drivelm.readFrames(at('mini_v1_1_val_nus_answers.json')), hidden)
      sameScenes(c, found, json('mini_v1_1_val_nus_q_only.json'))
    })
  }
  if (has('mini_expected_scores.json')) {
    for (const [file, expected] of Object.entries(json('mini_expected_scores.json').runs)) {
      await check(file, 'official score', floatBound, (c) =>
        officialScore(c, at(file), at(expected.reference), expected),
      )
    }
  }
  return rows
}

const tokensOf = (line) => (line === '' ? [] : line.split(' '))
const questionTexts = ({ questions }) => questions.map(({ id, text, reference }) => [id, text, reference])

async function all(items) {
  const list = []
  for await (const item of items) list.push(item)
  return list
}

function corpusScores(c, found, expected, what) {
  for (const [name, value] of Object.entries(expected)) c.close(found[name], value, `${what} ${name}`)
}

function itemScores(c, found, { bleu, rouge_l: rougeL, cider }, what) {
  for (const [i, value] of bleu.entries()) c.close(found.bleu[i], value, `${what} Bleu_${i + 1}`)
  c.close(found.rougeL, rougeL, `${what} ROUGE_L`)
  c.close(found.cider, cider, `${what} CIDEr`)
}

/** Every character of the classes, seen through the tokeniser. */
function unicodeClasses(c, classes) {
  const chars = (ranges) =>
    ranges.flatMap(([first, last = first]) => {
      const start = Number.parseInt(first, 16)
      return Array.from({ length: Number.parseInt(last, 16) - start + 1 }, (_, i) => String.fromCharCode(start + i))
    })
  for (const char of chars(classes.ignored)) c.same(drivelm.ptbLines(`a ${char} b`), ['a b'], `ignored ${hex(char)}`)
  for (const char of chars(classes.letter)) {
    c.same(tokensOf(drivelm.ptbLines(`0${char}`)[0]).length, 1, `letter ${hex(char)}`) // stays with a digit before it
  }
  for (const char of chars(classes.digit)) c.same(drivelm.decimals(`${char}.${char}`).length, 1, `digit ${hex(char)}`)
  for (const char of chars(classes.word_extra))
    c.same(tokensOf(drivelm.ptbLines(`a${char}b`)[0]).length, 1, `word ${hex(char)}`)
  for (const char of chars(classes.upper)) {
    c.same(tokensOf(drivelm.ptbLines(`Inc. ${char}`)[0]).slice(0, 2), ['inc.', '.'], `upper ${hex(char)}`) // ends a sentence
  }
  for (const [code, token] of Object.entries(classes.normalised)) {
    c.same(drivelm.ptbLines(String.fromCharCode(Number.parseInt(code, 16))).join('\n'), token, `normalised ${code}`)
  }
}

const hex = (char) => `U+${char.charCodeAt(0).toString(16).padStart(4, '0')}`

/** BLEU-2 and BLEU-3 are not printed: with values between their neighbours the printed final must be within reach. */
function papers(c, rows = []) {
  const half = (value) => 0.5 * 10 ** -(String(value).split('.')[1]?.length ?? 0)
  for (const row of rows) {
    const { name, bleu_1, bleu_4, final_score } = row
    if (Object.values({ ...row, params: 0 }).includes(null)) continue
    const final = (between, side) => {
      const value = (key) => row[key] + side * half(row[key]) // as far as its printed digits allow
      return drivelm.finalScore({
        accuracy: value('accuracy'),
        chatgpt: value('chatgpt'),
        match: value('match') * (row.match < 1 ? 100 : 1),
        language: {
          Bleu_1: value('bleu_1'),
          Bleu_2: between,
          Bleu_3: between,
          Bleu_4: value('bleu_4'),
          ROUGE_L: value('rouge_l'),
          CIDEr: value('cider'),
        },
      })
    }
    const [low, high] = [final(bleu_4, -1), final(bleu_1, 1)]
    const within = final_score >= low - half(final_score) && final_score <= high + half(final_score)
    c.same(within, true, `${name}: ${final_score} not in ${low} to ${high}`)
  }
}

async function scenesOf(frames, change) {
  const scenes = []
  for await (const frame of frames) {
    const { scene } = frame
    const last = scenes.at(-1)
    const entry = last?.[0] === scene.token ? last : [scene.token, scene.description, []]
    if (entry !== last) scenes.push(entry)
    entry[2].push([frame.token, drivelm.frameToJson(change(frame))])
  }
  return scenes
}

/** Compares with the order of all keys. */
function sameScenes(c, found, file) {
  const frames = Object.entries(file).flatMap(([scene, { key_frames: frames }]) =>
    Object.entries(frames).map(([token, frame]) => [scene, token, frame]),
  )
  const ours = found.flatMap(([scene, , list]) => list.map(([token, frame]) => [scene, token, frame]))
  c.same(ours.length, frames.length, 'number of frames')
  for (const [i, expected] of frames.entries()) c.same(ours[i], expected, `${expected[0]} ${expected[1]}`)
}

/** The conversion draws at random: the given file must be a possible outcome, and so must ours. */
async function conversion(c, before, given) {
  const random = drivelm.seededRandom(1)
  c.same(given.length, before.length, 'number of frames')
  for (const [i, frame] of before.entries()) {
    for (const outcome of [given[i], drivelm.toMultipleChoice(frame, random)]) {
      const converted = Object.entries(outcome.qa).map(([category, records]) =>
        records.map((qa, j) => unconverted(c, qa, frame.qa[category][j], category)),
      )
      c.same(converted, Object.values(frame.qa), frame.token)
    }
  }
}

function unconverted(c, qa, original, category) {
  const possible = category === 'behavior' ? drivelm.egoBehaviors : drivelm.movingStatuses
  const asks = category === 'behavior' || /what is the moving status of object/i.test(qa.question)
  if (!asks || (category !== 'behavior' && category !== 'perception')) return qa
  const options = drivelm.optionsOf(qa.question)
  c.same([...options.keys()], ['A', 'B', 'C', 'D'], qa.question)
  c.same(new Set(options.values()).size, 4, qa.question)
  for (const option of options.values()) c.same(possible.includes(option), true, option)
  c.same(
    qa.question.startsWith(`${original.question} Please select the correct answer from the following options: A. `),
    true,
    qa.question,
  )
  return { ...qa, question: original.question, answer: options.get(qa.answer) }
}

async function officialScore(c, predictionFile, referenceFile, expected) {
  const predictions = new Map(
    [...(await drivelm.readPredictions(predictionFile))].map(([id, { answer }]) => [id, answer]),
  )
  const judge = drivelm.judgeFrom(new Map(Object.entries(expected.judge_scores)))
  const run = () => drivelm.scoreDrivelm(drivelm.readMoments(referenceFile), predictions, { judge, strict: true })
  if (expected.error) {
    const outcome = await run().then(
      () => 'no error',
      (error) => error.code,
    )
    return c.same(outcome, 'BAD_DATA', 'error')
  }
  const sheet = await run()
  c.same(
    sheet.items.map((item) => item.id),
    expected.evaluated,
    'evaluated',
  )
  c.same(sheet.gated, expected.skipped, 'skipped')
  c.same({ ...sheet.graphs }, expected.graph, 'graph')
  c.same(sheet.counts, expected.counts, 'counts')
  const f1 = Object.fromEntries(sheet.items.filter((item) => item.f1 !== undefined).map((item) => [item.id, item.f1]))
  c.same(Object.keys(f1), Object.keys(expected.match_f1), 'match_f1')
  for (const [id, value] of Object.entries(expected.match_f1)) c.close(f1[id], value, id)
  c.close(sheet.accuracy, expected.accuracy, 'accuracy')
  c.close(sheet.chatgpt, expected.chatgpt, 'chatgpt')
  c.close(sheet.match, expected.match, 'match')
  corpusScores(c, sheet.language, expected.language, 'language')
  c.close(sheet.languageScore, drivelm.languageScore(expected.language), 'language score')
  c.close(sheet.final, expected.final_score, 'final_score')
}
