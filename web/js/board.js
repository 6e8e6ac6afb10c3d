// The reference board of Multi-Reference Combine: a row for every picture that is connected, before a run. The rows are
// kept as JSON in the node's widget "board", which the server reads (unifusion/board.py).
import { app } from "../../../scripts/app.js";
import { element, word } from "./words.js";

const NODE = "UniFusionMultiReferenceCombine";
const SOCKET = /(?:^|\.)image(\d+)$/;
const ROW = 52;
const SAMPLES = new URL("../samples/", import.meta.url);

const STYLE = `
.unifusion-board { display: flex; flex-direction: column; gap: 4px; font: 12px Inter, Arial, sans-serif;
  color: var(--fg-color, #ddd); overflow: hidden; }
.unifusion-board > div { flex: 0 0 48px; height: 48px; display: flex; align-items: center; gap: 5px; padding: 0 5px;
  box-sizing: border-box; border-radius: 6px; background: var(--comfy-input-bg, #222); }
.unifusion-board > div.off { opacity: 0.45; }
.unifusion-board > div.over { outline: 2px solid #3fb8af; outline-offset: -2px; }
.unifusion-board .grip { cursor: grab; opacity: 0.6; flex: 0 0 12px; user-select: none; }
.unifusion-board img, .unifusion-board .blank { width: 40px; height: 40px; flex: 0 0 40px; object-fit: contain;
  border-radius: 4px; background: #0004; }
.unifusion-board .number { flex: 0 0 47px; white-space: nowrap; }
.unifusion-board input { background: transparent; color: inherit; font: inherit; height: 26px; box-sizing: border-box;
  border: 1px solid var(--border-color, #4e4e4e); border-radius: 5px; padding: 0 5px; min-width: 0; }
.unifusion-board input[type="text"] { flex: 1 1 60px; }
.unifusion-board input[type="number"] { flex: 0 0 44px; width: 44px; text-align: center; appearance: textfield; }
.unifusion-board input[type="number"]::-webkit-inner-spin-button { appearance: none; margin: 0; }
.unifusion-board .share { display: flex; flex: 0 0 84px; align-items: center; gap: 2px; }
.unifusion-board .share input[type="number"] { flex: 1 1 0; width: 0; padding: 0 2px; }
.unifusion-board input[type="checkbox"] { flex: 0 0 16px; width: 16px; accent-color: #3fb8af; }
.unifusion-board button { flex: 0 0 22px; height: 26px; padding: 0; border: 1px solid var(--border-color, #4e4e4e);
  border-radius: 5px; background: transparent; color: inherit; cursor: pointer; }
.unifusion-board button:disabled { opacity: 0.3; cursor: default; }
.unifusion-board p { margin: 4px; opacity: 0.7; line-height: 16px; }
`;

/** Where a picture can be seen before a run, or null. */
function pictureAddress(node) {
  if (!node) return null;
  const named = (name) => node.widgets?.find((widget) => widget.name === name)?.value;
  if (node.type === "UniFusionSamplePicture") return new URL(`${encodeURIComponent(named("picture"))}.png`, SAMPLES).href;
  if (node.imgs?.[0]?.src) return node.imgs[0].src;
  const file = node.type === "LoadImage" ? named("image") : null;
  if (typeof file !== "string" || !file) return null;
  const [, path, kind] = /^(.*?)(?: \[(input|output|temp)\])?$/.exec(file);
  const parts = path.split("/");
  const query = new URLSearchParams({ filename: parts.pop(), subfolder: parts.join("/"), type: kind ?? "input" });
  return new URL(`../../../view?${query}`, import.meta.url).href;
}

/** Sockets of Vue nodes are drawn again when an array that they looked at while drawing has changed, and never for a label
 * alone (frontend 1.47). So a label looks at its node's array of sockets, from the moment the socket is there. */
