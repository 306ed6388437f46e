import type { Domain } from '../domain.ts'
import { dayCity } from './day-city.ts'

/** A city at night that drives on the left, with trams, lamps and headlights. */
export const nightLeft: Domain = {
  ...dayCity,
  name: 'night-left',
  traffic: 'left',
  weather: [
    {
      name: 'night',
      sentence: 'It is a clear night.',
      share: 0.6,
      tint: [0.34, 0.34, 0.44],
      sky: [
        [10, 12, 30],
        [16, 18, 40],
        [30, 30, 54],
      ],
      wet: 1,
      windows: [240, 205, 120],
      lamps: true,
    },
    {
      name: 'rainy night',
      sentence: 'It is a rainy night.',
      share: 0.4,
      tint: [0.3, 0.32, 0.4],
      sky: [
        [18, 20, 28],
        [24, 26, 34],
        [38, 40, 48],
      ],
      wet: 0.8,
      windows: [225, 190, 110],
      falling: 'rain',
      lamps: true,
    },
  ],
  objects: [
    { name: 'car', plural: 'cars', shape: 'car', share: 0.26, repeated: 0.3 },
    { name: 'truck', plural: 'trucks', shape: 'truck', share: 0.11, repeated: 0.1 },
    { name: 'bus', plural: 'buses', shape: 'bus', share: 0.1, repeated: 0.08 },
    { name: 'tram', plural: 'trams', shape: 'tram', share: 0.12, repeated: 0.06 },
    { name: 'pedestrian', plural: 'pedestrians', shape: 'pedestrian', share: 0.17, repeated: 0.2 },
    { name: 'cyclist', plural: 'cyclists', shape: 'cyclist', share: 0.12, repeated: 0.13 },
    { name: 'traffic cone', plural: 'traffic cones', shape: 'cone', share: 0.12, repeated: 0.13 },
  ],
}
