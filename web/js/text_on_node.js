// Shows the text a UniFusion node reports on the node itself. The frontend does so by itself only for its own
// "Preview as Text"; this uses the same standard widget (a read-only multiline text), so both renderers draw it.
import { app } from "../../../scripts/app.js";
import { word } from "./words.js";

const NAME = "shown_text";

const reports = (definition) => definition.name !== "UniFusionVerifiRewrite" && definition.name.startsWith("UniFusion") && definition.output?.includes("STRING");

function addText(node) {
  const widget = app.widgets.STRING(node, NAME, ["STRING", { multiline: true }], app).widget;
  widget.label = " ";
  widget.value = "";
  // Neither saved in the graph nor sent to the server: it must not shift the values of the node's own widgets.
  widget.serialize = false;
  widget.options.serialize = false;
  widget.options.read_only = true;
  const element = widget.element;
  if (element) {
    element.readOnly = true;
    element.placeholder = word("afterRun");
  }
}

function showText(node, output) {
  const widget = node.widgets?.find((candidate) => candidate.name === NAME);
  if (widget && output?.text) widget.value = [output.text].flat().join("\n\n");
}

app.registerExtension({
  name: "UniFusion.TextOnNode",
  beforeRegisterNodeDef(nodeType, definition) {
    if (!reports(definition)) return;
    const { onNodeCreated, onExecuted } = nodeType.prototype;
    nodeType.prototype.onNodeCreated = function (...args) {
      onNodeCreated?.apply(this, args);
      addText(this);
    };
    nodeType.prototype.onExecuted = function (output) {
      onExecuted?.call(this, output);
      showText(this, output);
    };
  },
  // Coming back to a workflow tab restores the outputs without running again.
  onNodeOutputsUpdated(outputs) {
    for (const [id, output] of Object.entries(outputs)) {
      const node = app.graph?.getNodeById?.(Number(id));
      if (node && reports(node.constructor.nodeData ?? { name: "" })) showText(node, output);
    }
  },
});
