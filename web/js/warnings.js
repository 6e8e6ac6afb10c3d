// What a node wants its creator to know after a run, as a message of the frontend's own; each sentence once.
import { app } from "../../../scripts/app.js";

app.registerExtension({
  name: "UniFusion.Warnings",
  beforeRegisterNodeDef(nodeType, definition) {
    if (!definition.name.startsWith("UniFusion")) return;
    const { onExecuted } = nodeType.prototype;
    nodeType.prototype.onExecuted = function (output) {
      onExecuted?.call(this, output);
      this.unifusionWarned ??= new Set();
      for (const detail of output?.warning ?? []) {
        if (typeof detail !== "string" || this.unifusionWarned.has(detail)) continue;
        this.unifusionWarned.add(detail);
        app.extensionManager.toast.add({ severity: "warn", summary: this.title, detail, life: 15000 });
      }
    };
  },
});
