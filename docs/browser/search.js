/** Greedy search and beam search for one picture: rules, options and ties of `blip_core/generation`; no sampling. */

const DEFAULT_LENGTH = 20;

/**
 * A text being written.
 * @typedef {{tokens: number[], logProbs: number[], row: number, score: number}} Text
 *   Its tokens with the prompt, the log-probability of each new one, the row it continues, and its score.
 *
 * A use of a text decoder; a row is a text being written, and logits are (rows x vocabulary) values.
 * @typedef {object} Session
 * @property {(prompt: number[]) => Promise<Float32Array>} prefill Read a prompt; the logits of the next token.
 * @property {(tokens: number[]) => Promise<Float32Array>} step Append a token to each row; the logits of the next ones.
 * @property {(rows: number[]) => void} select Let new row j continue old row rows[j].
 */

/**
 * Continue a prompt.
 * @param {Session} session
 * @param {number[]} prompt
 * @param {object} options Those of a `generation_config.json`.
 * @param {{end: number, positions: number}} model The token that ends a text, and the longest text.
 * @param {(token: number) => void} [onToken] Called with each token of a greedy search.
 * @returns {Promise<Text>} The best text.
 */
export async function generate(session, prompt, options, { end, positions }, onToken) {
  const beams = options.num_beams ?? 1;
  const [shortest, longest] = lengthLimits(options, prompt.length, positions);
  const search = { beams, end, longest, prompt: prompt.length, options, finished: [], totals: [0] };
  let texts = [{ tokens: prompt, logProbs: [], row: 0, score: 0 }];
  let logits = await session.prefill(prompt);
  for (;;) {
    const width = logits.length / texts.length;
    const logProbs = texts.map((_, row) => logSoftmax(logits.subarray(row * width, (row + 1) * width)));
    const scores = texts.map(({ tokens }, row) => {
      const own = beams > 1 ? logProbs[row].slice() : logits.slice(row * width, (row + 1) * width);
      return applyRules(own, tokens, options, shortest, end);
    });
    texts = beams > 1 ? advanceBeams(search, texts, scores, logProbs) : advanceGreedy(search, texts, scores, logProbs);
    if (beams === 1) onToken?.(texts[0].tokens.at(-1));
    if (search.done) return search.finished[0];
    const rows = texts.map(({ row }) => row);
    if (rows.length !== scores.length || rows.some((row, i) => row !== i)) session.select(rows);
    logits = await session.step(texts.map(({ tokens }) => tokens.at(-1)));
  }
}

/** The least and the greatest length of a text, prompt included. */
export function lengthLimits(options, prompt, positions) {
  const { max_length, max_new_tokens, min_length, min_new_tokens, _from_model_config } = options;
  const leftOut = (max_length ?? null) === null || (_from_model_config && max_length === DEFAULT_LENGTH);
  let longest = leftOut ? Math.min(prompt + DEFAULT_LENGTH, positions) : max_length;
  if ((max_new_tokens ?? null) !== null) longest = prompt + max_new_tokens;
  if (longest > positions || prompt >= longest) {
    const most = Math.min(longest, positions);
    throw new Error(
      `The prompt has ${prompt} tokens, and a text may grow to ${longest}, but ${most} fit; shorten one.`,
    );
  }
  const shortest = (min_new_tokens ?? null) !== null ? prompt + min_new_tokens : (min_length ?? 0);
  if (shortest > longest) throw new Error(`A text cannot have at least ${shortest} and at most ${longest} tokens.`);
  return [shortest, longest];
}

function advanceGreedy(search, [text], [scores], logProbs) {
  const [token] = largest([scores], 1);
  if (!token) throw nothingAllowed();
  const next = extend(text, token, logProbs);
  search.done = ends(search, next);
  search.finished = [{ ...next, score: next.logProbs.reduce((sum, value) => sum + value, 0) }];
  return [next];
}

