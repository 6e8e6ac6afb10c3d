// The prompt studio of VERIFI Rewrite. The text that was written stands in the node's own widget "edited_text" and can
// be changed there; a changed text is locked. Only a locked text is sent to the server or saved in the widget's place, so
// graphs mean the same with and without this file. What was written, and the history, live in a property of the node.
// The server writes the same property into the workflow of the pictures (unifusion/comfy_bridge/actions/studio.py).
import { app } from "../../../scripts/app.js";
import { element, word } from "./words.js";

const NODE = "UniFusionVerifiRewrite";
const STATE = "verifi";
const KEPT = 20;
const SIZE = [480, 780];
const COLOURS = {
  locked: { color: "#5c4a12", bgcolor: "#40350f" },
  stale: { color: "#8a3412", bgcolor: "#5a240f" },
};

const STYLE = `
.unifusion-studio { display: flex; flex-direction: column; gap: 4px; font: 12px Inter, Arial, sans-serif;
  color: var(--fg-color, #ddd); box-sizing: border-box; overflow: hidden; }
.unifusion-studio > div { flex: 0 0 auto; }
.unifusion-studio .row { display: flex; flex-wrap: nowrap; gap: 4px; }
.unifusion-studio button { flex: 1 1 auto; min-width: 0; height: 26px; padding: 0 6px; border: 1px solid
  var(--border-color, #4e4e4e); border-radius: 6px; background: var(--comfy-input-bg, #222); color: inherit;
  font: inherit; cursor: pointer; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.unifusion-studio button:hover:not(:disabled) { filter: brightness(1.35); }
.unifusion-studio button:disabled { opacity: 0.4; cursor: default; }
.unifusion-studio button[aria-pressed="true"] { background: #b8860b; color: #fff; }
.unifusion-studio button[aria-expanded="true"] { border-color: currentColor; }
.unifusion-studio .status { border-radius: 6px; padding: 3px 8px; background: var(--comfy-input-bg, #222);
  line-height: 16px; overflow: hidden; white-space: nowrap; text-overflow: ellipsis; height: 22px;
  box-sizing: border-box; }
.lg-node-widget .unifusion-studio [data-act="more"] { display: none; } /* Vue nodes have a button of their own */
.unifusion-studio .status.locked { background: #b8860b; color: #fff; }
.unifusion-studio .status.stale { background: #d2491a; color: #fff; font-weight: bold; }
.unifusion-studio .picks { align-items: center; }
.unifusion-studio .picks[hidden] { display: none; }
.unifusion-studio .picks span { flex: 0 0 auto; opacity: 0.7; }
.unifusion-studio .panel { height: 150px; overflow: auto; border-radius: 6px; padding: 4px; box-sizing: border-box;
  background: var(--comfy-input-bg, #222); }
.unifusion-studio .panel[hidden] { display: none; }
.unifusion-studio pre { margin: 0; font: 11px/15px Inter, Arial, sans-serif; white-space: pre-wrap;
  overflow-wrap: anywhere; user-select: text; }
.unifusion-studio .panel button { display: block; width: 100%; height: auto; margin-bottom: 4px; padding: 4px 6px;
  text-align: left; white-space: normal; }
.unifusion-studio .panel small { display: block; opacity: 0.65; overflow: hidden; white-space: nowrap;
  text-overflow: ellipsis; }
`;
const PANEL = 154; // its height with the gap
const CLOSED = 102; // of the bar with both panels closed, margins included
const PICKS = 30; // height of the row of variations with its gap

class Studio {
  constructor(node) {
    this.node = node;
    this.text = this.widget("edited_text");
    this.quiet = false; // true while this file, and not the creator, sets the text
    this.open = null;
    this.addBar();
    this.watch("edited_text", () => this.edited());
    for (const name of ["prompt", "as_written", "sampling", "system_prompt"]) this.watch(name, () => this.refresh());
    this.watch("variations", () => this.wantSeveral());
    this.text.serializeValue = () => (this.locked ? this.text.value : "");
    this.text.label = word("text");
    if (this.text.element) this.text.element.placeholder = word("text");
  }

  widget(name) {
    return this.node.widgets.find((one) => one.name === name);
  }

  get state() {
    const kept = this.node.properties[STATE];
    return kept && typeof kept === "object" ? kept : {};
  }

  keep(changes) {
    // A new object every time: the old one may belong to a saved copy of the graph.
    this.node.properties[STATE] = { ...this.state, ...changes };
  }

  get locked() {
    return Boolean(this.state.locked) && Boolean(this.text.value);
  }