export function watchLabels(nodeType) {
  const { onInputAdded } = nodeType.prototype;
  nodeType.prototype.onInputAdded = function (input) {
    onInputAdded?.call(this, input);
    let label = input.label;
    Object.defineProperty(input, "label", {
      configurable: true,
      enumerable: true,
      get: () => (this.inputs?.length, label),
      set: (next) => (label = next),
    });
  };
}

/** What a socket is called; the array that its label looks at grows by one and shrinks again at once. */
export function callSocket(node, input, label) {
  if (input.label === label) return;
  input.label = label;
  node.inputs.push(input);
  node.inputs.pop();
}

/** Whether a picture counts during the whole schedule. */
const whole = (row) => row.start === 0 && row.end === 1;

/** A row as it is kept: the share of the schedule only where it is one. */
const brief = ({ start, end, ...row }) => (whole({ start, end }) ? row : { ...row, start, end });

/** Names that a prompt may use: of the pictures that reach a node's socket "references". */
export function namesFor(node, depth = 0) {
  const link = node?.graph?.links?.get?.(node.inputs?.find((input) => input.name === "references")?.link);
  const from = link && depth < 20 ? node.graph.getNodeById(link.origin_id) : null;
  if (!from) return null; // nothing is connected: an @ is an @
  const before = namesFor(from, depth + 1) ?? [];
  const own = from.referenceBoard
    ? from.referenceBoard.rows.filter((row) => row.on && row.strength !== 0).map((row) => row.name)
    : [from.widgets?.find((widget) => widget.name === "label")?.value];
  const written = own.filter((name) => typeof name === "string" && name.trim());
  return [...before, ...written.map((name) => name.trim().replace(/[^\p{L}\p{N}_-]+/gu, "_").toLowerCase())];
}

class Board {
  constructor(node) {
    this.node = node;
    this.text = node.widgets.find((widget) => widget.name === "board");
    this.text.hidden = true;
    this.text.options.hidden = true;
    this.bar = element("div", { className: "unifusion-board" });
    for (const kind of ["pointerdown", "wheel", "dblclick"])
      this.bar.addEventListener(kind, (event) => event.stopPropagation());
    this.widget = node.addDOMWidget("reference_board", "unifusion_board", this.bar, { serialize: false, margin: 10 });
    this.widget.serialize = false;
    // Above the report, whichever of the two files the browser had first; neither is saved, so no value moves.
    const report = node.widgets.findIndex((widget) => widget.name === "shown_text");
    if (report >= 0) node.widgets.splice(report, 0, node.widgets.pop());
    this.widget.computeLayoutSize = undefined;
    this.widget.computeSize = () => [0, 20 + Math.max(1, this.shown ?? 1) * ROW];
  }

  /** Sockets with a picture, in the order of their numbers. */
  connected() {
    return (this.node.inputs ?? [])
      .map((input) => ({ input, number: Number(SOCKET.exec(input.name)?.[1] ?? -1) }))
      .filter(({ input, number }) => number >= 0 && input.link != null)
      .sort((a, b) => a.number - b.number)
      .map(({ input, number }) => ({ slot: `image${number}`, input }));
  }

  get kept() {
    try {
      const rows = JSON.parse(this.text.value || "[]");
      return Array.isArray(rows) ? rows.filter((row) => typeof row?.slot === "string") : [];
    } catch {
      return [];
    }
  }

  /** A row for each picture: the kept ones first, in their order. */
  get rows() {
    const slots = this.connected().map(({ slot }) => slot);
    const kept = this.kept.filter((row) => slots.includes(row.slot));
    const fresh = slots.filter((slot) => !kept.some((row) => row.slot === slot));
    return [...kept, ...fresh.map((slot) => ({ slot }))].map((row) => ({
      slot: row.slot,
      name: String(row.name ?? ""),
      strength: Number.isFinite(row.strength) ? row.strength : 1,
      on: row.on !== false,
      start: Number.isFinite(row.start) ? row.start : 0,
      end: Number.isFinite(row.end) ? row.end : 1,
    }));
  }

