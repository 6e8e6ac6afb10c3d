// Where pictures have names, an @ in a prompt offers them; a name that no picture has is said while one types.
// And plain picture sockets are counted from 1, as prompts and reports count them.
import { app } from "../../../scripts/app.js";
import { namesFor } from "./board.js";
import { element, word } from "./words.js";

const PROMPTS = { UniFusionVerifiRewrite: ["prompt", "edited_text"], UniFusionVLMEncode: ["prompt"] };
const TYPED = /(?<![\p{L}\p{N}_@])@([\p{L}\p{N}_-]*)$/u;
const NAMED = /(?<![\p{L}\p{N}_@])@(\p{L}[\p{L}\p{N}_-]*)/gu;
const SOCKET = /(?:^|\.)image(\d+)$/;

const STYLE = `
.unifusion-names { position: fixed; z-index: 10000; display: flex; flex-direction: column; gap: 2px; padding: 4px;
  min-width: 120px; max-width: 320px; border-radius: 6px; border: 1px solid var(--border-color, #4e4e4e);
  background: var(--comfy-menu-bg, #353535); color: var(--fg-color, #ddd); font: 12px Inter, Arial, sans-serif;
  box-shadow: 0 4px 14px #0008; }
.unifusion-names[hidden] { display: none; }
.unifusion-names button { text-align: left; padding: 4px 8px; border: 0; border-radius: 4px; background: transparent;
  color: inherit; font: inherit; cursor: pointer; overflow: hidden; text-overflow: ellipsis; }
.unifusion-names button[aria-selected="true"], .unifusion-names button:hover { background: #3fb8af; color: #062b29; }
.unifusion-names p { margin: 2px 6px; color: #ffb86b; }
`;

let popup = null;
let open = null; // {box, at, names, chosen} while names are offered

/** The node and the widget that a text box on the screen belongs to, in either renderer. */
function ownerOf(box) {
  for (const node of app.canvas?.graph?.nodes ?? app.graph?.nodes ?? [])
    for (const name of PROMPTS[node.type] ?? [])
      if (node.widgets?.find((widget) => widget.name === name)?.element === box) return node;
  const id = box.closest?.("[data-node-id]")?.dataset.nodeId;
  const node = id === undefined ? null : (app.canvas?.graph ?? app.graph)?.getNodeById?.(id) ?? app.graph?.getNodeById?.(Number(id));
  return node && PROMPTS[node.type] ? node : null;
}

function close() {
  open = null;
  if (popup) popup.hidden = true;
}

function show(box, ...lines) {
  const place = box.getBoundingClientRect();
  popup.replaceChildren(...lines);
  popup.style.left = `${Math.max(4, place.left)}px`;
  popup.style.top = `${Math.min(place.bottom + 2, window.innerHeight - 160)}px`;
  popup.hidden = false;
}

function insert(name) {
  const { box, at } = open;
  const end = box.selectionStart;
  close();
  box.focus();
  box.setRangeText(`@${name} `, at, end, "end");
  box.dispatchEvent(new Event("input", { bubbles: true }));
}

function mark() {
  popup.querySelectorAll("button").forEach((made, index) => made.setAttribute("aria-selected", String(index === open.chosen)));
}

function typed(box) {
  const node = ownerOf(box);
  const names = node && namesFor(node);
  if (!names) return close();
  const before = box.value.slice(0, box.selectionStart);
  const begun = TYPED.exec(before)?.[1];
  const offered = begun === undefined ? [] : [...new Set(names)].filter((name) => name.startsWith(begun.toLowerCase()));
  if (offered.length && !(offered.length === 1 && offered[0] === begun.toLowerCase())) {
    const buttons = offered.map((name) => {
      const made = element("button", { type: "button", textContent: `@${name}` });
      made.onpointerdown = (event) => {
        event.preventDefault(); // the box keeps its cursor
        insert(name);
      };
      return made;
    });
    show(box, ...buttons);
    open = { box, at: box.selectionStart - begun.length - 1, names: offered, chosen: 0 };
    return mark();
  }
  close();
  const unknown = [...box.value.matchAll(NAMED)].map((match) => match[1]).filter((name) => !names.includes(name.toLowerCase()));
  if (unknown.length) {
    const known = names.length ? names.map((name) => `@${name}`).join(", ") : "–";
    show(box, element("p", { textContent: `${word("noPicture")} @${unknown[0]} (${known})` }));
  }
}

function pressed(event) {
  if (!open || event.target !== open.box) return;
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (step) {
    open.chosen = (open.chosen + step + open.names.length) % open.names.length;
    mark();
  } else if (event.key === "Enter" || event.key === "Tab") insert(open.names[open.chosen]);
  else if (event.key === "Escape") close();
  else return;
  event.preventDefault();
  event.stopPropagation();
}

function countFromOne(node) {
  for (const input of node.inputs ?? []) {
    const socket = SOCKET.exec(input.name);
    if (socket) input.label = `image ${Number(socket[1]) + 1}`;
  }
}

app.registerExtension({
  name: "UniFusion.Names",
  init() {
    popup = element("div", { className: "unifusion-names", hidden: true });
    document.head.append(element("style", { textContent: STYLE }));
    document.body.append(popup);
    document.addEventListener("input", (event) => event.target?.tagName === "TEXTAREA" && typed(event.target), true);
    document.addEventListener("keydown", pressed, true);
    document.addEventListener("focusout", close, true);
  },
  beforeRegisterNodeDef(nodeType, definition) {
    if (!definition.name.startsWith("UniFusion") || definition.name === "UniFusionMultiReferenceCombine") return;
    const inputs = { ...definition.input?.required, ...definition.input?.optional };
    if (!Object.values(inputs).some(([kind]) => kind === "COMFY_AUTOGROW_V3")) return;
    const { onNodeCreated, onConfigure, onConnectionsChange, addInput } = nodeType.prototype;
    const then = (before) =>
      function (...args) {
        const result = before?.apply(this, args);
        countFromOne(this); // at once: Vue nodes take a label when they first show a socket
        setTimeout(() => countFromOne(this));
        return result;
      };
    nodeType.prototype.addInput = then(addInput);
    nodeType.prototype.onNodeCreated = then(onNodeCreated);
    nodeType.prototype.onConfigure = then(onConfigure);
    nodeType.prototype.onConnectionsChange = then(onConnectionsChange);
  },
});
