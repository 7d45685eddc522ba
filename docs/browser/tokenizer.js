/**
 * Texts to token ids and back: BERT's WordPiece, with the ids and texts of `BlipTokenizer`.
 *
 * Characters have the classes of the browser's Unicode; the Python library's is older, so that marks of scripts that
 * came after Unicode 8 (2015) may be cut otherwise.
 */

const CONTROL = /[\p{Cc}\p{Cf}\p{Co}\p{Cs}\ufffd]/u;
const SPACE = /\p{White_Space}/u;
const MARKS = /\p{Mn}/gu;
const PUNCTUATION = /[!-/:-@[-`{-~\p{P}]/gu;
const IDEOGRAPHS =
  /[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u{20000}-\u{2a6df}\u{2a700}-\u{2b81f}\u{2b920}-\u{2ceaf}\u{2f800}-\u{2fa1f}]/gu;
const GAPS = [" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're"];
const BERT = { unk: "[UNK]", sep: "[SEP]", pad: "[PAD]", cls: "[CLS]", mask: "[MASK]" };
const KINDS = { normalizer: "BertNormalizer", pre_tokenizer: "BertPreTokenizer", model: "WordPiece" };

export class Tokenizer {
  /**
   * @param {object} file The parsed `tokenizer.json`, or what `vocabularyFile` makes of a `vocab.txt`.
   * @param {object} settings The parsed `tokenizer_config.json`.
   * @throws {Error} For a tokenizer that is not BERT's.
   */
  constructor(file, settings = {}) {
    for (const [part, kind] of Object.entries(KINDS)) {
      if (file[part]?.type !== kind) {
        throw new Error(`The tokenizer's ${part} is ${file[part]?.type}; this page knows BERT's alone (${kind}).`);
      }
    }
    const { vocab, unk_token, continuing_subword_prefix = "##", max_input_chars_per_word = 100 } = file.model;
    const { lowercase = true, strip_accents = null, clean_text = true, handle_chinese_chars = true } = file.normalizer;
    Object.assign(this, { unknown: unk_token, prefix: continuing_subword_prefix, longest: max_input_chars_per_word });
    Object.assign(this, { lowercase, clean_text, handle_chinese_chars, strip_accents: strip_accents ?? lowercase });
    this.cleanup = file.decoder?.cleanup ?? true;
    this.closeGaps = settings.clean_up_tokenization_spaces ?? true;
    this.ids = new Map(Object.entries(vocab));
    this.special = new Set();
    const [exact, normal] = [new Map(), new Map()]; // added tokens, found in the text as it is, and after normalising
    for (const { id, content, special, normalized, single_word, lstrip, rstrip } of file.added_tokens ?? []) {
      if (single_word || lstrip || rstrip) {
        throw new Error(`The added token ${content} has options that this page does not know.`);
      }
      const text = normalized ? this.#normalized(content) : content;
      (normalized ? normal : exact).set(text, id);
      this.ids.set(text, id);
      if (special) this.special.add(id);
    }
    this.added = [exact, normal].map((ids) => ({ ids, pattern: oneOf([...ids.keys()]) }));
    this.tokens = new Map(Array.from(this.ids, ([token, id]) => [id, token]));
    this.cls = this.ids.get(settings.cls_token ?? BERT.cls);
    this.sep = this.ids.get(settings.sep_token ?? BERT.sep);
    if (this.cls === undefined || this.sep === undefined || !this.ids.has(this.unknown)) {
      throw new Error("The vocabulary lacks [CLS], [SEP] or [UNK]; take that of a BERT model.");
    }
  }

  /**
   * @param {string} text
   * @param {boolean} whole Add `[CLS]` and `[SEP]`.
   * @returns {number[]} Token ids.
   */
  encode(text, whole = true) {
    const [exact, normal] = this.added;
    const ids = cut(text, exact, (part) => cut(this.#normalized(part), normal, (rest) => this.#words(rest)));
    return whole ? [this.cls, ...ids, this.sep] : ids;
  }

  /**
   * @param {Iterable<number>} ids
   * @param {boolean} skipSpecial Leave out `[CLS]`, `[SEP]`, `[DEC]` and the like.
   * @returns {string} Their text.
   */
  decode(ids, skipSpecial = true) {
    let text = "";
    let first = true;
    for (const id of ids) {
      const token = this.tokens.get(id);
      if (token === undefined || (skipSpecial && this.special.has(id))) continue;
      const continued = !first && token.startsWith(this.prefix);
      const shown = first ? token : continued ? token.slice(this.prefix.length) : ` ${token}`;
      text += this.cleanup ? closeGaps(shown) : shown;
      first = false;
    }
    return this.closeGaps ? closeGaps(text) : text;
  }

  /** What BERT's normalizer makes of a text. */
  #normalized(text) {
    if (this.clean_text) {
      text = Array.from(text.replace(/[\t\n\r]/g, " "), (c) => (CONTROL.test(c) ? "" : SPACE.test(c) ? " " : c)).join(
        "",
      );
    }
    if (this.handle_chinese_chars) text = text.replace(IDEOGRAPHS, " $& ");
    if (this.strip_accents) text = text.normalize("NFD").replace(MARKS, "");
    if (this.lowercase) text = Array.from(text, (c) => c.toLowerCase()).join(""); // each by itself: no final sigma
    return text;
  }

  /** Cut a normalised text to words and signs, and these to pieces. */
  #words(text) {
    const words = text
      .replace(PUNCTUATION, " $& ")
      .split(/\p{White_Space}+/u)
      .filter(Boolean);
    return words.flatMap((word) => this.#pieces(word));
  }

  /** Cut a word to the longest pieces of the vocabulary, from the left; `[UNK]` where there is none. */
  #pieces(word) {
    const letters = Array.from(word);
    const ids = [];
    for (let start = 0, end; start < letters.length && letters.length <= this.longest; start = end) {
      let id;
      for (end = letters.length; end > start && id === undefined; end -= id === undefined) {
        id = this.ids.get((start ? this.prefix : "") + letters.slice(start, end).join(""));
      }
      if (id === undefined) return [this.ids.get(this.unknown)];
      ids.push(id);
    }
    return letters.length > this.longest ? [this.ids.get(this.unknown)] : ids;
  }
}

/**
 * Make of a `vocab.txt`, one token a line, what a `tokenizer.json` of the same vocabulary holds.
 * @param {string} text
 * @param {object} settings The parsed `tokenizer_config.json`.
 */
export function vocabularyFile(text, settings = {}) {
  const vocab = Object.fromEntries(
    text
      .replace(/\n$/, "")
      .split("\n")
      .map((token, id) => [token, id]),
  );
  const special = Object.values(BERT).filter((token) => token in vocab);
  let size = Object.keys(vocab).length;
  for (const token of ["[DEC]", "[ENC]"]) (special.push(token), (vocab[token] ??= size++));
  return {
    added_tokens: special.map((content) => ({ content, id: vocab[content], special: true })),
    normalizer: {
      type: KINDS.normalizer,
      lowercase: settings.do_lower_case ?? true,
      strip_accents: settings.strip_accents ?? null,
      handle_chinese_chars: settings.tokenize_chinese_chars ?? true,
    },
    pre_tokenizer: { type: KINDS.pre_tokenizer },
    model: { type: KINDS.model, vocab, unk_token: BERT.unk },
  };
}

function closeGaps(text) {
  return GAPS.reduce((result, gap) => result.replaceAll(gap, gap.trim()), text);
}

/** A pattern, with a group, of one of some texts, of which the longest counts; null where there are none. */
function oneOf(texts) {
  const escaped = texts.sort((a, b) => b.length - a.length).map((text) => text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"));
  return texts.length ? new RegExp(`(${escaped.join("|")})`, "u") : null;
}

/** The ids of a text: of the added tokens in it, and what `read` makes of the parts between them. */
function cut(text, { ids, pattern }, read) {
  const parts = pattern ? text.split(pattern) : [text]; // text, added token, text, ...
  return parts.flatMap((part, i) => (i % 2 ? [ids.get(part)] : read(part)));
}
