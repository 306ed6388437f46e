import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test, vi } from 'vitest'
import { ModelError } from '../../lib/errors.ts'
import {
  parseSentencePiece,
  pieceType,
  SentencePieceEncoder,
  type SentencePieceModel,
} from '../../lib/text/sentencepiece.ts'
import { fixtures } from './tokenizer-shared.ts'

// Two shared cores may be slow; a hang is still found.
vi.setConfig({ testTimeout: 120_000 })

const file = readFileSync(join(fixtures, 'tokenizer', 'c1-phi3', 'tokenizer.model'))

/** Parses bytes; a ModelError is a fair answer, anything else is not. */
function attempt(bytes: Uint8Array): SentencePieceModel | ModelError {
  try {
    return parseSentencePiece(bytes, 'tokenizer.model')
  } catch (error) {
    expect(error).toBeInstanceOf(ModelError)
    expect((error as ModelError).code).toBe('BAD_TOKENIZER')
    return error as ModelError
  }
}

function model(pieces: [string, number, number?][], options: Partial<SentencePieceModel> = {}): SentencePieceModel {
  const all: [string, number, number?][] = [['<unk>', 0, pieceType.unknown], ...pieces]
  return {
    pieces: all.map(([piece]) => piece),
    scores: Float32Array.from(all, ([, score]) => score),
    types: Uint8Array.from(all, ([, , type]) => type ?? pieceType.normal),
    unkId: 0,
    byteFallback: false,
    addDummyPrefix: false,
    removeExtraWhitespaces: false,
    escapeWhitespaces: true,
    unkSurface: ' \u2047 ',
    ...options,
  }
}

function pieces(from: SentencePieceModel, text: string): string[] {
  return new SentencePieceEncoder(from).encode(text).map((id) => from.pieces[id]!)
}

describe('reading', () => {
  test('the fixture', () => {
    const read = parseSentencePiece(file, 'tokenizer.model')
    expect(read.pieces.length).toBe(600)
    expect(read.pieces.slice(0, 4)).toEqual(['<unk>', '<s>', '</s>', '<0x00>'])
    expect(read).toMatchObject({ unkId: 0, byteFallback: true, addDummyPrefix: true, removeExtraWhitespaces: false })
    expect([...read.types.slice(0, 4)]).toEqual([
      pieceType.unknown,
      pieceType.control,
      pieceType.control,
      pieceType.byte,
    ])
  })

  test('every truncation is refused or read, never worse', () => {
    let refused = 0
    for (let length = 0; length < file.length; length += 7)
      refused += attempt(file.subarray(0, length)) instanceof ModelError ? 1 : 0
    expect(refused).toBeGreaterThan(1000)
  })

  test('random damage is refused or read, never worse', () => {
    let seed = 12345
    const random = (limit: number): number => {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0
      return seed % limit
    }
    let refused = 0
    for (let round = 0; round < 1500; round++) {
      const bytes = Uint8Array.from(file)
      for (let i = 0; i <= round % 8; i++) bytes[random(bytes.length)] = random(256)
      refused += attempt(bytes) instanceof ModelError ? 1 : 0
    }
    expect(refused).toBeGreaterThan(100)
  })

  test.each<[string, number[]]>([
    ['no bytes', []],
    ['a length past the end', [0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f]],
    ['a length of 2^63', [0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]],
    ['an endless number', new Array(11).fill(0xff)],
    ['field 0', [0x02, 0x00]],
    ['a group', [0x0b]],
    ['a piece that is not UTF-8', [0x0a, 0x03, 0x0a, 0x01, 0xff]],
    ['an empty piece', [0x0a, 0x00]],
    ['a piece of type 9', [0x0a, 0x05, 0x0a, 0x01, 0x61, 0x18, 0x09]],
    ['a score that is no number', [0x0a, 0x08, 0x0a, 0x01, 0x61, 0x15, 0x00, 0x00, 0xc0, 0x7f]],
    ['unigram', [0x0a, 0x05, 0x0a, 0x01, 0x61, 0x18, 0x02]],
  ])('%s', (_, bytes) => {
    expect(attempt(Uint8Array.from(bytes))).toBeInstanceOf(ModelError)
  })
})

