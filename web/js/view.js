// Templates open so that they can be read. The frontend shows a template whole with a quarter of the window left empty, and
// the classic renderer draws no text below a zoom of about 0.6: in a window of 1400 pixels all texts would be gone.
import { app } from "../../../scripts/app.js";

const READABLE = 0.6;
const BARS = { left: 70, top: 60, right: 20, bottom: 60 }; // of the frontend, over the canvas

let before = null; // the view while another graph was shown: an undo opens a graph and leaves the view alone

const view = ({ scale, offset }) => [scale, ...offset].join(" ");

app.registerExtension({
  name: "UniFusion.View",
  beforeConfigureGraph() {
    before = app.canvas ? view(app.canvas.ds) : null;
  },
  afterConfigureGraph() {
    const { ds, canvas } = app.canvas ?? {};
    if (!ds || view(ds) === before) return;
    const nodes = app.graph?.nodes ?? [];
    const wanted = app.graph?.extra?.ds?.scale; // how the graph was saved; a creator's own graph opens just so
    if (!(wanted >= READABLE) || !(ds.scale < READABLE) || !nodes.some((node) => node.type.startsWith("UniFusion"))) return;
    const boxes = nodes.map((node) => [node.pos[0], node.pos[1] - 30, node.pos[0] + node.size[0], node.pos[1] + node.size[1]]);
    const end = (side) => Math[side < 2 ? "min" : "max"](...boxes.map((box) => box[side]));
    const [left, top, right, bottom] = [0, 1, 2, 3].map(end);
    const room = [canvas.clientWidth - BARS.left - BARS.right, canvas.clientHeight - BARS.top - BARS.bottom];
    const whole = Math.min(room[0] / (right - left), room[1] / (bottom - top));
    ds.scale = Math.min(wanted, Math.max(READABLE, whole));
    const free = [room[0] / ds.scale - (right - left), room[1] / ds.scale - (bottom - top)];
    // In the middle, or from its beginning where it is larger than the window.
    ds.offset[0] = BARS.left / ds.scale + Math.max(0, free[0] / 2) - left;
    ds.offset[1] = BARS.top / ds.scale + Math.max(0, free[1] / 2) - top;
    app.canvas.setDirty(true, true);
  },
});
