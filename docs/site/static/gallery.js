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

  function apply() {
    const chosen = Object.fromEntries([...new FormData(form)].filter(([, value]) => value));
    let shown = 0;
    for (const card of cards) {
      const { family, needs, status, models } = card.dataset;
      const text = `${card.querySelector("b").textContent} ${models}`.toLowerCase();
      const fits =
        (!chosen.words || chosen.words.toLowerCase().split(/\s+/).every((w) => text.includes(w))) &&
        (!chosen.family || chosen.family === family) &&
        (!chosen.needs || needs.split(" ").includes(chosen.needs)) &&
        (!chosen.status || chosen.status === status);
      card.hidden = !fits;
      shown += fits;
    }
    count.textContent = `${shown} of ${cards.length}`;
    history.replaceState(null, "", `#${new URLSearchParams(chosen)}`);
  }

  for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
    if (form.elements[name]) form.elements[name].value = value;
  }
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  apply();
})();