describe('merging', () => {
  test('the best score first, the leftmost of equals', () => {
    expect(
      pieces(
        model([
          ['a', -9],
          ['b', -9],
          ['c', -9],
          ['ab', -2],
          ['bc', -1],
        ]),
        'abc',
      ),
    ).toEqual(['a', 'bc'])
    expect(
      pieces(
        model([
          ['a', -9],
          ['aa', -1],
        ]),
        'aaa',
      ),
    ).toEqual(['aa', 'a'])
    expect(
      pieces(
        model([
          ['a', -9],
          ['b', -9],
          ['ab', -1],
          ['ba', -1],
        ]),
        'aba',
      ),
    ).toEqual(['ab', 'a'])
  })

  test('a piece is reached along any pair of its halves', () => {
    expect(
      pieces(
        model([
          ['a', -9],
          ['b', -9],
          ['c', -9],
          ['ab', -3],
          ['abc', -1],
        ]),
        'abc',
      ),
    ).toEqual(['abc'])
    expect(
      pieces(
        model([
          ['a', -9],
          ['b', -9],
          ['c', -9],
          ['bc', -3],
          ['abc', -1],
        ]),
        'abc',
      ),
    ).toEqual(['abc'])
  })

  test('unused pieces are taken apart again', () => {
    expect(
      pieces(
        model([
          ['a', -9],
          ['b', -9],
          ['c', -9],
          ['ab', -1, pieceType.unused],
        ]),
        'ab',
      ),
    ).toEqual(['a', 'b'])
    expect(
      pieces(
        model([
          ['a', -9],
          ['b', -9],
          ['c', -9],
          ['ab', -1, pieceType.unused],
          ['abc', -2],
        ]),
        'abc',
      ),
    ).toEqual(['abc'])
  })

  test('user-defined pieces are cut out first and never merged', () => {
    expect(
      pieces(
        model([
          ['a', -9],
          ['x', -9],
          ['ax', -1],
          ['xy', 0, pieceType.userDefined],
        ]),
        'axya',
      ),
    ).toEqual(['a', 'xy', 'a'])
  })

  test('unknown characters: bytes, or one unknown for a run', () => {
    expect(pieces(model([['a', -9]]), 'xyaz')).toEqual(['<unk>', 'a', '<unk>'])
    const bytes: [string, number, number][] = Array.from({ length: 256 }, (_, byte) => [
      `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`,
      0,
      pieceType.byte,
    ])
    expect(pieces(model([['a', -9], ...bytes], { byteFallback: true }), 'é\ud83d\ude00')).toEqual([
      '<0xC3>',
      '<0xA9>',
      '<0xF0>',
      '<0x9F>',
      '<0x98>',
      '<0x80>',
    ])
  })

  test('white space', () => {
    const base: [string, number][] = [
      ['\u2581', -9],
      ['a', -9],
    ]
    expect(pieces(model(base), ' a  a ').join('')).toBe('\u2581a\u2581\u2581a\u2581')
    expect(pieces(model(base, { addDummyPrefix: true }), 'a').join('')).toBe('\u2581a')
    expect(pieces(model(base, { removeExtraWhitespaces: true, addDummyPrefix: true }), '  a   a ').join('')).toBe(
      '\u2581a\u2581a',
    )
    expect(pieces(model(base, { removeExtraWhitespaces: true, addDummyPrefix: true }), '   ')).toEqual([])
  })

  test('a quarter of a megabyte of one letter', () => {
    const from = model([
      ['a', -9],
      ['aa', -1],
      ['aaaa', -2],
    ])
    expect(new SentencePieceEncoder(from).encode('a'.repeat(1 << 18)).length).toBe(1 << 16)
  })
})
