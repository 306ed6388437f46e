// The rules of the caption tokeniser, in order of priority: what each recognises and what token comes of it. How they compete
// (longest match with look-ahead, earlier rule on ties) is in ptb-tokenizer.ts.

import {
  alt,
  charSet,
  except,
  many,
  one,
  opt,
  type Pattern,
  seq,
  short,
  some,
  text,
  times,
  word,
} from '../../automata/patterns.ts'
import { digits, letters, uppers, wordExtras } from './unicode-classes.ts'

/** What a recognised text becomes: a token (or none), and how many of its code units are used up. */
export interface Piece {
  token: string | undefined
  used: number
}

export interface Rule {
  body: Pattern
  /** Must follow the body; counts for the length of the match, is not used up. */
  ahead?: Pattern
  /** Default: the text itself. */
  make?: (body: string) => Piece
}

// Character sets

const azSet = charSet([0x61, 0x7a])
const capitalSet = charSet([0x41, 0x5a])
const alphaSet = charSet(azSet, capitalSet)
const digit09Set = charSet([0x30, 0x39])
const alnumSet = charSet(alphaSet, digit09Set)
const digitSet = charSet(digits)
const letterOrDigitSet = charSet(letters, digits)
const spaceSet = charSet(' \t\u00a0\u3000', [0x2000, 0x200a])
const lineBreakSet = charSet('\r\n\u000b\u000c\u0085\u2028\u2029')
const apostropheSet = charSet("'\u0092\u2019")
const looseApostropheSet = charSet("'\u0092\u2019`\u0091\u2018\u201b")
const hyphenSet = charSet('-_\u058a\u2010\u2011')
const pauseSet = charSet(',;:\u3001')

const alpha = one(alphaSet)
const alnum = one(alnumSet)
const digit09 = one(digit09Set)
const digit = one(digitSet)
const letter = one(charSet(letters))
const space = one(spaceSet)
const lineBreak = alt(text('\r\n'), one(lineBreakSet))
const gap = alt(space, lineBreak)
const apostrophe = alt(one(apostropheSet), text('&apos;'))
const looseApostrophe = alt(one(looseApostropheSet), text('&apos;'))
const ampersand = alt(text('&'), text('&amp;'))
const slash = alt(text('/'), text('\\/'))
const period = text('.')

const any = (...forms: string[]): Pattern => alt(...forms.flatMap((form) => form.split(' ')).map(short))
const set = (...parts: Parameters<typeof charSet>): Pattern => one(charSet(...parts))
const not = (...parts: Parameters<typeof charSet>): Pattern => one(except(...parts))

// Shared patterns

const wordUnit = alt(
  set(letters, wordExtras),
  seq(text('&'), set('aeiouAEIOU'), alt(word('acute'), word('grave'), word('uml')), text(';')),
)
const wordOrDigit = alt(wordUnit, digit)
const run = seq(wordUnit, many(wordOrDigit))
/** Runs glued by one of `.!?`: "ahead.Secondly" is one word. */
const gluedWord = seq(run, many(seq(set('.!?'), run)))

/** Separators glue as well, so the coordinates of `<c1,CAM_FRONT,1043.2,82.2>` come out as one token ",1043.2,82.2". */
const number = alt(some(digit), seq(many(digit), some(seq(set('.:,\u00ad\u066b\u066c'), some(digit)))))

const elision = seq(set('dDoOlL'), looseApostrophe, one(letterOrDigitSet))
const thingPart = seq(opt(elision), some(one(letterOrDigitSet)))
const thing = seq(thingPart, many(seq(one(hyphenSet), thingPart)))

const nations = alt(
  seq(alt(...['Canada', 'Sino', 'Korean', 'EU', 'Japan', 'non'].map(text)), text('-U.S')),
  text('U.S.-U.K'),
  text('U.S.-U.S.S.R'),
)
const acronym = alt(seq(alpha, many(seq(period, alpha))), nations)
const longAcronym = alt(seq(alpha, some(seq(period, alpha))), nations)
const hyphenated = seq(
  alnum,
  many(set(alnumSet, '.,\u00ad')),
  some(seq(text('-'), alt(some(set(alnumSet, '\u00ad')), seq(longAcronym, period)))),
)