  linked(name) {
    return this.node.inputs?.find((input) => input.name === name)?.link != null;
  }

  get stale() {
    return this.locked && !this.linked("prompt") && this.widget("prompt").value !== (this.state.prompt ?? "");
  }

  get history() {
    const kept = Array.isArray(this.state.history) ? this.state.history : [];
    return kept.filter((entry) => typeof entry?.text === "string");
  }

  /** What the pictures of the last run were drawn from, when it wrote several texts. */
  get variations() {
    const kept = Array.isArray(this.state.variations) ? this.state.variations : [];
    return kept.filter((entry) => typeof entry?.text === "string").slice(0, 8);
  }

  watch(name, act) {
    const widget = this.widget(name);
    if (!widget) return;
    const before = widget.callback;
    widget.callback = function (...args) {
      const result = before?.apply(this, args);
      act();
      return result;
    };
  }

  show(text) {
    this.quiet = true;
    try {
      this.text.value = text;
    } finally {
      this.quiet = false;
    }
  }

  /** The creator has typed into the text. */
  edited() {
    if (this.quiet || this.configuring) return;
    const text = this.text.value;
    if (this.locked || text !== (this.state.text ?? "")) this.keep({ locked: Boolean(text), text });
    this.refresh();
  }

  addBar() {
    const button = (key, act) => {
      const made = element("button", { type: "button", textContent: word(key), onclick: () => act() });
      made.dataset.act = key;
      return made;
    };
    this.buttons = {
      lock: button("lock", () => this.setLocked(!this.locked)),
      again: button("again", () => this.writeAgain()),
      asPrompt: button("asPrompt", () => this.useAsPrompt()),
      history: button("history", () => this.toggle("history")),
      report: button("report", () => this.toggle("report")),
      more: button("more", () => this.toggleMore()),
    };
    this.buttons.lock.title = word("lockTip");
    this.buttons.again.title = word("againTip");
    this.buttons.asPrompt.title = word("asPromptTip");
    this.status = element("div", { className: "status" });
    this.picks = element("div", { className: "row picks", hidden: true });
    this.panels = {
      history: element("div", { className: "panel", hidden: true }),
      report: element("div", { className: "panel", hidden: true }, element("pre")),
    };
    const { lock, again, asPrompt, history, report, more } = this.buttons;
    this.bar = element(
      "div",
      { className: "unifusion-studio" },
      this.status,
      this.picks,
      element("div", { className: "row" }, lock, again, asPrompt),
      element("div", { className: "row" }, history, report, more),
      this.panels.history,
      this.panels.report,
    );
    for (const kind of ["pointerdown", "wheel", "dblclick"])
      this.bar.addEventListener(kind, (event) => event.stopPropagation());
    const widget = this.node.addDOMWidget("studio", "unifusion_studio", this.bar, { serialize: false, margin: 10 });
    widget.serialize = false;
    widget.computeLayoutSize = undefined; // of a fixed height, so that the two texts share the room that is left
    widget.computeSize = () => [0, CLOSED + (this.picks.hidden ? 0 : PICKS) + (this.open ? PANEL : 0)];
    this.barWidget = widget;
  }

  toggle(name) {
    const opened = this.open === name ? null : name;
    const change = (opened ? PANEL : 0) - (this.open ? PANEL : 0);
    this.open = opened;
    for (const [key, panel] of Object.entries(this.panels)) panel.hidden = key !== opened;
    for (const key of ["history", "report"]) this.buttons[key].setAttribute("aria-expanded", String(key === opened));
    this.node.setSize([this.node.size[0], this.node.size[1] + change]);
    this.refresh();
  }

  /** Several texts differ only when they are drawn by chance. */
  wantSeveral() {
    const sampling = this.widget("sampling");
    const several = Number(this.widget("variations")?.value ?? 1) > 1;
    if (several && !this.configuring && sampling?.value === "greedy" && !this.linked("sampling")) {
      sampling.value = "sample";
      sampling.callback?.("sample");
    }
    this.refresh();
  }

  toggleMore() {
    this.node.showAdvanced = !this.node.showAdvanced;
    this.node.setSize([this.node.size[0], Math.max(this.node.size[1], this.node.computeSize()[1])]);
    this.refresh();
  }

  setLocked(locked) {
    const changes = { locked, text: this.text.value };
    // Locking says: this text belongs to what stands in the prompt now, unless it was written for something else.
    if (locked && this.state.prompt === undefined) changes.prompt = this.widget("prompt").value;
    this.keep(changes);
    this.refresh();
  }

