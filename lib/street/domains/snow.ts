import type { Domain } from '../domain.ts'
import { dayCity } from './day-city.ts'

/** A city in winter: white ground, snow on things, other colours of cars. */
export const snow: Domain = {
  ...dayCity,
  name: 'snow',
  weather: [
    {
      name: 'snow',
      sentence: 'It is snowing.',
      share: 0.5,
      tint: [0.86, 0.9, 0.98],
      sky: [
        [170, 176, 186],
        [188, 193, 200],
        [205, 209, 214],
      ],
      wet: 1,
      windows: [95, 105, 120],
      falling: 'snow',
      covered: true,
    },
    {
      name: 'winter day',
      sentence: 'It is a clear winter day.',
      share: 0.5,
      tint: [1, 1.02, 1.08],
      sky: [
        [95, 150, 225],
        [150, 190, 238],
        [205, 222, 242],
      ],
      wet: 1,
      windows: [95, 105, 120],
      covered: true,
    },
  ],
  colours: {
    red: [190, 40, 40],
    blue: [40, 80, 180],
    orange: [235, 120, 25],
    silver: [170, 174, 180],
    brown: [110, 70, 40],
    black: [30, 30, 34],
  },
  verges: [
    [238, 240, 246],
    [228, 231, 238],
    [246, 247, 250],
  ],
  road: [150, 185],
}