const blanks = many(text(' '))
const tagName = seq(alpha, many(set(alnumSet, '_:.-')))
const quoted = alt(seq(text("'"), many(not("'")), text("'")), seq(text('"'), many(not('"')), text('"')))
const attribute = seq(some(text(' ')), tagName, opt(seq(blanks, text('='), blanks, quoted)))
const tag = seq(
  text('<'),
  alt(
    seq(set('!?'), set(alphaSet, '-'), many(not('>\r\n'))),
    seq(tagName, many(attribute), blanks, opt(text('/'))),
    seq(text('/'), tagName),
  ),
  blanks,
  text('>'),
)

const plainAbbreviation = any(
  'Jan Feb Mar Apr Jun Jul Aug Sep Sept Oct Nov Dec Mon Tue Tues Wed Thu Thurs Fri',
  'Ala Ariz [A]z [A]rk Calif Colo Conn Ct Dak [D]el Fla Ga [I]ll Ind Kans? Ky [L]a [M]ass Md Mich Minn [M]iss Mo Mont Neb',
  'Nev Okla [O]re [P]a Penn Tenn [T]ex Va Vt [W]ash Wisc? Wyo',
  'Inc Cos? Corp Pp?t[ye]s? Ltd Plc Rt Bancorp Bhd Assn Univ Intl Sys tel est ext sq',
  'Jr Sr Bros Ed.D Ph.D Blvd Rd Esq etc al seq Bldg',
)
const titleAbbreviation = alt(
  any(
    'Mr Mrs Ms [M]iss Drs? Profs? Sens? Reps? Attys? Lt Col Gen Messrs Govs? Adm Rev Maj Sgt Cpl Pvt Capt Ste? Ave Pres',
    'Lieut Hon Brig Co?mdr Pfc Spc Supts? Det Mt Ft Adj Adv Asst Assoc Ens Insp Mlle Mme Msgr Sfc',
    'vs Alex Wm Jos Cie a.k.a cf Treas Ph Invt Elec Natl M[ft]g Dept',
  ),
  acronym,
)
const numberAbbreviation = any('ca figs? prop nos? art bldg pp op')
const sentenceStarter = alt(
  ...(
    'About According Additionally After An A As At But Earlier He Her Here However If In It Last Many More Mr. Ms. Now Once ' +
    'One Other Our She Since So Some Such That The Their Then There These They This We When While What Yet You'
  )
    .split(' ')
    .map((form) => short(`[${form[0]}]${form.slice(1)}`)),
  tag,
)

const contraction = alt(set('msdMSD'), word('re'), word('ve'), word('ll'))
const negation = seq(word('n'), looseApostrophe, word('t'))
const noAlphaNext = not(alphaSet)

const urlUnit = ' \t\n\f\r"<>|(){}'
const urlEnd = one(except(urlUnit, '.!?,-'))
const hostLabel = one(except(urlUnit, '.!?,'))
const plainLabel = one(except(' \t\n\f\r"`\'<>|.!?(){}$', [0x2c, 0x5f]))
const host = alt(
  seq(word('www.'), some(seq(some(hostLabel), period)), times(2, 4, alpha)),
  seq(some(seq(some(plainLabel), period)), any('com net org edu')),
)
const mailUnit = `${urlUnit}\u00a0`
const mailPart = one(except(mailUnit, '.'))

const phoneGap = set('- \u00a0')
const phone = alt(
  seq(
    alt(
      seq(text('('), times(2, 3, digit09), text(')'), opt(set(' \u00a0'))),
      seq(times(0, 2, text('+')), opt(seq(times(2, 4, digit09), phoneGap)), times(2, 4, digit09), phoneGap),
    ),
    times(3, 4, digit09),
    opt(phoneGap),
    times(3, 5, digit09),
  ),
  seq(
    opt(seq(times(0, 2, text('+')), times(2, 4, digit09), period)),
    times(2, 4, digit09),
    period,
    times(3, 4, digit09),
    period,
    times(3, 5, digit09),
  ),
)

const slashPart = seq(some(alnum), times(0, 2, seq(text('-'), some(alpha))))
const emoteEye = set("-^x=~<>'")
const emoteFace = "^x=~<>'"
const smileyNext = not(alnumSet)
const quoteMarkSet = charSet(
  '`\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f',
  [0x91, 0x94],
  '\u2039\u203a\u00ab\u00bb',
)
const capitals = some(one(capitalSet))
const joinedCapitals = seq(capitals, some(seq(alt(text('+'), ampersand), capitals)))
const endings =
  'bat bmp c class cgi cpp dll doc docx exe gif gz h htm html jar java jpeg jpg mov mp3 pdf php pl png ppt ps py sql tar txt ' +
  'wav x xml zip'

// What becomes of a match

