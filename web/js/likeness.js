// Shows what a Likeness node says about its own run (faces found, warnings, where a file was saved) on the node.
import { app } from "../../../scripts/app.js";
import { ComfyWidgets } from "../../../scripts/widgets.js";

const PREFIX = "Likeness_";
const WIDGET = "likeness_text";
const LETTERS_PER_LINE = 40; // of the text box in a node of usual width
const LINE_HEIGHT = 13; // pixels
const MOST_LINES = 12; // longer texts scroll

function addTextWidget(node) {
  const { widget } = ComfyWidgets.STRING(node, WIDGET, ["STRING", { multiline: true }], app);
  // A report, no setting: it goes neither into the prompt nor into a saved workflow.
  widget.serialize = false;
  widget.serializeValue = async () => undefined;
  Object.assign(widget.options, { serialize: false, read_only: true, hideInPanel: true });
  if (widget.element) {
    widget.element.readOnly = true;
  }
  widget.label = " ";
  return widget;
}

function heightOf(text) {
  const lines = text.split("\n").reduce((sum, line) => sum + Math.max(1, Math.ceil(line.length / LETTERS_PER_LINE)), 0);
  return 30 + LINE_HEIGHT * Math.min(lines, MOST_LINES);
}

function showText(node, output) {
  const text = [output?.text ?? []].flat().join("\n");
  const existing = node.widgets?.find((widget) => widget.name === WIDGET);
  if (!text && !existing) {
    return;
  }
  const widget = existing ?? addTextWidget(node);
  widget.value = text;
  widget.options.getMinHeight = () => heightOf(text);
  const [width, height] = node.computeSize();
  node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], height)]);
  node.setDirtyCanvas?.(true, true);
}

app.registerExtension({
  name: "Likeness.NodeText",
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!nodeData.name.startsWith(PREFIX)) {
      return;
    }
    const onExecuted = nodeType.prototype.onExecuted;
    nodeType.prototype.onExecuted = function (output) {
      onExecuted?.apply(this, arguments);
      showText(this, output);
    };
  },
  onNodeOutputsUpdated(outputs) {
    // Results that come back without a run, as when the user returns to a workflow's tab.
    for (const [id, output] of Object.entries(outputs)) {
      const node = app.graph?.getNodeById(id);
      if (node?.type?.startsWith(PREFIX)) {
        showText(node, output);
      }
    }
  },
});