/** Of the best candidates those that do not end go on; those that end, and are among the first, are finished. */
function advanceBeams(search, texts, scores, logProbs) {
  const { beams, totals } = search;
  const sums = scores.map((row, i) => row.map((score) => score + totals[i])); // float32, as the scores are
  let running = [];
  largest(sums, 2 * beams).forEach((choice, rank) => {
    const text = { ...extend(texts[choice.row], choice, logProbs), total: choice.value };
    if (!ends(search, text)) running.push(text);
    else if (rank < beams) search.finished.push({ ...text, score: scoreOf(search, text.total, text.logProbs.length) });
  });
  running = running.slice(0, beams);
  search.finished = search.finished.sort((a, b) => b.score - a.score).slice(0, beams);
  search.done = !running.length || enough(search, running[0]);
  if (search.done && !search.finished.length) throw nothingAllowed();
  while (running.length && running.length < beams) running.push({ ...running[0], total: -Infinity });
  search.totals = running.map(({ total }) => total);
  return running;
}

/** Say whether running beams cannot improve the result, by `early_stopping`. */
function enough(search, { total, logProbs }) {
  const { early_stopping, length_penalty = 1 } = search.options;
  if (search.finished.length < search.beams) return false;
  if (early_stopping === true) return true;
  const hopeful = early_stopping === "never" && length_penalty > 0;
  const length = hopeful ? search.longest - search.prompt : logProbs.length;
  return scoreOf(search, total, length) <= search.finished.at(-1).score;
}

function scoreOf({ options }, total, length) {
  return total / length ** (options.length_penalty ?? 1);
}

function ends({ end, longest }, { tokens }) {
  return tokens.at(-1) === end || tokens.length >= longest;
}

function extend({ tokens, logProbs }, { row, token }, all) {
  return { tokens: [...tokens, token], logProbs: [...logProbs, all[row][token]], row, score: 0 };
}

/** The `count` largest finite values of some rows, best first; of equal ones the first. */
function largest(rows, count) {
  const best = [];
  rows.forEach((values, row) => {
    values.forEach((value, token) => {
      if (value === -Infinity || (best.length === count && !(value > best.at(-1).value))) return;
      let place = best.length;
      while (place && best[place - 1].value < value) place--;
      best.splice(place, 0, { row, token, value });
      best.length = Math.min(best.length, count);
    });
  });
  return best;
}

/** The log-probabilities, float32, of logits. */
function logSoftmax(logits) {
  const peak = logits.reduce((a, b) => Math.max(a, b), -Infinity); // NaN where any is
  if (!Number.isFinite(peak))
    throw new Error("The model gave numbers that are NaN or infinite: its files are damaged.");
  const sum = logits.reduce((total, value) => total + Math.exp(value - peak), 0);
  return logits.map((value) => Math.fround(value - peak) - Math.log(sum));
}

/** Change the scores of the token after `tokens`, in place: a penalty, and bans by -Infinity. */
function applyRules(scores, tokens, options, shortest, end) {
  const { repetition_penalty: penalty = 1, no_repeat_ngram_size: size = 0, bad_words_ids } = options;
  for (const token of penalty === 1 ? [] : new Set(tokens)) {
    scores[token] = scores[token] < 0 ? scores[token] * Math.fround(penalty) : scores[token] / Math.fround(penalty);
  }
  const last = (count) => tokens.slice(tokens.length - count);
  for (let i = 0; size && i + size <= tokens.length; i++) {
    if (same(tokens.slice(i, i + size - 1), last(size - 1))) scores[tokens[i + size - 1]] = -Infinity;
  }
  for (const word of bad_words_ids ?? []) {
    const start = word.slice(0, -1);
    const fits = !start.length ? word[0] !== end : tokens.length > start.length && same(last(start.length), start);
    if (fits) scores[word.at(-1)] = -Infinity;
  }
  if (tokens.length < shortest) scores[end] = -Infinity;
  return scores;
}

function same(one, other) {
  return one.every((value, i) => value === other[i]);
}

function nothingAllowed() {
  return new Error("The settings of the model ban every token; relax its generation_config.json.");
}