const whole = (token: string | undefined, body: string): Piece => ({ token, used: body.length })
const nothing = (body: string): Piece => whole(undefined, body)
const becomes = (token: string) => (body: string) => whole(token, body)
const first =
  (count: number) =>
  (body: string): Piece => ({ token: body.slice(0, count), used: count })
/** The token keeps its period, and the period is read once more as the end of a sentence. */
const periodTwice = (body: string): Piece => ({ token: body, used: body.length - 1 })
const softHyphens = (body: string): Piece => whole(body.replaceAll('\u00ad', '') || '-', body)
const plainAmpersand = (body: string): Piece => whole(body.replaceAll('&amp;', '&'), body)
/** A token never holds U+0020: tokens of a line are told apart by it. */
const hardSpaces = (body: string): Piece => whole(body.replaceAll(' ', '\u00a0'), body)
const bracketNames = (body: string): Piece => whole(body.replaceAll('(', '-LRB-').replaceAll(')', '-RRB-'), body)
const brackets: Record<string, string> = {
  '{': '-LCB-',
  '}': '-RCB-',
  '[': '-LSB-',
  ']': '-RSB-',
  '(': '-LRB-',
  ')': '-RRB-',
}
const currencies: Record<string, string> = { '¢': 'cents', '£': '#', '\u0080': '$', '¤': '$', '\u20a0': '$', '€': '$' }
const fractions: Record<string, string> = { '¼': '1/4', '½': '1/2', '¾': '3/4', '\u2153': '1/3', '\u2154': '2/3' }
const from = (table: Record<string, string>) => (body: string) => whole(table[body] ?? body, body)

