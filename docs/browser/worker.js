/** The model at work, beside the page: calls come as messages, and results go back by their number. */

import { Blip } from "./blip.js";
import { folderAt, folderOf } from "./folders.js";

let models = []; // each can do something that the ones before it cannot

/** The first model that can do something. */
function able(what) {
  return models.find((model) => model.can[what]);
}

const CALLS = {
  /** Open models: of paths beside the page, or of the files of one folder. Returns what they can do and are. */
  async open({ paths = [], files }, report) {
    let bytes = 0;
    const progress = (more) => report({ bytes: (bytes += more) });
    const folders = files ? [folderOf(files)] : paths.map((path) => folderAt(path, progress));
    const opened = [];
    for (const folder of folders) opened.push(await Blip.open(folder));
    models = opened;
    return { can: ["caption", "answer", "match"].filter(able), about: models.map((model) => model.about) };
  },

  async look({ file, name }) {
    for (const model of models) await model.look(file, name);
  },

  caption: ({ prompt, options }, report) => able("caption").caption(prompt, options, (text) => report({ text })),
  answer: ({ question, options }) => able("answer").answer(question, options),
  match: ({ texts }) => able("match").match(texts),
};

let last = Promise.resolve();
self.onmessage = ({ data: { number, call, given } }) => {
  const report = (progress) => self.postMessage({ number, progress });
  last = last.then(async () => {
    const begin = performance.now();
    try {
      const result = await CALLS[call](given, report);
      self.postMessage({ number, result, milliseconds: performance.now() - begin });
    } catch (error) {
      self.postMessage({ number, error: error.message });
    }
  });
};