  keep(rows) {
    const neutral = rows.every(
      (row, index) =>
        !row.name && row.strength === 1 && row.on && whole(row) && row.slot === this.connected()[index]?.slot,
    );
    // Rows of pictures that are unplugged for a while are kept behind the others.
    const away = this.kept.filter((row) => !rows.some((one) => one.slot === row.slot));
    this.text.value = neutral && !away.length ? "" : JSON.stringify([...rows.map(brief), ...away]);
    this.draw();
    app.graph?.change?.();
  }

  change(slot, changes) {
    this.keep(this.rows.map((row) => (row.slot === slot ? { ...row, ...changes } : row)));
  }

  move(slot, to) {
    const rows = this.rows;
    const from = rows.findIndex((row) => row.slot === slot);
    if (from < 0 || to < 0 || to >= rows.length) return;
    rows.splice(to, 0, ...rows.splice(from, 1));
    this.keep(rows);
  }

  source(slot) {
    const input = this.connected().find((one) => one.slot === slot)?.input;
    const link = input && this.node.graph?.links?.get?.(input.link);
    return link ? this.node.graph.getNodeById(link.origin_id) : null;
  }

  draw() {
    const rows = this.rows;
    const before = this.node.inputs?.find((input) => input.name === "references")?.link != null;
    let number = 0;
    const drawn = rows.map((row, index) => {
      const read = row.on && row.strength !== 0;
      if (read) number += 1;
      // With references in front of it the picture's number is known only when these have been read.
      return this.row(row, index, rows.length, read ? `${before ? "…" : ""}image ${number}` : "–");
    });
    this.nameSockets(rows);
    if (!drawn.length) drawn.push(element("p", { textContent: word("boardEmpty") }));
    this.bar.replaceChildren(...drawn);
    const grown = (Math.max(1, rows.length) - Math.max(1, this.shown ?? 1)) * ROW;
    this.shown = rows.length;
    if (grown && !this.configuring) this.node.setSize([this.node.size[0], this.node.size[1] + grown]);
    this.node.setDirtyCanvas?.(true, true);
  }

  /** Sockets are called what the row, the sheet, the report and the prompt call the picture. */
  nameSockets(rows) {
    let number = 0;
    const names = new Map();
    for (const row of rows) names.set(row.slot, row.on && row.strength !== 0 ? `image ${(number += 1)}` : word("off"));
    for (const input of this.node.inputs ?? []) {
      const socket = SOCKET.exec(input.name);
      if (socket) callSocket(this.node, input, names.get(`image${socket[1]}`) ?? `image ${names.size + 1}`);
    }
  }

