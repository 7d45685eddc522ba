/** A model exported by `blip convert --to onnx`: ONNX Runtime runs its parts, and the rest is JavaScript. */

import * as ort from "./runtime/ort.js";
import { readJson } from "./folders.js";
import { decode, strips, toColour } from "./pictures.js";
import { pixelValues, Resizer } from "./resize.js";
import { generate, lengthLimits } from "./search.js";
import { Session } from "./session.js";
import { Tokenizer, vocabularyFile } from "./tokenizer.js";

ort.env.wasm.numThreads = 1; // more would need a server that isolates the page
ort.env.wasm.wasmPaths = {
  mjs: new URL("runtime/ort-wasm.js", import.meta.url).href,
  wasm: new URL("runtime/ort-wasm.wasm", import.meta.url).href,
};

const VERSION = 1; // of `export.json`
/** Where the weights of all parts are; rounded ones lie by themselves. */
const weightsFile = (about) => (about.weights.startsWith("int8") ? "weights.bin" : "model.safetensors");
/** What a model can do, and the parts that it needs for it; `itc` is the similarity beside a match. */
const NEEDS = {
  caption: ["image_features", "begin", "step"],
  answer: ["image_features", "question_states", "begin", "step"],
  match: ["image_features", "itm_scores"],
  itc: ["image_features", "text_features"],
};
/** What an image processor does unless `preprocessor_config.json` says otherwise. */
const PICTURES = {
  resample: 3,
  do_rescale: true,
  rescale_factor: 1 / 255,
  do_normalize: true,
  background: null,
  image_mean: [0.48145466, 0.4578275, 0.40821073],
  image_std: [0.26862954, 0.26130258, 0.27577711],
};
const COMMAND = "blip convert --to onnx";
const REMEDY = `make it again with ${COMMAND}`;

/** A model and, after `look`, the picture that it is asked about. */
export class Blip {
  /**
   * Load a model.
   * @param {import("./folders.js").Folder} folder
   * @returns {Promise<Blip>}
   * @throws {Error} One sentence: what is missing or wrong, and what to do.
   */
  static async open(folder) {
    const read = (file) => readJson(folder, file);
    const about = await read("export.json");
    if (!about)
      throw new Error(`${folder.name} is no exported model: it has no export.json; make one with ${COMMAND}.`);
    if (about.version !== VERSION || about.form !== "onnx" || !about.parts) {
      const found = `is an export to ${about.form} of version ${about.version}`;
      throw new Error(`${folder.name} ${found}, and this page reads onnx of version ${VERSION}; ${REMEDY}.`);
    }
    const model = Object.assign(new Blip(), { name: folder.name, head: about.head, weights: about.weights, parts: {} });
    model.config = await read("config.json");
    if (!model.config?.text_config || !model.config.vision_config) {
      throw new Error(`${folder.name} is of the class ${about.head}, which reads no pictures and texts together.`);
    }
    if (about.parts.begin) model.generation = (await read("generation_config.json")) ?? {};
    const { image_size } = model.config.vision_config;
    model.pictures = {
      ...PICTURES,
      size: { height: image_size, width: image_size },
      ...(await read("preprocessor_config.json")),
    };
    const { do_resize, do_center_crop, do_pad, size } = model.pictures;
    if (do_resize === false || do_center_crop || do_pad || (size.height !== image_size && !about.free_size)) {
      const expected = `must resize pictures to ${image_size} pixels, and neither crop nor pad them`;
      throw new Error(`${folder.name}/preprocessor_config.json ${expected}; correct it.`);
    }
    const settings = (await read("tokenizer_config.json")) ?? {};
    const file = await read("tokenizer.json");
    model.tokenizer = new Tokenizer(
      file ?? vocabularyFile(new TextDecoder().decode(await required(folder, "vocab.txt")), settings),
      settings,
    );
    await model.#load(folder, about.parts);
    return model;
  }

