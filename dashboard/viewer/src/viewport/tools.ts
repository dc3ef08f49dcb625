// Which tool each mouse button holds.
import {
  AngleTool, addTool, ArrowAnnotateTool, EllipticalROITool, Enums, init as initTools, LengthTool, PanTool, ProbeTool,
  RectangleROITool, StackScrollTool, ToolGroupManager, WindowLevelTool, ZoomTool, type Types,
} from "@cornerstonejs/tools";

import { lengthText, MEASURES, type Kind } from "./measuring";

const { MouseBindings, KeyboardBindings } = Enums;
const HANDS = { scroll: StackScrollTool.toolName, window: WindowLevelTool.toolName, pan: PanTool.toolName, zoom: ZoomTool.toolName } as const;
export type Hand = keyof typeof HANDS;
export type Choice = Hand | Kind;

let isReady = false;

export class Hands {
  readonly group: Types.IToolGroup;
  chosen: Choice = "scroll";

  constructor(askText: () => Promise<string>) {
    if (!isReady) {
      isReady = true;
      initTools();
      for (const tool of [StackScrollTool, WindowLevelTool, PanTool, ZoomTool, LengthTool, AngleTool, RectangleROITool, EllipticalROITool, ProbeTool, ArrowAnnotateTool]) addTool(tool);
    }
    ToolGroupManager.destroyToolGroup("firstread");
    this.group = ToolGroupManager.createToolGroup("firstread")!;
    for (const name of Object.values(HANDS)) this.group.addTool(name);
    for (const { tool } of Object.values(MEASURES)) this.group.addTool(tool, tool === LengthTool.toolName ? { getTextLines: lengthText } : tool === ArrowAnnotateTool.toolName ? { getTextCallback: (done: (text: string) => void) => void askText().then(done) } : {});
    this.choose("scroll");
  }

  choose(choice: Choice): void {
    this.chosen = choice;
    for (const { tool } of Object.values(MEASURES)) this.group.setToolPassive(tool, { removeAllBindings: true });
    for (const name of Object.values(HANDS)) this.group.setToolPassive(name, { removeAllBindings: true });
    const bind = (name: string, ...bindings: Types.IToolBinding[]): void => this.group.setToolActive(name, { bindings });
    const primary = { mouseButton: MouseBindings.Primary };
    const first = (hand: Hand): Types.IToolBinding[] => (choice === hand ? [primary] : []);
    bind(HANDS.window, { mouseButton: MouseBindings.Secondary }, ...first("window"));
    bind(HANDS.pan, { mouseButton: MouseBindings.Auxiliary }, { mouseButton: MouseBindings.Primary, modifierKey: KeyboardBindings.Shift }, ...first("pan"));
    bind(HANDS.zoom, { mouseButton: MouseBindings.Primary, modifierKey: KeyboardBindings.Ctrl }, ...first("zoom"));
    if (choice === "scroll") bind(HANDS.scroll, primary);
    else if (choice in MEASURES) bind(MEASURES[choice as Kind].tool, primary);
  }
}
