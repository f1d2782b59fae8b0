// Keeps what is marked data-live="MILLISECONDS" as the server has it (at data-from, else at the page's own
// address), and puts "/" on the search box.
"use strict";

const pulse = document.getElementById("pulse");

function say(text) {
  if (pulse && pulse.textContent !== text) pulse.textContent = text;
}

function key(node) {
  return node.nodeType === Node.ELEMENT_NODE ? node.getAttribute("data-key") : null;
}

function alike(here, there) {
  return here.nodeType === there.nodeType && here.nodeName === there.nodeName && key(here) === key(there);
}

// What a person has opened, or is looking at, is theirs.
function theirs(element, name) {
  return (name === "open" && element.nodeName === "DETAILS") || (name === "src" && element.nodeName === "IFRAME");
}

// Makes one tree like another by touching only what differs, so that focus, selection and scrolling stay.
function follow(here, there) {
  if (here.nodeType !== Node.ELEMENT_NODE) {
    if (here.nodeValue !== there.nodeValue) here.nodeValue = there.nodeValue;
    return;
  }
  for (const { name } of [...here.attributes]) {
    if (!there.hasAttribute(name) && !theirs(here, name)) here.removeAttribute(name);
  }
  for (const { name, value } of there.attributes) {
    if (here.getAttribute(name) !== value && !(theirs(here, name) && here.hasAttribute(name))) {
      here.setAttribute(name, value);
    }
  }
  followChildren(here, [...there.childNodes]);
}

// Children with a data-key stay the same nodes while others come and go before them.
function followChildren(here, wanted) {
  const keys = new Set(wanted.map(key).filter((name) => name !== null));
  let old = here.firstChild;
  for (const node of wanted) {
    while (old && key(old) !== null && !keys.has(key(old))) old = without(old);
    if (!old) here.append(document.importNode(node, true));
    else if (alike(old, node)) {
      follow(old, node);
      old = old.nextSibling;
    } else if (key(old) !== null) here.insertBefore(document.importNode(node, true), old);
    else {
      const fresh = document.importNode(node, true);
      old.replaceWith(fresh);
      old = fresh.nextSibling;
    }
  }
  while (old) old = without(old);
}

function without(node) {
  const next = node.nextSibling;
  node.remove();
  return next;
}

async function refresh(place, index) {
  const response = await fetch(place.dataset.from || location.href, { cache: "no-store", headers: { accept: "text/html" } });
  if (response.status === 401) return "signed out";
  if (!response.ok) return "waiting for the server";
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const fresh = page.querySelectorAll("[data-live]")[index];
  if (fresh) follow(place, fresh);
  return "live";
}

function keep(place, index) {
  let timer = 0, under_way = false;
  async function turn() {
    if (under_way || document.hidden) return;
    under_way = true;
    let news = "connection lost; trying again";
    try {
      news = await refresh(place, index);
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // what fetch says where nobody answers
    } finally {
      under_way = false;
      say(document.hidden ? "paused" : news);
      if (news !== "signed out" && !document.hidden) timer = setTimeout(turn, Number(place.dataset.live));
    }
  }
  document.addEventListener("visibilitychange", () => {
    clearTimeout(timer);
    if (document.hidden) say("paused");
    else turn();
  });
  say("live");
  timer = setTimeout(turn, Number(place.dataset.live));
}

document.querySelectorAll("[data-live]").forEach(keep);

document.addEventListener("keydown", (event) => {
  const search = document.getElementById("q");
  const typing = event.target instanceof Element && event.target.closest("input, textarea, select");
  if (event.key === "/" && search && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    search.focus();
    search.select();
  }
});