  writeAgain() {
    const set = (name, value) => {
      const widget = this.widget(name);
      if (!widget || widget.value === value || this.linked(name)) return;
      widget.value = value;
      widget.callback?.(value);
    };
    set("as_written", false);
    set("sampling", "sample");
    set("seed", Math.floor(Math.random() * 2 ** 32));
    this.keep({ locked: false });
    this.refresh();
    return app.queuePrompt(0, 1);
  }

  useAsPrompt() {
    const prompt = this.widget("prompt");
    this.keep({ locked: false });
    prompt.value = this.text.value;
    prompt.callback?.(prompt.value);
    this.refresh();
  }

  /** Back to a text of the history: it is locked, with the prompt and the seed it was written for. */
  goBack(entry) {
    this.show(entry.text);
    this.keep({ locked: true, text: entry.text, prompt: entry.prompt ?? "", seed: entry.seed });
    this.refresh();
  }

  executed(output) {
    const report = output?.report?.[0];
    if (report !== undefined) this.keep({ report });
    const texts = (output?.text ?? []).filter((text) => typeof text === "string");
    if (texts.length) {
      const prompt = output.prompt?.[0] ?? "";
      const made = texts.map((text, index) => ({ text, prompt, seed: output.seed?.[index] ?? 0 }));
      for (const entry of [...made].reverse()) {
        const older = this.history.filter((one) => one.text !== entry.text || one.prompt !== prompt);
        this.keep({ history: [entry, ...older].slice(0, KEPT) });
      }
      const each = made.map(({ text, seed }, index) => ({ text, seed, report: output.report?.[index] ?? "" }));
      // A run of one of several, locked, leaves the others to be chosen.
      const chosen = this.locked && this.variations.some((entry) => entry.text === texts[0]);
      if (each.length > 1 || !chosen) this.keep({ variations: each.length > 1 ? each : [] });
      // What was locked or typed while the run went on is the creator's; a wildcard is resolved at every run.
      if (!this.locked) {
        const written = this.widget("prompt").value;
        const [{ text, seed }] = made;
        this.keep({ text, seed, prompt: /[{}]/.test(written) ? written : prompt });
        this.show(text);
      }
    }
    this.refresh();
  }

  /** The text of one of the pictures: it is locked, so that the next run draws this one alone. */
  pick(entry) {
    this.keep({ report: entry.report || this.state.report });
    this.goBack({ text: entry.text, seed: entry.seed, prompt: this.state.prompt ?? "" });
  }

  listPicks() {
    const { variations } = this;
    const buttons = variations.map((entry, index) => {
      const made = element("button", { type: "button", textContent: String(index + 1), onclick: () => this.pick(entry) });
      made.title = `${word("picture")} ${index + 1} · ${word("seed")} ${entry.seed ?? 0}\n${entry.text}`;
      made.setAttribute("aria-pressed", String(this.text.value === entry.text));
      return made;
    });
    const hidden = buttons.length < 2;
    this.picks.replaceChildren(...(hidden ? [] : [element("span", { textContent: word("texts") }), ...buttons]));
    if (this.picks.hidden === hidden) return;
    this.picks.hidden = hidden;
    if (!this.configuring) this.node.setSize([this.node.size[0], this.node.size[1] + (hidden ? -PICKS : PICKS)]);
  }

  /** Outputs come back with a workflow tab; newer texts of the creator stay. */
  restored(output) {
    const known = (text) => typeof text !== "string" || this.history.some((entry) => entry.text === text);
    if (!(output?.text ?? []).every(known)) this.executed(output);
  }

  configured(info) {
    const given = this.text.value; // what the graph saved in the widget is a locked text
    const kept = this.state;
    if (given) this.keep({ locked: true, text: given, prompt: kept.prompt ?? this.widget("prompt").value });
    else if (kept.locked || kept.text) this.keep({ locked: false });
    this.show(given || (typeof kept.text === "string" ? kept.text : ""));
    this.refresh();
  }

  serialized(saved) {
    const index = this.node.widgets.indexOf(this.text);
    if (!this.locked && saved.widgets_values && index >= 0) saved.widgets_values[index] = "";
  }

  hide(name, hidden) {
    const widget = this.widget(name);
    if (!widget || Boolean(widget.hidden) === hidden) return false;
    widget.hidden = hidden;
    widget.options.hidden = hidden;
    return true;
  }

