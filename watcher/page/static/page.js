// Keeps the page current: rows that changed come by server-sent events. Without this script the page reloads itself.
"use strict";
(() => {
  const address = document.body.dataset.events;
  const live = document.getElementById("live");
  const pause = document.getElementById("pause");
  if (!address) return;
  let source = null;

  const made = (html) => {
    const template = document.createElement("template");
    template.innerHTML = html;
    return template.content.firstElementChild;
  };

  // A row that is replaced must not lose the keyboard: the same link of the new row gets the focus.
  const replace = (old, row) => {
    const links = (element) => [...element.querySelectorAll("a, button")];
    const at = links(old).indexOf(document.activeElement);
    old.replaceWith(row);
    if (at >= 0) links(row)[at]?.focus();
  };

  const show = (sections) => {
    for (const [name, { rows, order }] of Object.entries(sections)) {
      const section = document.getElementById(name);
      for (const [id, html] of Object.entries(rows)) {
        const row = made(html), old = document.getElementById(id);
        if (old) replace(old, row);
        else section.append(row);
      }
      if (!order) continue;
      const wanted = new Set(order);
      for (const row of [...section.children]) if (!wanted.has(row.id)) row.remove();
      order.forEach((id, at) => {
        const row = document.getElementById(id);
        if (section.children[at] !== row) section.insertBefore(row, section.children[at] ?? null);
      });
    }
  };

  const open = () => {
    source = new EventSource(address);
    source.addEventListener("open", () => { live.textContent = "Live"; });
    source.addEventListener("rows", (event) => show(JSON.parse(event.data)));
    source.addEventListener("error", () => {
      live.textContent = source.readyState === EventSource.CLOSED
        ? "Not live: too many viewers; reload to try again" : "Connection lost: what you see is old; trying again";
    });
  };

  pause.hidden = false;
  pause.addEventListener("click", () => {
    const pausing = source !== null;
    pause.setAttribute("aria-pressed", String(pausing));
    pause.textContent = pausing ? "Go on" : "Pause";
    if (pausing) { source.close(); source = null; live.textContent = "Paused"; } else open();
  });
  // A page that nobody sees costs the operator nothing.
  document.addEventListener("visibilitychange", () => {
    if (source === null && pause.getAttribute("aria-pressed") === "true") return;
    if (document.hidden) { source?.close(); source = null; } else if (source === null) open();
  });
  if (!document.hidden) open();
})();
