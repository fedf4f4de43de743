// Keeps what is in #live as the server has it, without loading the page again: what somebody has opened, or is about to
// press, stays where it is.
"use strict";

(() => {
  const live = document.getElementById("live");
  const news = document.getElementById("news");
  const silence = document.getElementById("silence");
  const gone = document.getElementById("gone");
  const MOVING = 2000;
  const RESTING = 15000;
  const SLOWEST = 60000;
  let failures = 0;
  let tag = "";
  let timer = 0;
  let asking = false;

  const same = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && (a.id || "") === (b.id || "");

  const adjust = (old, fresh) => {
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
      return;
    }
    for (const {name, value} of [...fresh.attributes]) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    // "open" is the reader's doing.
    for (const {name} of [...old.attributes]) if (name !== "open" && !fresh.hasAttribute(name)) old.removeAttribute(name);
    children(old, fresh);
  };

  const children = (old, fresh) => {
    let place = old.firstChild;
    for (const wanted of [...fresh.childNodes]) {
      let found = place;
      // One with an id may stand further down: transfers come and go above it.
      if (wanted.id) while (found !== null && !same(found, wanted)) found = found.nextSibling;
      if (found !== null && same(found, wanted)) {
        if (found !== place) old.insertBefore(found, place);
        else place = place.nextSibling;
        adjust(found, wanted);
      } else {
        old.insertBefore(document.adoptNode(wanted), place);
      }
    }
    while (place !== null) {
      const next = place.nextSibling;
      place.remove();
      place = next;
    }
  };

  const states = () => new Map([...live.querySelectorAll("[data-state]")].map((e) => [e.id, e]));

  const show = (text) => {
    const before = new Map([...states()].map(([id, e]) => [id, e.dataset.state]));
    // A document made of text runs nothing.
    const fresh = new DOMParser().parseFromString(text, "text/html").body;
    document.dispatchEvent(new CustomEvent("times", {detail: fresh}));
    children(live, fresh);
    const changed = [...states()].filter(([id, e]) => before.has(id) && before.get(id) !== e.dataset.state);
    if (changed.length) news.textContent = changed.map(([, e]) => `${e.querySelector("h3").textContent.trim()}: ${e.dataset.state}`).join("; ");
  };

  const delay = () => {
    const usual = live.querySelector("[data-moving=yes]") ? MOVING : RESTING;
    return failures ? Math.min(SLOWEST, usual * 2 ** failures) : usual;
  };

  const ask = async () => {
    if (asking || document.hidden) return;
    asking = true;
    clearTimeout(timer);
    try {
      const address = new URL(location.href);
      address.hash = "";
      address.searchParams.delete("done");
      address.searchParams.set("part", "1");
      const headers = {Accept: "text/html", ...(tag ? {"If-None-Match": tag} : {})};
      const reply = await fetch(address, {headers, redirect: "error", cache: "no-store", credentials: "same-origin"});
      if (reply.status === 401 || reply.status === 404) {
        gone.hidden = reply.status !== 401;
        silence.hidden = true;
        return;
      }
      if (reply.status === 200) {
        show(await reply.text());
        tag = reply.headers.get("ETag") ?? "";
      } else if (reply.status !== 304) {
        throw new Error(String(reply.status));
      }
      failures = 0;
      silence.hidden = true;
    } catch {
      failures = Math.min(failures + 1, 6);
      silence.hidden = failures < 2;
    } finally {
      asking = false;
    }
    timer = setTimeout(ask, delay());
  };

  timer = setTimeout(ask, delay());
  document.addEventListener("visibilitychange", () => { if (!document.hidden && gone.hidden) ask(); });
})();
