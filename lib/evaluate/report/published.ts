/** Results others printed, on their own scales; null where a part was not printed. */
export interface PublishedScore {
  /** As it was published. */
  name: string
  /** Size of the model, such as `2B`. */
  params: string | null
  /** 0 to 1. */
  accuracy: number | null
  /** 0 to 100. */
  chatgpt: number | null
  /** 0 to 1. */
  bleu1: number | null
  /** 0 to 1. */
  bleu4: number | null
  /** 0 to 1. */
  rougeL: number | null
  /** On the scale it was printed on: 0.2 is a usual value. */
  cider: number | null
  /** 0 to 100. */
  match: number | null
  /** 0 to 1. */
  final: number | null
}

type Row = readonly [string, string | null, ...(number | null)[]]

const rows: readonly Row[] = [
  ['InternVL4Drive-v2 (challenge winner)', '26B', 0.7339, 65.25, 0.7787, 0.6059, 0.7449, 0.2061, 47.65, 0.6002],
  ['MTMM (ensemble)', null, 0.7473, 65.59, 0.76, 0.59, 0.74, 0.18, 45, 0.5974],
  ['Mini-InternVL-DA-2B', '2B', 0.7628, 65.23, 0.7616, 0.5908, 0.7447, 0.1914, 43.24, 0.5958],
  ['Team NVIDIA', null, 0.7746, 59.89, null, null, null, null, null, 0.5884],
  ['Mini-InternVL-DA-4B', '4B', 0.7296, 63.97, 0.7642, 0.5914, 0.7427, 0.1976, 42.16, 0.5821],
  ['MMFM_AD', null, 0.6658, 63.92, null, null, null, null, null, 0.5732],
  ['Mini-InternVL-DA-1B', '1B', 0.7007, 63.84, 0.7362, 0.5678, 0.7365, 0.1669, 39.76, 0.5686],
  ['Mini-InternVL-4B, not adapted', '4B', 0, 54.45, 0.2405, 0.0084, 0.1927, 0.0018, 34.3, 0.3051],
]

/**
 * The official test server's results as the Mini-InternVL paper prints them, best first. Its answers are hidden and its judge
 * was gpt-3.5, so scores of a local split only rank models among themselves.
 */
export const publishedScores: readonly PublishedScore[] = rows.map(
  ([name, params, accuracy, chatgpt, bleu1, bleu4, rougeL, cider, match, final]) =>
    ({ name, params, accuracy, chatgpt, bleu1, bleu4, rougeL, cider, match, final }) as PublishedScore,
)