  row(row, index, count, number) {
    const address = pictureAddress(this.source(row.slot));
    const picture = address
      ? element("img", { src: address, alt: "", draggable: false })
      : element("div", { className: "blank" });
    const name = element("input", { type: "text", value: row.name, placeholder: word("name"), title: word("name") });
    name.dataset.field = "name";
    name.onchange = () => this.change(row.slot, { name: name.value.trim() });
    const strength = element("input", {
      type: "number",
      min: "-2",
      max: "10",
      step: "0.05",
      value: String(row.strength),
      title: word("strength"),
    });
    strength.dataset.field = "strength";
    strength.onchange = () => {
      const wanted = strength.value === "" ? 1 : Number(strength.value);
      this.change(row.slot, { strength: Math.min(10, Math.max(-2, wanted)) });
    };
    const share = (field, least, most) => {
      const made = element("input", { type: "number", min: "0", max: "100", step: "5", title: word(field) });
      made.value = String(Math.round(row[field] * 100));
      made.dataset.field = field;
      made.onchange = () => {
        const wanted = made.value === "" ? least : Number(made.value) / 100;
        const kept = field === "start" ? Math.min(wanted, row.end - 0.01) : Math.max(wanted, row.start + 0.01);
        this.change(row.slot, { [field]: Math.min(most, Math.max(0, kept)) });
      };
      return made;
    };
    const schedule = element("span", { className: "share", title: word("share") }, share("start", 0, 1), "–", share("end", 1, 1), "%");
    const on = element("input", { type: "checkbox", checked: row.on, title: word("on") });
    on.dataset.field = "on";
    on.onchange = () => this.change(row.slot, { on: on.checked });
    const step = (key, sign, by) => {
      const made = element("button", { type: "button", textContent: sign, title: word(key) });
      made.dataset.act = key;
      made.disabled = index + by < 0 || index + by >= count;
      made.onclick = () => this.move(row.slot, index + by);
      return made;
    };
    const grip = element("span", { className: "grip", textContent: "⠿", draggable: true });
    const line = element(
      "div",
      { className: row.on && row.strength !== 0 ? "" : "off" },
      grip,
      picture,
      element("span", { className: "number", textContent: number }),
      name,
      strength,
      schedule,
      on,
      step("up", "▲", -1),
      step("down", "▼", 1),
    );
    line.dataset.slot = row.slot;
    grip.ondragstart = (event) => {
      this.dragged = row.slot;
      event.dataTransfer.effectAllowed = "move";
      event.dataTransfer.setData("text/plain", row.slot);
      event.stopPropagation();
    };
    line.ondragover = (event) => {
      if (!this.dragged) return;
      event.preventDefault();
      event.stopPropagation();
      line.classList.add("over");
    };
    line.ondragleave = () => line.classList.remove("over");
    line.ondrop = (event) => {
      if (!this.dragged) return;
      event.preventDefault();
      event.stopPropagation();
      const slot = this.dragged;
      this.dragged = null;
      this.move(slot, index);
    };
    grip.ondragend = () => (this.dragged = null);
    return line;
  }
}

const drawAll = () => {
  for (const node of app.graph?.nodes ?? []) node.referenceBoard?.draw();
};

app.registerExtension({
  name: "UniFusion.Board",
  init() {
    document.head.append(element("style", { textContent: STYLE }));
  },
  beforeRegisterNodeDef(nodeType, definition) {
    if (definition.name !== NODE) {
      // A loader in front of a board that takes another picture: its thumbnail changes at once.
      if (definition.name !== "LoadImage" && definition.name !== "UniFusionSamplePicture") return;
      const { onNodeCreated } = nodeType.prototype;
      nodeType.prototype.onNodeCreated = function (...args) {
        onNodeCreated?.apply(this, args);
        const widget = this.widgets?.find((one) => one.name === "image" || one.name === "picture");
        if (!widget) return;
        const { callback } = widget;
        widget.callback = function (...given) {
          const result = callback?.apply(this, given);
          setTimeout(drawAll);
          return result;
        };
      };
      return;
    }
    watchLabels(nodeType);
    const { onNodeCreated, onConfigure, onConnectionsChange, configure } = nodeType.prototype;
    nodeType.prototype.onNodeCreated = function (...args) {
      onNodeCreated?.apply(this, args);
      this.referenceBoard = new Board(this);
      this.referenceBoard.draw();
    };
    nodeType.prototype.configure = function (...args) {
      if (this.referenceBoard) this.referenceBoard.configuring = true;
      try {
        return configure.apply(this, args);
      } finally {
        // Links and the nodes in front are there when the whole graph is.
        setTimeout(() => {
          this.referenceBoard?.draw();
          if (this.referenceBoard) this.referenceBoard.configuring = false;
        });
      }
    };
    nodeType.prototype.onConfigure = function (info) {
      onConfigure?.call(this, info);
      this.referenceBoard?.draw();
    };
    nodeType.prototype.onConnectionsChange = function (...args) {
      onConnectionsChange?.apply(this, args);
      if (this.referenceBoard && !this.referenceBoard.configuring) setTimeout(() => this.referenceBoard.draw());
    };
  },
  onNodeOutputsUpdated: drawAll,
});
