// What the pages do more with JavaScript than without: times of the reader's zone, copying, uploads.
"use strict";

(() => {
  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };

  // --- times ---
  const format = new Intl.DateTimeFormat(undefined, {dateStyle: "medium", timeStyle: "short"});
  const localize = (root) => {
    for (const element of root.querySelectorAll("time[datetime]")) {
      const moment = new Date(element.dateTime);
      if (!Number.isNaN(moment.getTime())) element.textContent = format.format(moment);
    }
  };
  localize(document);
  document.addEventListener("times", (event) => localize(event.detail));

  // --- copying ---
  const copy = async (source) => {
    try {
      await navigator.clipboard.writeText(source.textContent);
      return true;
    } catch {
      // Without HTTPS there is no clipboard to write to: mark the text and ask the browser to copy it.
      const selection = getSelection();
      selection.selectAllChildren(source);
      return document.execCommand("copy");
    }
  };
  for (const button of document.querySelectorAll("button.copy")) {
    const source = button.closest(".command, .checksum").querySelector("code");
    const label = button.firstChild;
    button.hidden = false;
    button.addEventListener("click", async () => {
      label.data = (await copy(source)) ? "Copied" : "Marked: press Ctrl+C";
      setTimeout(() => { label.data = "Copy"; }, 2500);
    });
  }

  // --- asking before something is taken away ---
  for (const form of document.querySelectorAll("form[data-ask]")) {
    form.addEventListener("submit", (event) => {
      if (!confirm(form.dataset.ask)) event.preventDefault();
    });
  }

  // --- uploads ---
  const area = document.getElementById("upload");
  if (area === null) return;
  const AT_ONCE = 2;
  const single = "single" in area.dataset;
  const drop = area.querySelector(".drop");
  const pick = document.getElementById("pick");
  const list = area.querySelector(".uploads");
  const after = area.querySelector(".after");
  const waiting = [];
  const running = new Set();
  let finished = 0;

  const units = ["B", "kB", "MB", "GB", "TB"];
  const size = (count) => {
    let unit = 0;
    while (count >= 999.95 && unit < units.length - 1) { count /= 1000; unit += 1; }
    return `${unit ? count.toFixed(1) : count} ${units[unit]}`;
  };
  // As the server shows names: nothing hidden, nothing that reorders.
  const visible = (name) => name.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (c) => `[U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}]`);

  const says = (item, text, kind = "") => {
    item.says.textContent = text;
    item.says.className = `says ${kind}`;
  };
  const offer = (item, label, action, kind = "") => {
    const button = make("button", {type: "button", className: `small ${kind}`}, label, make("span", {className: "away"}, ` ${visible(item.file.name)}`));
    button.addEventListener("click", () => { item.buttons.replaceChildren(); action(); });
    item.buttons.append(button);
  };

  const target = (file) => (single ? area.dataset.href : area.dataset.href + encodeURIComponent(file.name));

  const explain = (request) => {
    let text = "";
    try { text = JSON.parse(request.responseText).errorMessage ?? ""; } catch { /* not ours: say what the status does */ }
    if (text) return text;
    if (request.status === 401 || request.status === 403) return "You are not allowed to write here, or the share has been changed.";
    if (request.status === 404) return "The share is not there any more.";
    if (request.status === 413 || request.status === 507) return "There is no room for this file.";
    if (request.status === 503 || request.status === 429) return "The server is too busy. Try again later.";
    return `The server answered with status ${request.status}.`;
  };

  const end = (item) => {
    running.delete(item);
    item.progress.hidden = true;
    next();
  };
  const again = (item, replace) => { item.replace = replace; says(item, "Waiting"); waiting.push(item); offerCancel(item); next(); };
  const offerCancel = (item) => {
    item.buttons.replaceChildren();
    offer(item, "Cancel", () => {
      const place = waiting.indexOf(item);
      if (place >= 0) { waiting.splice(place, 1); stopped(item); } else { item.request?.abort(); }
    });
  };
  const stopped = (item) => { says(item, "Cancelled. Nothing was stored."); offer(item, "Try again", () => again(item, item.replace)); };
  const failed = (item, text) => { says(item, text, "error"); offer(item, "Try again", () => again(item, item.replace)); };

  const send = (item) => {
    const request = new XMLHttpRequest();
    const begin = performance.now();
    item.request = request;
    running.add(item);
    item.progress.hidden = false;
    item.progress.removeAttribute("value");
    request.open("PUT", target(item.file));
    request.setRequestHeader("Accept", "application/json");
    request.setRequestHeader("Content-Type", "application/octet-stream");
    if (!item.replace) request.setRequestHeader("If-None-Match", "*");
    request.upload.addEventListener("progress", (event) => {
      if (!event.lengthComputable) return;
      const seconds = (performance.now() - begin) / 1000;
      const rate = seconds > 0.5 ? `, ${size(event.loaded / seconds)}/s` : "";
      item.progress.max = event.total || 1;
      item.progress.value = event.loaded;
      says(item, event.loaded < event.total ? `${size(event.loaded)} of ${size(event.total)}${rate}` : "Waiting for the server");
    });
    request.addEventListener("load", () => {
      item.buttons.replaceChildren();
      if (request.status >= 200 && request.status < 300) {
        finished += 1;
        says(item, "Stored", "done");
      } else if (request.status === 412) {
        says(item, "There is a file of this name already.", "error");
        offer(item, "Replace it", () => again(item, true), "bad");
      } else {
        failed(item, explain(request));
      }
      end(item);
    });
    request.addEventListener("error", () => {
      item.buttons.replaceChildren();
      failed(item, "The connection broke. Nothing was stored under this name.");
      end(item);
    });
    request.addEventListener("abort", () => { item.buttons.replaceChildren(); stopped(item); end(item); });
    request.send(item.file);
  };

  const next = () => {
    while (running.size < AT_ONCE && waiting.length > 0) send(waiting.shift());
    if (running.size || waiting.length || !finished) { after.replaceChildren(); return; }
    const text = finished === 1 ? "One file is stored. " : `${finished} files are stored. `;
    after.replaceChildren(text, make("a", {href: location.href.split("#")[0]}, "Show them in the list"));
  };

  const add = (file) => {
    try {
      encodeURIComponent(file.name);
    } catch {
      refuse(file.name, "The name is no proper text. Give the file another one.");
      return;
    }
    const item = {file, replace: single, request: null};
    item.says = make("p", {className: "says"});
    item.progress = make("progress", {hidden: true});
    item.progress.setAttribute("aria-label", `Upload of ${visible(file.name)}`);
    item.buttons = make("div", {className: "buttons"});
    const name = make("bdi", {}, visible(file.name));
    list.append(make("li", {}, make("div", {className: "what"}, name, " ", make("span", {className: "soft"}, size(file.size))), item.buttons, item.progress, item.says));
    says(item, "Waiting");
    waiting.push(item);
    offerCancel(item);
  };
  const refuse = (name, text) => list.append(make("li", {}, make("div", {className: "what"}, make("bdi", {}, visible(name))), make("p", {className: "says error"}, text)));

  const take = (files) => {
    for (const file of single ? [...files].slice(0, 1) : files) add(file);
    next();
  };

  drop.hidden = false;
  pick.addEventListener("change", () => { const files = [...pick.files]; pick.value = ""; take(files); });
  let depth = 0;
  const carries = (event) => event.dataTransfer !== null && [...event.dataTransfer.types].includes("Files");
  addEventListener("dragenter", (event) => { if (carries(event)) { depth += 1; drop.classList.add("over"); } });
  addEventListener("dragleave", (event) => { if (carries(event) && (depth -= 1) <= 0) { depth = 0; drop.classList.remove("over"); } });
  addEventListener("dragover", (event) => { if (carries(event)) event.preventDefault(); });
  addEventListener("drop", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    depth = 0;
    drop.classList.remove("over");
    const files = [];
    for (const thing of event.dataTransfer.items) {
      if (thing.kind !== "file") continue;
      const entry = thing.webkitGetAsEntry?.();
      const file = thing.getAsFile();
      if (entry?.isDirectory) refuse(entry.name, "Folders cannot be uploaded from a browser. The uftp command can do it.");
      else if (file !== null) files.push(file);
    }
    take(files);
  });
  addEventListener("beforeunload", (event) => { if (running.size || waiting.length) event.preventDefault(); });
})();
