// Which of Cornerstone's two renderers draws. WebGL without a GPU (a virtual desktop, a server) draws a stack far more
// slowly than Cornerstone's own rendering on the CPU, which in turn knows no planes through a volume: then stacks are
// drawn by the one, planes by the other. Panes belong to an engine, so they are closed before it changes.
import { cache, getRenderingCapabilities, getRenderingEngine, getShouldUseCPURendering, init, RenderingEngine, setUseCPURendering } from "@cornerstonejs/core";

export const ENGINE = "firstread";

export class Renderer {
  engine: RenderingEngine;
  readonly hasWebGl: boolean;
  private readonly isSoftware: boolean;

  constructor() {
    init();
    const { webgl, softwareRasterizer } = getRenderingCapabilities();
    [this.hasWebGl, this.isSoftware] = [webgl, softwareRasterizer];
    getRenderingEngine(ENGINE)?.destroy();
    cache.purgeCache();
    setUseCPURendering(!webgl || this.isSoftware);
    this.engine = new RenderingEngine(ENGINE);
  }

  // with a GPU a flip turns the camera, on the CPU the picture
  get isGpu(): boolean {
    return !getShouldUseCPURendering();
  }

  forStacks(): void {
    this.use(!this.hasWebGl || this.isSoftware);
  }

  forPlanes(): void {
    this.use(!this.hasWebGl);
  }

  private use(isCpu: boolean): void {
    if (isCpu === getShouldUseCPURendering()) return;
    this.engine.destroy();
    setUseCPURendering(isCpu);
    this.engine = new RenderingEngine(ENGINE);
  }
}
