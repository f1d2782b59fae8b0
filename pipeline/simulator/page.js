// Keeps counts and requests fresh; the page is whole without it.
"use strict";

const PARTS = ["counts", "newest"];
const EVERY = 2000;

async function refresh() {
  const pulse = document.getElementById("pulse");
  try {
    const answer = await fetch("/_simulator/" + location.search, { signal: AbortSignal.timeout(5000) });
    if (!answer.ok) throw new Error(answer.status);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const id of PARTS) {
      const old = document.getElementById(id);
      if (old.contains(document.activeElement) || !getSelection().isCollapsed) continue;
      old.replaceWith(document.adoptNode(page.getElementById(id)));
    }
    pulse.textContent = "";
  } catch {
    pulse.textContent = "The simulator does not answer.";
  }
}

setInterval(() => document.hidden || refresh(), EVERY);
