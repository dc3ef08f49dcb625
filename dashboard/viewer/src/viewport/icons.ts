// Line drawings of the tools, 18 × 18.
const draw = (inner: string): string =>
  `<svg viewBox="0 0 18 18" width="18" height="18" fill="none" stroke="currentColor" stroke-width="1.5" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">${inner}</svg>`;

export const ICONS: Record<string, string> = {
  scroll: draw('<path d="M9 2v14M6 5l3-3 3 3M6 13l3 3 3-3"/>'),
  window: draw('<circle cx="9" cy="9" r="6"/><path d="M9 3a6 6 0 0 1 0 12z" fill="currentColor"/>'),
  pan: draw('<path d="M9 2v14M2 9h14M7 4l2-2 2 2M7 14l2 2 2-2M4 7L2 9l2 2M14 7l2 2-2 2"/>'),
  zoom: draw('<circle cx="8" cy="8" r="5"/><path d="M12 12l4 4M6 8h4M8 6v4"/>'),
  LENGTH: draw('<path d="M3 15L15 3M1.500 13.500l3 3M13.500 1.500l3 3"/>'),
  ANGLE: draw('<path d="M3 15L13 3M3 15h13M8 9a7 7 0 0 1 2.500 6"/>'),
  RECTANGLE: draw('<rect x="3" y="4.500" width="12" height="9"/>'),
  ELLIPSE: draw('<ellipse cx="9" cy="9" rx="7" ry="5"/>'),
  PROBE: draw('<circle cx="9" cy="9" r="2"/><path d="M9 2v4M9 12v4M2 9h4M12 9h4"/>'),
  ARROW: draw('<path d="M15 15L4 4M4 10V4h6"/>'),
  invert: draw('<rect x="3" y="3" width="12" height="12"/><path d="M3 15V3h12z" fill="currentColor"/>'),
  flip: draw('<path d="M9 2v14M6 5L2 13h4zM12 5l4 8h-4z"/>'),
  rotate: draw('<path d="M14.500 9A5.500 5.500 0 1 1 12 4.400M12 1.500v3.200H8.800"/>'),
  reset: draw('<path d="M3 7V3h4M15 7V3h-4M3 11v4h4M15 11v4h-4"/>'),
  cine: draw('<path d="M5 3l10 6-10 6z"/>'),
  layout: draw('<rect x="2.500" y="3" width="13" height="12"/><path d="M9 3v12M2.500 9h13"/>'),
  mpr: draw('<path d="M9 2l6 3.500v7L9 16l-6-3.500v-7zM9 9l6-3.500M9 9L3 5.500M9 9v7"/>'),
  link: draw('<path d="M7 11l4-4M8 5l1.500-1.500a3.200 3.200 0 0 1 4.500 4.500L12.500 9.500M10 13l-1.500 1.500A3.200 3.200 0 0 1 4 10l1.500-1.500"/>'),
};