  refresh() {
    const { lock, again, asPrompt, more } = this.buttons;
    const from = this.linked("edited_text"), asWritten = Boolean(this.widget("as_written")?.value);
    const locked = this.locked && !from, stale = this.stale && !from && !asWritten;
    const key = asWritten ? "asWritten" : from ? "linked" : stale ? "stale" : locked ? "locked" : "free";
    this.status.textContent = word(key);
    this.status.title = word(key);
    this.status.className = `status ${stale ? "stale" : locked && !asWritten ? "locked" : ""}`;
    lock.textContent = word(locked ? "unlock" : "lock");
    lock.setAttribute("aria-pressed", String(locked));
    lock.disabled = from || !this.text.value;
    again.disabled = from;
    asPrompt.disabled = from || this.linked("prompt") || !this.text.value;
    more.textContent = word(this.node.showAdvanced ? "fewer" : "more");
    this.paint(asWritten ? null : stale ? "stale" : locked ? "locked" : null);

    this.listPicks();
    const seed = this.widget("seed");
    if (seed) seed.disabled = this.widget("sampling")?.value === "greedy";
    const own = this.widget("system_prompt")?.value !== "custom" && !this.linked("custom_system_prompt");
    if (this.hide("custom_system_prompt", own)) this.node.widgets = [...this.node.widgets]; // Vue nodes look again
    // Vue nodes hide what is advanced by themselves; the classic renderer leaves it in sight.
    for (const widget of this.node.widgets)
      if (widget.options?.advanced) widget.hidden = !this.node.showAdvanced && !this.linked(widget.name);

    if (this.open === "report") this.panels.report.firstChild.textContent = this.state.report || word("reportEmpty");
    if (this.open === "history") this.listHistory();
    this.node.setDirtyCanvas?.(true, true);
  }

  listHistory() {
    const rows = this.history.map((entry) => {
      const about = `${word("seed")} ${entry.seed ?? 0} · ${entry.prompt ?? ""}`;
      return element(
        "button",
        { type: "button", title: entry.text, onclick: () => this.goBack(entry) },
        element("small", { textContent: about }),
        element("span", { textContent: entry.text }),
      );
    });
    this.panels.history.replaceChildren(...(rows.length ? rows : [element("pre", { textContent: word("historyEmpty") })]));
  }

  /** The node's own colour says the lock from afar; the creator's colour comes back with the unlock. */
  paint(name) {
    const { node } = this;
    const mine = Object.values(COLOURS).some((one) => one.color === node.color && one.bgcolor === node.bgcolor);
    if (name && !mine) this.keep({ colour: { color: node.color ?? null, bgcolor: node.bgcolor ?? null } });
    const wanted = name ? COLOURS[name] : mine ? this.state.colour ?? {} : null;
    if (!wanted || (node.color === wanted.color && node.bgcolor === wanted.bgcolor)) return;
    node.color = wanted.color ?? undefined;
    node.bgcolor = wanted.bgcolor ?? undefined;
  }
}

app.registerExtension({
  name: "UniFusion.Studio",
  init() {
    document.head.append(element("style", { textContent: STYLE }));
  },
  beforeRegisterNodeDef(nodeType, definition) {
    if (definition.name !== NODE) return;
    const { onNodeCreated, onExecuted, onConfigure, onSerialize, onConnectionsChange, configure } = nodeType.prototype;
    nodeType.prototype.onNodeCreated = function (...args) {
      onNodeCreated?.apply(this, args);
      this.studio = new Studio(this);
      this.studio.refresh();
      this.setSize([Math.max(this.size[0], SIZE[0]), Math.max(this.size[1], SIZE[1])]);
    };
    nodeType.prototype.configure = function (...args) {
      if (this.studio) this.studio.configuring = true;
      try {
        return configure.apply(this, args);
      } finally {
        if (this.studio) this.studio.configuring = false;
      }
    };
    nodeType.prototype.onConfigure = function (info) {
      onConfigure?.call(this, info);
      this.studio?.configured(info);
    };
    nodeType.prototype.onSerialize = function (saved) {
      onSerialize?.call(this, saved);
      this.studio?.serialized(saved);
    };
    nodeType.prototype.onConnectionsChange = function (...args) {
      onConnectionsChange?.apply(this, args);
      if (!this.studio?.configuring) this.studio?.refresh();
    };
    nodeType.prototype.onExecuted = function (output) {
      onExecuted?.call(this, output);
      this.studio?.executed(output);
    };
  },
  onNodeOutputsUpdated(outputs) {
    for (const [id, output] of Object.entries(outputs)) app.graph?.getNodeById?.(Number(id))?.studio?.restored(output);
  },
});
