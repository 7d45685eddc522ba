// Calls a function of docs/browser: the name and a JSON argument come in, JSON goes out.
import { readFileSync } from "node:fs";

import { pixelValues, Resizer } from "../../docs/browser/resize.js";
import { generate } from "../../docs/browser/search.js";
import { Tokenizer, vocabularyFile } from "../../docs/browser/tokenizer.js";

const CALLS = {
  tokenize({ file, vocabulary, settings, texts, rows }) {
    const tokenizer = new Tokenizer(file ?? vocabularyFile(vocabulary, settings), settings);
    return {
      ids: texts.map((text) => tokenizer.encode(text)),
      bare: texts.map((text) => tokenizer.encode(text, false)),
      whole: rows.map((row) => tokenizer.decode(row, false)),
      texts: rows.map((row) => tokenizer.decode(row)),
    };
  },

  prepare({ pixels, width, height, strip, background, settings }) {
    const size = [settings.size.width, settings.size.height];
    const resizer = new Resizer([width, height], size, settings.resample, background);
    const rgba = Buffer.from(pixels, "base64");
    for (let at = 0; at < rgba.length; at += strip * width * 4) {
      resizer.add(rgba.subarray(at, Math.min(at + strip * width * 4, rgba.length)));
    }
    return Buffer.from(pixelValues(resizer.result(), settings).buffer).toString("base64");
  },

  async generate({ table, cases, end, positions }) {
    const found = [];
    for (const { prompt, options } of cases) {
      const look = async (tokens) => Float32Array.from(tokens.flatMap((token) => table[token]));
      const session = { prefill: (ids) => look(ids.slice(-1)), step: look, select() {} };
      const streamed = [];
      const text = await generate(session, prompt, options, { end, positions }, (token) => streamed.push(token));
      found.push({ ...text, streamed });
    }
    return found;
  },
};

const [, , name] = process.argv;
try {
  console.log(JSON.stringify({ result: await CALLS[name](JSON.parse(readFileSync(0, "utf8"))) }));
} catch (error) {
  console.log(JSON.stringify({ error: error.message }));
}
