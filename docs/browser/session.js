/** One use of a text decoder with its KV cache, which the search drives; see `search.js`. */

const CACHES = ["keys", "values"]; // of the texts so far; a step gives them back as new_keys and new_values

export class Session {
  /**
   * @param {import("./blip.js").Blip} model
   * @param {object} states The tensor (1, S, width) that the decoder attends to.
   * @param {number} capacity The longest text, in tokens.
   * @returns {Promise<Session>}
   */
  static async begin(model, states, capacity) {
    const caches = await model.run("begin", { encoder_states: states, rows: [[1], []], capacity: [[capacity], []] });
    const mask = [Array(states.dims[1]).fill(1), [1, states.dims[1]]];
    return Object.assign(new Session(), { model, caches, mask, capacity, length: 0 });
  }

  prefill(prompt) {
    return this.#run(prompt, 1);
  }

  step(tokens) {
    return this.#run(tokens, tokens.length);
  }

  /** Let new row j continue old row rows[j]: copy their keys and values, (layers, rows, ...). */
  select(rows) {
    for (const name of CACHES) {
      const { data, dims, constructor: Tensor, type } = this.caches[name];
      const [layers, before, ...rest] = dims;
      const size = rest.reduce((a, b) => a * b);
      const kept = new data.constructor(layers * rows.length * size);
      for (let layer = 0; layer < layers; layer++) {
        rows.forEach((row, i) => {
          const from = (layer * before + row) * size;
          kept.set(data.subarray(from, from + size), (layer * rows.length + i) * size);
        });
      }
      this.caches[name] = new Tensor(type, kept, [layers, rows.length, ...rest]);
    }
  }

  async #run(tokens, rows) {
    const added = tokens.length / rows;
    const real = Array.from({ length: rows * this.capacity }, (_, i) =>
      Number(i % this.capacity < this.length + added),
    );
    const found = await this.model.run("step", {
      input_ids: [tokens, [rows, added]],
      attention_mask: [real, [rows, this.capacity]],
      length: [[this.length], []],
      encoder_attention_mask: this.mask,
      ...this.caches,
    });
    this.length += added;
    for (const name of CACHES) this.caches[name] = found[`new_${name}`];
    return found.logits.data;
  }
}