/** Quotation marks to the Penn Treebank's ASCII forms; straight ones go by side, curly ones by shape. */
function quotes(body: string, side: 'left' | 'right'): Piece {
  const token = body
    .replace(/&apos;|'/g, side === 'left' ? '`' : "'")
    .replace(/&quot;|"/g, side === 'left' ? '``' : "''")
    .replace(/[\u0091\u2018\u201b\u2039]/g, '`')
    .replace(/[\u0092\u2019\u203a]/g, "'")
    .replace(/[\u0093\u201c\u00ab]/g, '``')
    .replace(/[\u0094\u201d\u00bb]/g, "''")
  return whole(token, body)
}
const leftQuote = (body: string): Piece => quotes(body, 'left')
const rightQuote = (body: string): Piece => quotes(body, 'right')

/** Number of the rule that stands for a line break. */
export const lineBreakRule = 74

/** Rule n, counted from 1 as in the comments, is `rules[n - 1]`. */
export const rules: readonly Rule[] = [
  /*  1 */ { body: word('c++') },
  /*  2 */ { body: alt(word('c#'), word('f#')) },
  /*  3 */ { body: word('cannot'), make: first(3) },
  /*  4 */ { body: word("'twas"), make: first(2) },
  /*  5 */ { body: word("'tis"), make: first(2) },
  /*  6 */ { body: any('gonna gotta lemme gimme wanna'), make: first(3) },
  /*  7 */ { body: tag, make: hardSpaces },
  /*  8 */ {
    body: alt(word('&MD;'), word('&mdash;'), word('&ndash;'), set('\u0096\u0097\u2013\u2014\u2015')),
    make: becomes('--'),
  },
  /*  9 */ { body: text('&amp;'), make: becomes('&') },
  /* 10 */ {
    body: seq(text('&'), alt(any('HT TL UR LR QC QL QR odq cdq'), seq(text('#'), some(digit09))), text(';')),
  },
  /* 11 */ { body: gluedWord, ahead: seq(apostrophe, contraction), make: softHyphens },
  /* 12 */ {
    body: seq(
      many(set(alphaSet, '\u00ad')),
      set([0x41, 0x4d], [0x4f, 0x5a], [0x61, 0x6d], [0x6f, 0x7a]),
      many(text('\u00ad')),
    ),
    ahead: negation,
    make: softHyphens,
  },
  /* 13 */ { body: gluedWord, make: softHyphens },
  /* 14 */ {
    body: alt(
      seq(apostrophe, word('n'), opt(apostrophe)),
      seq(set('lLdDjJ'), apostrophe),
      seq(any('dunkin somethin ol'), apostrophe),
      seq(apostrophe, any('em til till cause')),
      seq(set([0x41, 0x48], [0x4a, 0x58], 'Zn'), looseApostrophe, letter, some(letter)),
      seq(apostrophe, set([0x32, 0x39]), word('0s')),
      seq(some(letter), set('aeiouyAEIOUY'), looseApostrophe, set('aeiou', capitalSet), many(letter)),
      any("cont'd.? 'twas nor'easter c'mon e'er s'mores ev'ry li'l nat'l"),
      seq(word('o'), looseApostrophe, word('o')),
    ),
  },
  /* 15 */ { body: seq(word('y'), apostrophe), ahead: letter },
  /* 16 */ { body: seq(short('https?://'), some(one(except(urlUnit))), urlEnd) },
  /* 17 */ { body: seq(host, opt(seq(text('/'), some(one(except(' \t\n\f\r"<>|()'))), urlEnd))) },
  /* 18 */ {
    body: seq(
      opt(alt(text('<'), text('&lt;'))),
      alnum,
      many(one(except(mailUnit))),
      text('@'),
      many(seq(some(mailPart), period)),
      some(mailPart),
      opt(alt(text('>'), text('&gt;'))),
    ),
  },
  /* 19 */ {
    body: alt(seq(text('@'), set(alphaSet, '_'), many(set(alnumSet, '_'))), seq(text('#'), some(wordUnit))),
  },
  /* 20 */ { body: seq(apostrophe, contraction), ahead: noAlphaNext, make: rightQuote },
  /* 21 */ { body: negation, ahead: noAlphaNext, make: rightQuote },
  /* 22 */ { body: seq(times(1, 2, digit), set('-/'), times(1, 2, digit), set('-/'), times(2, 4, digit)) },
  /* 23 */ { body: seq(opt(set('+-')), number), make: softHyphens },
  /* 24 */ {
    body: seq(
      opt(set('\u207a\u207b\u208a\u208b')),
      alt(some(set('\u2070\u00b9\u00b2\u00b3', [0x2074, 0x2079])), some(set([0x2080, 0x2089]))),
    ),
  },
  /* 25 */ {
    body: seq(
      opt(seq(times(1, 4, digit), phoneGap)),
      times(1, 4, digit),
      alt(slash, text('\u2044')),
      times(1, 4, digit),
    ),
    make: hardSpaces,
  },
  /* 26 */ { body: set([0xbc, 0xbe], [0x2153, 0x215e]), make: from(fractions) },
  /* 27 */ {
    body: alt(
      any('-RRB- -LRB- -RCB- -LCB- -RSB- -LSB- c.d.s pro- anti-'),
      seq(word('s'), ampersand, any('p-500 ls')),
      seq(word('cap'), apostrophe, word('n')),
      seq(word('c'), apostrophe, word('est')),
    ),
    make: plainAmpersand,
  },
  /* 28 */ { body: alt(seq(slashPart, slash, slashPart), seq(slashPart, text('/'), slashPart, text('/'), slashPart)) },
  /* 29 */ { body: alt(seq(many(one(capitalSet)), text('$')), text('#')) },
  /* 30 */ {
    body: set([0xa2, 0xa5], '\u0080\u20a0\u20ac\u060b\u0e3f\u20a4\uffe0\uffe1\uffe5\uffe6'),
    make: from(currencies),
  },
  /* 31 */ {
    body: seq(acronym, period),
    ahead: seq(some(gap), sentenceStarter, gap),
    make: (body) => (body.length === 2 ? first(1)(body) : periodTwice(body)), // "I." gives it up, "U.S." keeps it
  },
  /* 32 */ { body: seq(numberAbbreviation, period), ahead: seq(opt(gap), digit) },
  /* 33 */ {
    body: seq(alt(seq(word('pt'), set('eyEY')), word('co')), period),
    ahead: seq(space, any('ltd lim')),
  },
  /* 34 */ {
    body: seq(plainAbbreviation, period),
    ahead: seq(gap, alt(gap, set(uppers), tag)),
    make: periodTwice,
  },
  /* 35 */ { body: seq(plainAbbreviation, period), ahead: times(2, 2, not()) },
  /* 36 */ { body: seq(plainAbbreviation, period), make: periodTwice }, // wins at the end of the text only
  /* 37 */ { body: seq(titleAbbreviation, period) },
  /* 38 */ { body: titleAbbreviation, ahead: space },
  /* 39 */ { body: acronym, ahead: gap },
  /* 40 */ { body: seq(apostrophe, digit09, digit09), ahead: gap },
  /* 41 */ {
    body: seq(some(wordOrDigit), many(seq(period, some(wordOrDigit))), period, any(endings)),
    ahead: alt(gap, set('.?!,')),
  },
  /* 42 */ { body: seq(gluedWord, period), ahead: one(pauseSet), make: softHyphens },
  /* 43 */ { body: phone, make: (body) => whole(bracketNames(body).token?.replaceAll(' ', '\u00a0'), body) },
  /* 44 */ { body: alt(text('"'), text('&quot;')), ahead: set(alnumSet, '$'), make: leftQuote },
  /* 45 */ { body: alt(text('"'), text('&quot;')), make: rightQuote },
  /* 46 */ { body: text('\u007f'), make: nothing },
  /* 47 */ { body: alt(text('<'), text('&lt;')), make: becomes('<') },
  /* 48 */ { body: alt(text('>'), text('&gt;')), make: becomes('>') },
  /* 49 */ {
    body: seq(opt(set('<>')), set(':;='), opt(set("-o*'")), set('()DPdpO\\{@|[]')),
    ahead: smileyNext, // in "list:[(a" a smiley eats ":["
    make: bracketNames,
  },
  /* 50 */ {
    body: alt(
      seq(emoteEye, text('_'), emoteEye),
      seq(text('('), emoteEye, opt(set('_.')), emoteEye, text(')')),
      seq(text('('), set(emoteFace), text('-'), set(emoteFace, '`'), text(')')),
      seq(set('^x=~<>'), text('.[^x=~<>]')),
    ),
    make: bracketNames,
  },
  /* 51 */ { body: set('{}[]()'), make: from(brackets) },
  /* 52 */ {
    body: some(text('-')),
    make: (body) => whole(body.length === 3 || body.length === 4 ? '--' : body, body),
  },
  /* 53 */ {
    body: alt(times(3, 5, period), seq(times(2, 4, seq(period, set(' \u00a0'))), period), set('\u0085\u2026')),
    make: becomes('...'),
  },
  /* 54 */ { body: alt(some(text('@')), some(text('#')), some(text('_'))) },
  /* 55 */ { body: alt(some(text('*')), times(1, 3, text('\\*'))) },
  /* 56 */ { body: one(pauseSet) },
  /* 57 */ { body: some(set('?!')) },
  /* 58 */ { body: set('.¡¿\u037e\u0589\u061f\u06d4', [0x700, 0x702], '\u07fa\u3002') },
  /* 59 */ { body: text('=') },
  /* 60 */ { body: text('/') },
  /* 61 */ { body: seq(hyphenated, period), ahead: one(pauseSet), make: softHyphens },
  /* 62 */ { body: hyphenated, make: softHyphens },
  /* 63 */ { body: seq(thing, period), ahead: one(pauseSet) },
  /* 64 */ { body: thing },
  /* 65 */ { body: seq(joinedCapitals, period), ahead: one(pauseSet), make: plainAmpersand },
  /* 66 */ { body: joinedCapitals, make: plainAmpersand },
  /* 67 */ { body: text("'"), ahead: seq(alpha, not(' \t\n\r\u00a0')), make: leftQuote },
  /* 68 */ { body: seq(apostrophe, contraction), make: rightQuote },
  /* 69 */ { body: negation, make: rightQuote },
  /* 70 */ { body: alt(apostrophe, text("''"), times(1, 2, one(quoteMarkSet))), make: rightQuote },
  /* 71 */ { body: alt(text('<<'), text('>>')) },
  /* 72 */ {
    body: set(
      '+%&~^|\\¦§¨©¬®¯°±²³´µ¶·¸¹º×÷\u0387\u05be\u05c0\u05c3\u05c6\u05f3\u05f4',
      [0x600, 0x603],
      [0x606, 0x60a],
      '\u060c\u0614\u061b\u061e\u066a\u066d',
      [0x703, 0x70d],
      [0x7f6, 0x7f8],
      '\u0964\u0965\u0e4f\u1fbd\u2016\u2017',
      [0x2020, 0x2023],
      [0x2030, 0x2038],
      '\u203b',
      [0x203e, 0x2042],
      '\u2044',
      [0x207a, 0x207f],
      [0x208a, 0x208e],
      [0x2100, 0x214f],
      [0x2190, 0x2bff],
      '\u3012\u30fb',
      [0xff01, 0xff0f],
      [0xff1a, 0xff20],
      [0xff3b, 0xff40],
      [0xff5b, 0xff65],
    ),
  },
  /* 73 */ { body: alt(text('\0'), some(space), set('\u200b\u200e\u200f\ufeff')), make: nothing },
  /* 74 */ { body: lineBreak },
  /* 75 */ { body: text('&nbsp;'), make: nothing },
  /* 76 */ { body: not('\n\r\u000b\u000c\u0085\u2028\u2029'), make: nothing },
]
