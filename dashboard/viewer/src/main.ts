// The dashboard's one script. Every page also works without it; this makes the common moves fast.
import htmx from "htmx.org";

import { startEditor } from "./editor";
import { startKeys } from "./keys";
import { startViewer } from "./viewer";
import { showTimers, startTimers, startWorklist } from "./worklist";

document.documentElement.classList.add("js");

htmx.onLoad((loaded) => {
  const element = loaded as Element;
  const viewer = element.matches("#viewer") ? element : element.querySelector("#viewer");
  if (viewer instanceof HTMLElement) startViewer(viewer);
  if (element.matches("#timers")) showTimers(element);
});

startEditor();
startWorklist();
startTimers();
startKeys();
