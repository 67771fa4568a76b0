// Refreshes the parts of a page that have data-live (seconds), by fetching the page again.
const parts = () => [...document.querySelectorAll("[data-live]")];
const button = document.querySelector("[data-live-button]");
let live = true;
let busy = false;

async function refresh() {
  const active = document.activeElement;
  const inside = parts().some((part) => part.contains(active));
  if (!live || busy || document.hidden || inside || !getSelection().isCollapsed) return;
  busy = true;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    const now = parts();
    const next = [...fresh.querySelectorAll("[data-live]")];
    document.body.classList.toggle("stale", next.length !== now.length);
    if (next.length === now.length) now.forEach((part, place) => part.replaceWith(next[place]));
  } catch {
    document.body.classList.add("stale");
  } finally {
    busy = false;
  }
}

if (button && parts().length) {
  const seconds = Math.max(2, Number(parts()[0].dataset.live));
  button.hidden = false;
  button.addEventListener("click", () => {
    live = !live;
    button.setAttribute("aria-pressed", String(live));
    refresh();
  });
  setInterval(refresh, seconds * 1000);
}

// "/" moves to the first field of a form, as in other tools.
document.addEventListener("keydown", (event) => {
  const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement?.tagName ?? "");
  if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const field = document.querySelector("main form input, main form textarea");
  if (field) {
    event.preventDefault();
    field.focus();
  }
});
