// A recipe drawn live: sliders choose a state, its program is evaluated for every pair, and both
// pictures follow. No library, no network. `flexRuntime` stands before this file.
(() => {
  const SIZES = [2, 4, 8, 16];
  // Nine points of the map cividis, which people with every kind of colour vision can read.
  const MAP = [
    [0, 32, 77], [0, 48, 111], [57, 72, 107], [87, 93, 109], [112, 113, 115], [138, 134, 121],
    [166, 157, 117], [196, 181, 108], [255, 234, 70],
  ];

  function element(tag, fields = {}, ...children) {
    const made = Object.assign(document.createElement(tag), fields);
    made.append(...children);
    return made;
  }

  const colour = (host, name) => getComputedStyle(host).getPropertyValue(name).trim();

  // The numbers that base64 holds as the bytes of float32.
  const floats = (text) =>
    new Float32Array(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);

  function mapped(share) {
    const at = Math.min(Math.max(share, 0), 1) * (MAP.length - 1), low = Math.floor(at);
    const high = Math.min(low + 1, MAP.length - 1), part = at - low;
    return `rgb(${MAP[low].map((v, i) => Math.round(v + part * (MAP[high][i] - v))).join(",")})`;
  }

  class Playground {
    constructor(host) {
      this.host = host;
      this.data = JSON.parse(host.querySelector("script").textContent);
      for (const table of this.data.tables) table.data ??= floats(table.f32);
      this.programs = this.data.programs.map((text) => (0, eval)(text)(flexRuntime));
      this.places = Object.fromEntries(this.data.sliders.map((s) => [s.name, s.start]));
      const raw = Number(this.data.ramp);
      Object.assign(this.places, { "@head": 0, "@batch": 0, "@block": 1, "@raw": raw });
      this.inputs = {};
      this.build();
      this.draw();
    }

    // Sliders ----------------------------------------------------------------------------------

    // Names that begin with @ are ours; the others are the recipe's parameters.
    build() {
      const { sliders, sizes } = this.data, controls = element("div", { className: "fp-controls" });
      for (const s of sliders) controls.append(this.control(s.name, s.meaning, s.stops, s.truth));
      const range = (n) => Array.from({ length: n }, (_, i) => i);
      if (sizes.heads > 1) controls.append(this.control("@head", "head drawn", range(sizes.heads)));
      if (sizes.batch > 1) {
        controls.append(this.control("@batch", "batch entry drawn", range(sizes.batch)));
      }
      controls.append(this.control("@block", "rows and columns of a block [tokens]", SIZES));
      if (this.data.kind.includes("score")) {
        const words = "raw scores: from -4 at the first key to 4 at the last, or 0 everywhere";
        controls.append(this.control("@raw", words, [false, true], true));
      }
      const figure = (name) => {
        const canvas = element("canvas"), caption = element("figcaption");
        canvas.setAttribute("role", "img");
        Object.assign(this, { [name]: canvas, [`${name}Caption`]: caption });
        return element("figure", {}, canvas, caption);
      };
      this.note = element("p", { className: "fp-note" });
      this.note.setAttribute("aria-live", "polite");
      const pictures = element("div", { className: "fp-pictures" });
      pictures.append(figure("cells"), figure("blocks"));
      this.host.append(controls, pictures, this.note);
    }

    control(name, meaning, stops, truth = false) {
      const input = element("input", { type: truth ? "checkbox" : "range" });
      const value = element("output"), start = this.places[name];
      if (truth) input.checked = Boolean(stops[start]);
      else Object.assign(input, { min: 0, max: stops.length - 1, step: 1, value: start });
      const show = () => {
        value.textContent = ` ${stops[this.places[name]]}`;
        if (!truth) input.setAttribute("aria-valuetext", String(stops[this.places[name]]));
      };
      input.addEventListener("input", () => {
        this.places[name] = truth ? Number(input.checked) : Number(input.value);
        show();
        this.draw();
      });
      show();
      this.inputs[name] = { input, stops, truth };
      const words = element("span", { className: "fp-meaning", textContent: meaning });
      const title = element("b", { textContent: name.replace("@", "") });
      return element("label", {}, title, value, input, words);
    }

    // Chooses a stop by its value, as a reader would; for scripts and tests.
    set(name, value) {
      const { input, stops, truth } = this.inputs[name], at = stops.indexOf(value);
      if (at < 0) throw new RangeError(`${name} has no stop ${value}: ${stops}`);
      if (truth) input.checked = Boolean(at);
      else input.value = at;
      input.dispatchEvent(new Event("input"));
    }

    // Values -----------------------------------------------------------------------------------

    // What the stops chosen ask for; where they do not fit together, what was drawn last.
    state() {
      return this.chosen() ?? this.last;
    }

    chosen() {
      return this.data.states[this.data.sliders.map((s) => this.places[s.name]).join(",")];
    }

    // Of the head drawn: whether the mask keeps each pair, and the modified score of those kept.
    values() {
      const state = this.state(), { q_len, kv_len } = this.data.sizes;
      const head = this.places["@head"], batch = this.places["@batch"];
      const { score, mask } = this.programs[state.program];
      const tables = state.tables.map((i) => this.data.tables[i]);
      const scores = [], kept = [];
      for (let q = 0; q < q_len; q++) {
        scores.push([]);
        kept.push([]);
        for (let kv = 0; kv < kv_len; kv++) {
          const raw = this.places["@raw"] ? Math.fround((8 * kv) / Math.max(1, kv_len - 1) - 4) : 0;
          const place = [batch, head, q, kv, state.ints, state.floats, tables];
          kept[q].push(mask === null || mask(...place));
          const modified = score === null ? raw : score(raw, ...place);
          scores[q].push(kept[q][kv] ? modified : -Infinity);
        }
      }
      return { scores, kept };
    }

    scores() {
      return this.values().scores;
    }

    // 0 empty, 1 partial, 2 full, block by block: what the mask says, whatever the scores are.
    classes(kept = this.values().kept) {
      const size = SIZES[this.places["@block"]], { q_len, kv_len } = this.data.sizes, out = [];
      for (let top = 0; top < q_len; top += size) {
        const line = [];
        for (let left = 0; left < kv_len; left += size) {
          const part = kept.slice(top, top + size).map((row) => row.slice(left, left + size)).flat();
          const count = part.filter(Boolean).length;
          line.push(count === 0 ? 0 : count === part.length ? 2 : 1);
        }
        out.push(line);
      }
      return out;
    }

    // Pictures ---------------------------------------------------------------------------------

    draw() {
      const words = "These values do not fit together: the picture is that of the last ones that do.";
      this.note.textContent = this.chosen() ? "" : words;
      this.last = this.state();
      const { scores: rows, kept } = this.values(), flat = rows.flat();
      const finite = flat.filter(Number.isFinite);
      const low = Math.min(...finite), high = Math.max(...finite);
      const empty = colour(this.host, "--fp-empty"), full = colour(this.host, "--fp-full");
      const heat = high > low;
      this.paint(this.cells, rows, (v) =>
        v === -Infinity ? empty : heat ? mapped((v - low) / (high - low)) : full);
      const left = flat.filter((v) => v !== -Infinity).length;
      const share = ((100 * left) / flat.length).toFixed(1);
      const digits = (v) => Number(v.toPrecision(4));
      const range = heat ? `, scores from ${digits(low)} to ${digits(high)}` : "";
      const told = `${share}% of pairs kept${range}`;
      this.caption(this.cellsCaption, heat
        ? [["dropped", empty], ["lowest", mapped(0)], ["highest", mapped(1)]]
        : [["dropped", empty], ["kept", full]], `Rows are queries, columns keys. ${told}.`);
      this.cells.setAttribute("aria-label", `${this.data.name}, pair by pair: ${told}`);

      const classes = this.classes(kept), all = classes.flat();
      const names = ["empty", "partial", "full"];
      const colours = names.map((name) => colour(this.host, `--fp-${name}`));
      const counts = names.map((_, i) => all.filter((c) => c === i).length);
      this.paint(this.blocks, classes, (c) => colours[c]);
      const skipped = ((100 * counts[0]) / all.length).toFixed(1);
      this.caption(this.blocksCaption, names.map((n, i) => [`${counts[i]} ${n}`, colours[i]]),
        `Block sparsity ${skipped}%.`);
      const list = names.map((n, i) => `${counts[i]} ${n}`).join(", ");
      this.blocks.setAttribute("aria-label", `blocks: ${list}`);
    }

    paint(canvas, rows, of) {
      const scale = Math.max(1, Math.round(320 / Math.max(rows.length, rows[0].length)));
      canvas.width = rows[0].length * scale;
      canvas.height = rows.length * scale;
      const context = canvas.getContext("2d");
      rows.forEach((row, y) => row.forEach((v, x) => {
        context.fillStyle = of(v);
        context.fillRect(x * scale, y * scale, scale, scale);
      }));
    }

    caption(host, keys, words) {
      host.replaceChildren(words, ...keys.map(([name, ink]) => {
        const square = element("span", { className: "fp-key" });
        square.style.background = ink;
        return element("span", { className: "fp-entry" }, square, name);
      }));
    }
  }

  function start() {
    for (const host of document.querySelectorAll(".flex-playground")) {
      if (!host.flexPlayground) host.flexPlayground = new Playground(host);
    }
    const again = () => document.querySelectorAll(".flex-playground").forEach((host) =>
      host.flexPlayground?.draw());
    new MutationObserver(again).observe(document.body, { attributeFilter: ["data-theme"] });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  }

  if (typeof document !== "undefined") {
    if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
    else start();
  }
})();
