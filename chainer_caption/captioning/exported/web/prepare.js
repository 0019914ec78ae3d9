// Prepares images as the encoder takes them, with the resampling filters of Pillow and of MATLAB.

// A canvas cannot have more pixels in some browsers; larger images are drawn smaller.
const MOST = 16_000_000;

const bilinear = x => Math.max(0, 1 - Math.abs(x));
// Cubic convolution with a = -0.5 (R. Keys 1981).
const bicubic = signed => {
  const x = Math.abs(signed);
  return x < 1 ? 1.5 * x ** 3 - 2.5 * x ** 2 + 1 : x < 2 ? -0.5 * x ** 3 + 2.5 * x ** 2 - 4 * x + 2 : 0;
};
// Kernel and its reach. MATLAB mirrors the image at its borders and does not round; Pillow leaves out what is outside.
const FILTERS = {
  bilinear: {kernel: bilinear, reach: 1}, bicubic: {kernel: bicubic, reach: 2},
  matlab: {kernel: bicubic, reach: 2, mirrored: true},
};

// The image in a file: {pixels, shape}, a Float32Array and its shape, [3, S, S].
export async function prepare(blob, recipe) {
  let {data, width, height, channels = 4} = await decode(blob);
  if (recipe.filter !== null) {
    const {left, top, right, bottom} = part(width, height, recipe);
    const {size, filter} = recipe;
    data = resample(data, width, height, channels, taps(width, size, left, right, filter), filter);
    data = resample(data, height, size, 3, taps(height, size, top, bottom, filter), filter);
    [width, height, channels] = [size, size, 3];
  }
  const area = width * height;
  const pixels = new Float32Array(3 * area);
  for (let channel = 0; channel < 3; channel += 1) {
    const from = recipe.channels === 'BGR' ? 2 - channel : channel;
    const [mean, scale] = [recipe.mean[channel], recipe.scale[channel]];
    for (let i = 0; i < area; i += 1) pixels[channel * area + i] = (data[i * channels + from] - mean) / scale;
  }
  return {pixels, shape: [3, height, width]};
}

// The pixels of an upright image on white, RGBA, row by row.
async function decode(blob) {
  const bitmap = await createImageBitmap(blob, {colorSpaceConversion: 'none', premultiplyAlpha: 'none'});
  const shrink = Math.max(1, Math.sqrt(bitmap.width * bitmap.height / MOST));
  const [width, height] = [bitmap.width, bitmap.height].map(side => Math.max(1, Math.round(side / shrink)));
  const context = new OffscreenCanvas(width, height).getContext('2d', {willReadFrequently: true});
  context.fillStyle = 'white';
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = 'high';
  context.drawImage(bitmap, 0, 0, width, height);
  bitmap.close();
  return context.getImageData(0, 0, width, height);
}

// The part of the image that becomes the S x S pixels: all of it, or the middle after its short side is resized.
function part(width, height, {size, resize, short_side: side, filter}) {
  if (resize !== 'crop') return {left: 0, top: 0, right: width, bottom: height};
  const [wide, high] = [width, height].map(length => Math.floor(side * length / Math.min(width, height)));
  const [left, top] = [wide, high].map(length => middle(length - size, filter));
  const [across, down] = [width / wide, height / high];
  return {left: left * across, top: top * down, right: (left + size) * across, bottom: (top + size) * down};
}

// Half a number: rounded down for `nearest`, and otherwise to an even number as in Python.
function middle(number, filter) {
  return filter === 'nearest' ? Math.floor(number / 2) : number % 2 ? 2 * Math.round(number / 4) : number / 2;
}

// For each of `count` new pixels of one side, the old ones between two places that it is made of and their weights.
function taps(old, count, from, to, filter) {
  const scale = (to - from) / count;
  const stretch = Math.max(1, scale);
  return Array.from({length: count}, (_, i) => {
    const centre = from + (i + 0.5) * scale;
    if (filter === 'nearest') return {sources: [Math.floor(centre)], weights: [1]};
    const {kernel, reach, mirrored} = FILTERS[filter];
    let [first, last] = [-1, 1].map(sign => Math.floor(centre + sign * reach * stretch + 0.5));
    if (!mirrored) [first, last] = [Math.max(0, first), Math.min(old, last)];
    const places = Array.from({length: last - first}, (_, k) => first + k);
    const weights = places.map(place => kernel((place + 0.5 - centre) / stretch));
    const total = weights.reduce((a, b) => a + b);
    return {sources: places.map(place => mirror(place, old)), weights: weights.map(weight => weight / total)};
  });
}

function mirror(place, length) {
  const within = ((place % (2 * length)) + 2 * length) % (2 * length);
  return within < length ? within : 2 * length - 1 - within;
}

// Resamples each row of (height, width, channels) pixels, and transposes: (new width, height, 3).
function resample(pixels, width, height, channels, columns, filter) {
  const made = new Float32Array(columns.length * height * 3);
  columns.forEach(({sources, weights}, column) => {
    for (let y = 0; y < height; y += 1) {
      let r = 0, g = 0, b = 0;
      for (let k = 0; k < sources.length; k += 1) {
        const at = (y * width + sources[k]) * channels;
        r += weights[k] * pixels[at];
        g += weights[k] * pixels[at + 1];
        b += weights[k] * pixels[at + 2];
      }
      const to = (column * height + y) * 3;
      made[to] = r;
      made[to + 1] = g;
      made[to + 2] = b;
    }
  });
  return filter === 'matlab' ? made : made.map(value => Math.min(255, Math.max(0, Math.floor(value + 0.5))));
}
