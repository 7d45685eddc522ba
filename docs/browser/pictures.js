/** Picture files to RGBA pixels as they are stored, in strips: by WebGL, as a 2D canvas spoils transparent parts. */

const MOST_BYTES = 50 * 2 ** 20;
const MOST_PIXELS = 180_000_000;
const STRIP = 4_000_000; // pixels at a time
// Neither the colours are converted nor multiplied by alpha, as in Pillow; the orientation of the file is applied.
const AS_STORED = { premultiplyAlpha: "none", colorSpaceConversion: "none", imageOrientation: "from-image" };

/**
 * Decode a picture.
 * @param {Blob} file
 * @param {string} name What messages call it.
 * @returns {Promise<ImageBitmap>}
 * @throws {Error} For what is no picture, is damaged or too large.
 */
export async function decode(file, name) {
  if (file.size > MOST_BYTES) {
    throw new Error(
      `${name} has ${Math.round(file.size / 2 ** 20)} MB; take a picture of at most ${MOST_BYTES / 2 ** 20} MB.`,
    );
  }
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, AS_STORED);
  } catch {
    throw new Error(
      `${name} is no picture that this browser can read, or it is damaged; take a PNG, JPEG or WebP file.`,
    );
  }
  if (bitmap.width * bitmap.height > MOST_PIXELS) {
    bitmap.close();
    throw new Error(`${name} has more than ${MOST_PIXELS / 1e6} million pixels; make it smaller.`);
  }
  return bitmap;
}

/**
 * Read the pixels of a picture, some rows at a time.
 * @param {ImageBitmap} bitmap
 * @yields {Uint8Array} Rows, 4 values a pixel.
 */
export async function* strips(bitmap) {
  const { width, height } = bitmap;
  const gl = new OffscreenCanvas(1, 1).getContext("webgl");
  if (!gl) throw new Error("This browser gives no WebGL, by which pictures are read; turn on hardware or software 3D.");
  const side = gl.getParameter(gl.MAX_TEXTURE_SIZE);
  const rows = Math.max(1, Math.min(height, side, Math.floor(STRIP / width)));
  for (let top = 0; top < height; top += rows) {
    const count = Math.min(rows, height - top);
    const strip = new Uint8Array(width * count * 4);
    for (let left = 0; left < width; left += side) {
      const columns = Math.min(side, width - left);
      const whole = columns === width && count === height;
      const part = whole ? bitmap : await createImageBitmap(bitmap, left, top, columns, count, AS_STORED);
      const pixels = read(gl, part, columns, count);
      if (columns === width) strip.set(pixels);
      for (let row = 0; columns < width && row < count; row++) {
        strip.set(pixels.subarray(row * columns * 4, (row + 1) * columns * 4), (row * width + left) * 4);
      }
      if (!whole) part.close();
    }
    yield strip;
  }
  gl.getExtension("WEBGL_lose_context")?.loseContext();
}

/** The pixels of a picture that fits into one texture. */
function read(gl, bitmap, width, height) {
  const texture = gl.createTexture();
  const buffer = gl.createFramebuffer();
  gl.pixelStorei(gl.UNPACK_PREMULTIPLY_ALPHA_WEBGL, false);
  gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, buffer);
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
  const pixels = new Uint8Array(width * height * 4);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
  gl.deleteFramebuffer(buffer);
  gl.deleteTexture(texture);
  return pixels;
}

/**
 * @param {null|string|number[]} value A colour as in `preprocessor_config.json`: "white", "#ffcc00" or three numbers.
 * @returns {?number[]} Red, green and blue.
 */
export function toColour(value) {
  if (typeof value !== "string") return value ?? null;
  const context = new OffscreenCanvas(1, 1).getContext("2d");
  context.fillStyle = value;
  const [, ...parts] = /^#(..)(..)(..)$/.exec(context.fillStyle);
  return parts.map((part) => parseInt(part, 16));
}
