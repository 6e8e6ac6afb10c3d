// Saved sizes survive loading, new nodes come large enough to be read, and the pack's two socket types have colours.
import { app } from "../../../scripts/app.js";

const COLOURS = { UNIFUSION_HIDDEN_STATES: "#e0559b", UNIFUSION_REFERENCES: "#3fb8af" };
const SIZES = {
  UniFusionLoadModel: [320, 130],
  UniFusionSamplePicture: [320, 110],
  UniFusionRegion: [340, 220],
  UniFusionGuider: [340, 180],
  UniFusionVLMEncode: [420, 420],
  UniFusionReference: [340, 240],
  UniFusionMultiReferenceCombine: [540, 560],
  UniFusionLayerwiseAttentionPool: [360, 320],
  UniFusionDiTSampler: [340, 280],
  UniFusionInspect: [620, 640],
  UniFusionCompare: [400, 420],
  UniFusionLabelledSheet: [360, 300],
  UniFusionSavePreset: [360, 300],
  UniFusionSaveConditioning: [360, 240],
  UniFusionLoadConditioning: [400, 300],
};

function colourSockets() {
  const canvas = app.canvas?.constructor;
  for (const [type, colour] of Object.entries(COLOURS)) {
    if (app.canvas?.default_connection_color_byType) app.canvas.default_connection_color_byType[type] = colour;
    if (canvas?.link_type_colors) canvas.link_type_colors[type] = colour;
    document.documentElement.style.setProperty(`--color-datatype-${type}`, colour);
  }
}

app.registerExtension({
  name: "UniFusion.SizesAndColours",
  setup() {
    colourSockets();
    // A change of the colour palette empties the colours of every type it does not know.
    new MutationObserver(() => {
      const missing = Object.keys(COLOURS).some(
        (type) => !document.documentElement.style.getPropertyValue(`--color-datatype-${type}`),
      );
      if (missing) colourSockets();
    }).observe(document.documentElement, { attributes: true, attributeFilter: ["style"] });
  },
  beforeRegisterNodeDef(nodeType, definition) {
    if (!definition.name.startsWith("UniFusion")) return;
    const { onNodeCreated, onConfigure } = nodeType.prototype;
    nodeType.prototype.onNodeCreated = function (...args) {
      onNodeCreated?.apply(this, args);
      const [width, height] = SIZES[definition.name] ?? [0, 0];
      this.setSize([Math.max(this.size[0], width), Math.max(this.size[1], height)]);
    };
    // A dynamic combo sets its node to the least height while its value is restored.
    nodeType.prototype.onConfigure = function (info) {
      onConfigure?.call(this, info);
      if (info?.size) this.setSize([info.size[0], info.size[1]]);
    };
  },
});
