/** Ticks for a page that nobody looks at. */
import script from "./ticker-script.js" with { type: "file" };

/** Calls `tick` each second while the page is hidden: then browsers run timers rarely, but not those of a worker. */
export function tickWhileHidden(tick: () => void): void {
  let worker: Worker | null = null;
  document.addEventListener("visibilitychange", () => {
    worker?.terminate();
    worker = document.visibilityState === "hidden" ? new Worker(new URL(script, import.meta.url)) : null;
    worker?.addEventListener("message", tick);
  });
}
