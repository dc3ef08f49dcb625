// The dashboard's one script. Every page also works without it; this makes the common moves fast.
import htmx from "htmx.org";

import { startAsking } from "./asking/start";
import { startCritical } from "./critical/start";
import { startKeys } from "./desk/keys";
import { startDesk } from "./desk/start";
import { startIdentity } from "./identity/start";
import { startQuality } from "./quality/start";
import { startRunning } from "./running/start";
import { startSigning } from "./signing/start";
import { startViewer } from "./slices/viewer";
import { startViewport } from "./viewport/start";
import { startTimers, startWorklist } from "./worklist/live";

document.documentElement.classList.add("js");

const perRoom = [startDesk, startAsking, startCritical, startIdentity, startQuality, startRunning, startSigning, startViewport];

htmx.onLoad((loaded) => {
  const element = loaded as Element;
  const viewer = element.matches("#viewer") ? element : element.querySelector("#viewer");
  if (viewer instanceof HTMLElement) startViewer(viewer);
  for (const start of perRoom) start(element);
});

startWorklist();
startTimers();
startKeys();
