/** Pixels to `pixel_values`: background, Pillow's resampling and normalisation, as `BlipImageProcessor` has them. */

/** By Pillow's number: how far a filter reaches, and its weight at a distance of at least 0. */
const FILTERS = {
  1: [3, (x) => sinc(x) * sinc(x / 3)], // Lanczos
  2: [1, (x) => 1 - x], // bilinear
  3: [2, (x) => (x < 1 ? (1.5 * x - 2.5) * x * x + 1 : (((x - 5) * x + 8) * x - 4) * -0.5)], // bicubic
};
const BITS = 22; // Pillow computes with whole numbers: its weights are multiples of 2 ** -22

function sinc(x) {
  return x ? Math.sin(Math.PI * x) / (Math.PI * x) : 1;
}

/** For each place of the result: where its window of the input begins, and the whole-numbered weights there. */
function windows(from, to, resample) {
  const [reach, filter] = FILTERS[resample];
  const scale = from / to;
  const stretch = Math.max(scale, 1);
  return Array.from({ length: to }, (_, place) => {
    const center = (place + 0.5) * scale;
    const begin = Math.max(Math.trunc(center - reach * stretch + 0.5), 0);
    const end = Math.min(Math.trunc(center + reach * stretch + 0.5), from);
    const weights = Array.from({ length: end - begin }, (_, i) => {
      const x = Math.abs((i + begin - center + 0.5) * (1 / stretch));
      return x < reach ? filter(x) : 0;
    });
    const sum = weights.reduce((total, weight) => total + weight, 0);
    return [begin, Int32Array.from(weights, (w) => (w / sum) * 2 ** BITS + (w < 0 ? -0.5 : 0.5))];
  });
}

/**
 * Filter one direction. `pixels` has `lines` lines of 3 channels; neighbours are `step` values apart, lines `stride`.
 * The result has the same order of directions.
 */
function filter(pixels, places, lines, step, stride, result, resultStep, resultStride) {
  for (let line = 0; line < lines; line++) {
    places.forEach(([begin, weights], place) => {
      for (let channel = 0; channel < 3; channel++) {
        let at = line * stride + begin * step + channel;
        let sum = 2 ** (BITS - 1);
        for (const weight of weights) {
          sum += pixels[at] * weight;
          at += step;
        }
        result[line * resultStride + place * resultStep + channel] = sum >> BITS; // clamped to 0 to 255 by its type
      }
    });
  }
}

/** Makes a picture smaller or larger; it is given in strips, so that a huge one is never in memory as a whole. */
export class Resizer {
  /**
   * @param {[number, number]} from Width and height of the picture.
   * @param {[number, number]} to Those of the result.
   * @param {number} resample Pillow's number of the filter.
   * @param {?number[]} background Red, green and blue behind transparent parts; null for the stored colours.
   */
  constructor([width, height], [toWidth, toHeight], resample, background) {
    if (!(resample in FILTERS)) throw new Error(`This page does not know the filter ${resample} for resizing.`);
    Object.assign(this, { width, height, toWidth, toHeight, background, done: 0 });
    this.columns = windows(width, toWidth, resample);
    this.rows = windows(height, toHeight, resample);
    this.narrow = new Uint8ClampedArray(height * toWidth * 3); // the width is done, the height not yet
  }

  /** @param {Uint8Array|Uint8ClampedArray} rgba The next rows of the picture, 4 values a pixel. */
  add(rgba) {
    const rows = rgba.length / 4 / this.width;
    const rgb = onGround(rgba, this.background);
    const stride = this.toWidth * 3;
    filter(rgb, this.columns, rows, 3, this.width * 3, this.narrow.subarray(this.done * stride), 3, stride);
    this.done += rows;
  }

  /** @returns {Uint8ClampedArray} The result, 3 values a pixel, row by row. */
  result() {
    const stride = this.toWidth * 3;
    const result = new Uint8ClampedArray(this.toHeight * stride);
    filter(this.narrow, this.rows, this.toWidth, stride, 3, result, stride, 3);
    return result;
  }
}

/** RGBA on a background -> RGB, with the roundings of Pillow's `paste`. */
function onGround(rgba, background) {
  const rgb = new Uint8ClampedArray((rgba.length / 4) * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    const alpha = background ? rgba[from + 3] : 255;
    for (let channel = 0; channel < 3; channel++) {
      const sum = rgba[from + channel] * alpha + (background ? background[channel] : 0) * (255 - alpha) + 128;
      rgb[to++] = ((sum >> 8) + sum) >> 8;
    }
  }
  return rgb;
}

/**
 * @param {Uint8ClampedArray} rgb 3 values a pixel.
 * @param {object} settings The parsed `preprocessor_config.json`.
 * @returns {Float32Array} Three planes.
 */
export function pixelValues(rgb, { do_rescale, rescale_factor, do_normalize, image_mean, image_std }) {
  const size = rgb.length / 3;
  const values = new Float32Array(rgb.length);
  for (let channel = 0; channel < 3; channel++) {
    const [mean, std] = [image_mean, image_std].map((value) => Math.fround(value[channel] ?? value));
    const table = Float32Array.from({ length: 256 }, (_, value) => {
      const scaled = Math.fround(do_rescale ? value * rescale_factor : value);
      return do_normalize ? Math.fround(scaled - mean) / std : scaled;
    });
    for (let i = 0; i < size; i++) values[channel * size + i] = table[rgb[3 * i + channel]];
  }
  return values;
}
