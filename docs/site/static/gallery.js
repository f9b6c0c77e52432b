// What scrolls sideways can be reached by keyboard.
for (const part of document.querySelectorAll(".table-wrapper, .highlight pre, .pictures")) {
  part.tabIndex = 0;
}

// Filters of the gallery: words, family, capability and status, kept in the address.
(() => {
  const form = document.querySelector(".filters");
  if (!form) return;
  const cards = [...document.querySelectorAll(".card")];
  const count = form.querySelector(".count");

  const chosen = () => Object.fromEntries([...new FormData(form)].filter(([, value]) => value));

  function show() {
    const wanted = chosen();
    let shown = 0;
    for (const card of cards) {
      const { family, needs, status, models } = card.dataset;
      const text = `${card.querySelector("b").textContent} ${models}`.toLowerCase();
      const fits =
        (!wanted.words || wanted.words.toLowerCase().split(/\s+/).every((w) => text.includes(w))) &&
        (!wanted.family || wanted.family === family) &&
        (!wanted.needs || needs.split(" ").includes(wanted.needs)) &&
        (!wanted.status || wanted.status === status);
      card.hidden = !fits;
      shown += fits;
    }
    count.textContent = `${shown} of ${cards.length}`;
  }

  function keep() {
    const state = String(new URLSearchParams(chosen()));
    history.replaceState(null, "", state ? `#${state}` : location.pathname);
  }

  // Also when the address changes while the page is open: a link, or one typed in.
  function restore() {
    const kept = new URLSearchParams(location.hash.slice(1));
    for (const input of form.querySelectorAll("[name]")) input.value = kept.get(input.name) ?? "";
    show();
  }

  addEventListener("hashchange", restore);
  form.addEventListener("input", () => {
    show();
    keep();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  restore();
})();