  /** Load the parts that the page uses; the weights are in one file for all of them. */
  async #load(folder, files) {
    this.can = Object.fromEntries(
      Object.entries(NEEDS).map(([what, parts]) => [what, parts.every((part) => part in files)]),
    );
    if ("question_states" in files) this.can.caption = false; // its decoder reads questions
    const needed = Object.keys(NEEDS)
      .filter((what) => this.can[what])
      .flatMap((what) => NEEDS[what]);
    if (!needed.length)
      throw new Error(`${folder.name} is of the class ${this.head}, with which this page can do nothing.`);
    const path = weightsFile(this);
    const data = await required(folder, path);
    for (const part of new Set(needed)) {
      const graph = await required(folder, files[part]);
      try {
        this.parts[part] = await ort.InferenceSession.create(graph, {
          externalData: [{ path, data }],
        });
      } catch (error) {
        throw new Error(`${folder.name}/${files[part]} cannot be run (${error.message}); ${REMEDY}.`);
      }
    }
  }

  /** @returns {string} What the model is, for people. */
  get about() {
    const { width, height } = this.pictures.size;
    return `${this.name} (${this.head}, ${this.weights}, pictures of ${width} × ${height})`;
  }

  /**
   * Read a picture and encode it.
   * @param {Blob} file
   * @param {string} name What messages call it.
   */
  async look(file, name) {
    this.seen = null;
    const bitmap = await decode(file, name);
    const { size, resample, background } = this.pictures;
    const resizer = new Resizer(
      [bitmap.width, bitmap.height],
      [size.width, size.height],
      resample,
      toColour(background),
    );
    for await (const strip of strips(bitmap)) resizer.add(strip);
    bitmap.close();
    const values = pixelValues(resizer.result(), this.pictures);
    this.seen = await this.run("image_features", { pixel_values: [values, [1, 3, size.height, size.width]] });
  }

  /**
   * @typedef {{text: string, tokens: number[], confidence: number}} Written
   *   A text without special tokens, its ids, and the geometric mean of the probabilities of the new ones.
   *
   * Caption the picture.
   * @param {?string} prompt What the caption begins with; null for what the model learned.
   * @param {object} options Those of generation that differ from the model's.
   * @param {(text: string) => void} [onText] Called as a greedy caption grows.
   * @returns {Promise<Written>}
   */
  async caption(prompt, options, onText) {
    const begin = prompt === null ? (this.generation.prompt_ids ?? []) : this.tokenizer.encode(prompt, false);
    const grown = prompt === null ? [] : [...begin];
    const shown = prompt === null ? begin.length + 1 : 0; // a prompt that was given is part of the text
    const onToken = (token) => {
      grown.push(token);
      onText?.(this.tokenizer.decode(grown));
    };
    return this.#write(this.seen.image_embeds, begin, shown, options, onToken);
  }

  /**
   * Answer a question about the picture.
   * @param {string} question
   * @param {object} options As of `caption`.
   * @returns {Promise<Written>}
   */
  async answer(question, options) {
    const { image_embeds } = this.seen;
    const { encoder_states } = await this.run("question_states", { image_embeds, ...this.#texts(question) });
    const begin = this.generation.prompt_ids ?? [];
    return this.#write(encoder_states, begin, begin.length + 1, options);
  }

  /**
   * Match the picture with texts.
   * @param {string[]} texts
   * @returns {Promise<{text: string, itm: number, itc: ?number}[]>} The probability of a match, and the similarity.
   */
  async match(texts) {
    const { image_embeds, image_features } = this.seen;
    const rows = [];
    for (const text of texts) {
      const tokens = this.#texts(text);
      const [no, yes] = (await this.run("itm_scores", { image_embeds, ...tokens })).itm_score.data;
      const itm = 1 / (1 + Math.exp(no - yes));
      const other = this.can.itc ? (await this.run("text_features", tokens)).text_features.data : null;
      rows.push({ text, itm, itc: other && image_features.data.reduce((sum, value, i) => sum + value * other[i], 0) });
    }
    return rows;
  }

  /**
   * Run a part.
   * @param {string} part
   * @param {object} inputs By name: tensors, or values with a shape.
   * @returns {Promise<object>} Tensors by name.
   */
  run(part, inputs) {
    const tensor = (given) => (Array.isArray(given) ? toTensor(...given) : given);
    return this.parts[part].run(
      Object.fromEntries(Object.entries(inputs).map(([name, given]) => [name, tensor(given)])),
    );
  }

  async #write(states, begin, shown, options, onToken) {
    const { bos_token_id, sep_token_id: end, max_position_embeddings: positions } = this.config.text_config;
    const prompt = [bos_token_id, ...begin];
    const given = { ...this.generation, ...options };
    const session = await Session.begin(this, states, lengthLimits(given, prompt.length, positions)[1]);
    const { tokens, logProbs } = await generate(session, prompt, given, { end, positions }, onToken);
    const mean = logProbs.reduce((sum, value) => sum + value, 0) / logProbs.length;
    return { text: this.tokenizer.decode(tokens.slice(shown)).trim(), tokens, confidence: Math.exp(mean) };
  }

  /** The inputs of a text, read as one of a batch of one. */
  #texts(text) {
    const ids = this.tokenizer.encode(text);
    const { max_position_embeddings: most } = this.config.text_config;
    if (ids.length > most)
      throw new Error(`“${text.slice(0, 30)}…” has ${ids.length} tokens, and the model reads ${most}; shorten it.`);
    return { input_ids: [ids, [1, ids.length]], attention_mask: [ids.map(() => 1), [1, ids.length]] };
  }
}

/** Values with a shape as a tensor: floating-point, and whole numbers from lists. */
export function toTensor(values, shape) {
  return values instanceof Float32Array
    ? new ort.Tensor("float32", values, shape)
    : new ort.Tensor("int32", Int32Array.from(values), shape);
}

/** The bytes of a file that must be there. */
async function required(folder, file) {
  const bytes = await folder.read(file);
  if (!bytes) throw new Error(`${folder.name} lacks ${file}; ${REMEDY}.`);
  return bytes;
}
